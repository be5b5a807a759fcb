/* The table of jobs: one row per job, updated and moved rather than created again, so that focus and selection stay.
   It must not know about the network.
   A new column: a cell here, its header in index.html, its width in styles/list.css, its field in job-list.js, in the
   fingerprint below if its value can change, and in filters.js if one can sort by it. */

import { hashWith, linkTo } from "../core/address.js";
import { escapeControls } from "../core/escape.js";
import { formatDuration } from "../core/format.js";
import { createBadge } from "../ui/badge.js";
import { createCopyButton } from "../ui/clipboard.js";
import { $, createElement, setText } from "../ui/dom.js";
import { createAge, createElapsed } from "../ui/time-elements.js";

const MAX_COMMAND = 500; // characters: more than a row can show

const container = $("rows");
const rows = new Map(); // by job id

/** Show these jobs in this order; `openId` is the job that is open beside the list. */
export function showRows(jobs, openId) {
  const listed = new Set(jobs.map((job) => job.id));
  for (const id of [...rows.keys()].filter((each) => !listed.has(each))) {
    rows.get(id).element.remove();
    rows.delete(id);
  }
  let current = container.firstElementChild;
  for (const job of jobs) {
    const { element } = updateRow(job, openId);
    if (element === current) current = current.nextElementSibling;
    else container.insertBefore(element, current);
  }
}

/** Move the focus to the next job (1) or the previous one (-1). */
export function moveFocus(offset) {
  const links = [...container.querySelectorAll(".job-link")];
  const index = links.findIndex((link) => link.closest(".row").matches(":focus-within, [data-open]"));
  links[Math.min(links.length - 1, Math.max(0, index < 0 ? 0 : index + offset))]?.focus();
}

/** Move the focus to this job. */
export function focusRow(id) {
  rows.get(id)?.element.querySelector(".job-link")?.focus();
}

/** Show a message below the table. */
export function showListStatus(text) {
  setText($("list-status"), text);
}

function updateRow(job, openId) {
  let row = rows.get(job.id);
  if (!row) rows.set(job.id, (row = { element: createElement("div", { role: "row", class: "row" }), fingerprint: "" }));
  const fingerprint = JSON.stringify([job.state, job.cancelling, job.ending, job.exit_code, job.signal, job.started,
    job.duration, job.queue, job.attempt]);
  if (fingerprint !== row.fingerprint || job !== row.job) {
    const focused = row.element.contains(document.activeElement) && document.activeElement.className;
    Object.assign(row, { fingerprint, job });
    row.element.replaceChildren(...createCells(job));
    if (focused) row.element.getElementsByClassName(focused)[0]?.focus();
  }
  row.element.toggleAttribute("data-open", job.id === openId);
  row.element.querySelector(".job-link").href = hashWith({ job: String(job.id) });
  return row;
}

function createCells(job) {
  const link = createElement("a", { class: "job-link", ...linkTo({ job: String(job.id) }) }, escapeControls(job.command, MAX_COMMAND));
  return [
    createCell("state", createBadge(job), job.attempt > 1 ? createAttempt(job.attempt) : null),
    createCell("command", createElement("span", { class: "job-id" }, String(job.id)), link, createCopyButton("Command", () => job.command)),
    createCell("queue", ...createLabels(job)),
    createCell("accepted", createAge(job.created)),
    createCell("time", ...createTime(job)),
  ];
}

function createCell(column, ...children) {
  return createElement("span", { role: "cell", class: `column-${column}` }, ...children);
}

function createAttempt(number) {
  return createElement("span", { class: "attempt", title: `Attempt ${number}` }, `×${number}`);
}

function createLabels(job) {
  const labels = Object.entries(job.labels || {}).map(([name, value]) => {
    const title = `Only jobs with ${escapeControls(`${name}=${value}`, 300)}`;
    return createElement("a", { class: "chip", ...linkTo({ label: `${name}:${value}` }), title }, escapeControls(`${name}=${value}`, 60));
  });
  const queue = job.queue && job.queue !== "default" ? [createElement("span", { class: "queue" }, job.queue)] : [];
  return [...queue, ...labels];
}

function createTime(job) {
  if (job.state === "running" && job.started) return [createElapsed(job.started)];
  return job.duration == null ? [] : [formatDuration(job.duration)];
}
