/* The list on the screen: one row a job, kept and moved rather than made anew. Knows no network. */

import { $, make, write } from "../ui/dom.js";
import { badge } from "../ui/badge.js";
import { changed, link } from "../core/address.js";
import { copyButton } from "../ui/clipboard.js";
import { duration, running, since } from "../ui/time-elements.js";
import { plain } from "../core/escape.js";

const LONGEST = 500; // characters of a command: a row shows fewer

const rows = $("rows");
const made = new Map();

/** Show these jobs in this order; `open` is the id of the one that is looked at. */
export function show(jobs, open) {
  const wanted = new Set(jobs.map((job) => job.id));
  for (const id of [...made.keys()].filter((each) => !wanted.has(each))) {
    made.get(id).element.remove();
    made.delete(id);
  }
  let place = rows.firstElementChild;
  for (const job of jobs) {
    const { element } = rowOf(job, open);
    if (element === place) place = place.nextElementSibling;
    else rows.insertBefore(element, place);
  }
}

/** Move to the next (1) or previous (-1) job; returns its link. */
export function step(by) {
  const links = [...rows.querySelectorAll(".open")];
  const here = links.findIndex((link) => link.closest(".row").matches(":focus-within, [data-open]"));
  const link = links[Math.min(links.length - 1, Math.max(0, here < 0 ? 0 : here + by))];
  link?.focus();
  return link;
}

/** Put the focus on the link of this job. */
export function focusOn(id) {
  made.get(id)?.element.querySelector(".open")?.focus();
}

function rowOf(job, open) {
  let row = made.get(job.id);
  if (!row) made.set(job.id, (row = { element: make("div", { role: "row", class: "row" }), said: "" }));
  const said = JSON.stringify([job.state, job.cancelling, job.ending, job.exit_code, job.signal, job.started, job.duration,
    job.queue, job.attempt]);
  if (said !== row.said || job !== row.job) {
    const focused = row.element.contains(document.activeElement) && document.activeElement.className;
    Object.assign(row, { said, job });
    row.element.replaceChildren(...cells(job));
    if (focused) row.element.getElementsByClassName(focused)[0]?.focus();
  }
  row.element.toggleAttribute("data-open", job.id === open);
  row.element.querySelector(".open").href = changed({ job: String(job.id) });
  return row;
}

function cells(job) {
  const open = make("a", { class: "open", ...link({ job: String(job.id) }) }, plain(job.command, LONGEST));
  return [
    cell("c-state", badge(job), job.attempt > 1 ? make("span", { class: "tries", title: `attempt ${job.attempt}` }, `×${job.attempt}`) : null),
    cell("c-command", make("span", { class: "number" }, String(job.id)), open, copyButton("the command", () => job.command)),
    cell("c-queue", ...queueOf(job)),
    cell("c-when", since(job.created)),
    cell("c-time", ...timeOf(job)),
  ];
}

function cell(name, ...children) {
  return make("span", { role: "cell", class: name }, ...children);
}

function queueOf(job) {
  const labels = Object.entries(job.labels || {}).map(([name, value]) =>
    make("a", { class: "chip", ...link({ label: `${name}:${value}` }), title: `Only these: ${plain(`${name}=${value}`, 300)}` }, plain(`${name}=${value}`, 60)));
  const queue = job.queue && job.queue !== "default" ? [make("span", { class: "queue" }, job.queue)] : [];
  return [...queue, ...labels];
}

function timeOf(job) {
  if (job.state === "running" && job.started) return [running(job.started)];
  return job.duration == null ? [] : [duration(job.duration)];
}

/** Say below the list what it is, or is not. */
export function foot(words) {
  write($("foot"), words);
}
