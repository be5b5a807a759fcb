/* The dialog that offers earlier jobs as templates: each name and each command once, the latest job of it. */

import { get } from "../core/api.js";
import { escapeControls } from "../core/escape.js";
import { throttle } from "../core/scheduling.js";
import { $, createElement, setTextOrHide } from "../ui/dom.js";

const MAX_JOBS = 200;
const MAX_SHOWN = 30;
const MAX_COMMAND = 300; // characters
const TYPING_DELAY = 200; // milliseconds
const FIELDS = "job_id,name,command,queue,labels";

let choose = () => {};
const search = throttle(TYPING_DELAY, showFound);

/** Open the dialog; `onChosen(job)` is called with the job that was chosen. */
export function openTemplates(onChosen) {
  choose = onChosen;
  $("template-search").value = "";
  $("template-search").oninput = search;
  $("templates").showModal();
  showFound();
}

async function showFound() {
  const query = new URLSearchParams({ fields: FIELDS, limit: MAX_JOBS });
  if ($("template-search").value.trim()) query.set("q", $("template-search").value.trim());
  setTextOrHide($("template-status"), $("template-list").children.length ? "" : "Loading…");
  try {
    const { jobs } = await get(`/api/jobs?${query}`);
    const found = latestOfEach(jobs).slice(0, MAX_SHOWN);
    $("template-list").replaceChildren(...found.map(createItem));
    setTextOrHide($("template-status"), found.length ? "" : "No earlier job matches");
  } catch (error) {
    setTextOrHide($("template-status"), error.message);
  }
}

function latestOfEach(jobs) {
  const seen = new Set();
  return jobs.filter(({ name, command }) => {
    const key = name ?? `\0${command}`;
    return !seen.has(key) && seen.add(key);
  });
}

function createItem({ job_id: id, name, command, queue, labels }) {
  const about = [queue === "default" ? "" : queue, ...Object.entries(labels || {}).map((label) => label.join("="))].filter((each) => each);
  const button = createElement("button", { type: "button", class: "template", onclick: () => take(id) },
    name ? createElement("b", {}, name) : null,
    createElement("code", {}, escapeControls(command, MAX_COMMAND)),
    createElement("small", {}, escapeControls(about.join(" · "), MAX_COMMAND)));
  return createElement("li", {}, button);
}

async function take(id) {
  try {
    const job = await get(`/api/jobs/${id}`);
    $("templates").close();
    choose(job);
  } catch (error) {
    setTextOrHide($("template-status"), error.message);
  }
}
