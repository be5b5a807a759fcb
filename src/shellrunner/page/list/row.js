/* One row of the table of jobs. It must not know about the network. */

import { hashWith, linkTo } from "../core/address.js";
import { escapeControls } from "../core/escape.js";
import { formatDuration } from "../core/format.js";
import { describePending, describeUnreachable } from "../core/labels.js";
import { createBadge } from "../ui/badge.js";
import { createCopyButton } from "../ui/clipboard.js";
import { createElement } from "../ui/dom.js";
import { createAge, createElapsed } from "../ui/time-elements.js";
import { isSelected, select } from "./selection.js";

const MAX_COMMAND = 500; // characters: more than a row can show
const MAX_LABELS = 8;

export class JobRow {
  #job = null;
  #fingerprint = "";
  #id;
  #checkbox;

  /** `listIds()` returns the ids of all rows, for a range of them to be selected. */
  constructor(id, listIds) {
    this.#id = id;
    this.element = createElement("div", { role: "row", class: "row", "data-job": String(id) });
    const onclick = (event) => select(id, this.#checkbox.checked, event.shiftKey ? listIds() : null);
    this.#checkbox = createElement("input", { type: "checkbox", "aria-label": `Select job ${id}`, onclick });
  }

  update(job, openId) {
    const fingerprint = JSON.stringify([job.state, job.cancelling, job.paused, job.ending, job.exit_code, job.signal, job.started,
      job.duration, job.queue, job.name, job.labels, job.attempt, job.pending, job.host, job.unreachable]);
    if (fingerprint !== this.#fingerprint || job !== this.#job) {
      this.#fingerprint = fingerprint;
      this.#job = job;
      this.#replaceCells(job);
    }
    this.#checkbox.checked = isSelected(this.#id);
    this.element.toggleAttribute("data-open", this.#id === openId);
    this.element.toggleAttribute("data-selected", this.#checkbox.checked);
    this.element.querySelector(".job-link").href = hashWith({ job: String(this.#id) });
  }

  #replaceCells(job) {
    const focused = this.element.contains(document.activeElement) && document.activeElement;
    this.element.replaceChildren(createCell("select", this.#checkbox), ...createCells(job));
    if (!focused) return;
    if (focused === this.#checkbox) focused.focus();
    else this.element.getElementsByClassName(focused.className)[0]?.focus();
  }
}

function createCells(job) {
  return [
    createCell("state", createBadge(job), job.attempt > 1 ? createAttempt(job.attempt) : null),
    createCell("command", createCommand(job), createReason(job)),
    createCell("queue", ...createQueue(job)),
    createCell("host", ...createHost(job)),
    createCell("labels", ...createLabels(job)),
    createCell("accepted", createAge(job.created)),
    createCell("time", ...createTime(job)),
  ];
}

function createCell(column, ...children) {
  return createElement("span", { role: "cell", class: `column-${column}` }, ...children);
}

function createCommand(job) {
  const command = escapeControls(job.command, MAX_COMMAND);
  const name = job.name ? [createElement("b", {}, job.name), " "] : [];
  const link = createElement("a", { class: "job-link", title: command, ...linkTo({ job: String(job.id) }) }, ...name, command);
  return createElement("span", { class: "command-line" },
    createElement("span", { class: "job-id" }, String(job.id)), link, createCopyButton("Command", () => job.command));
}

function createReason(job) {
  const pending = job.state === "queued" || job.state === "waiting" ? describePending(job.pending) : "";
  const reason = job.unreachable ? describeUnreachable(job.unreachable) : pending;
  return reason ? createElement("span", { class: "reason", title: escapeControls(reason) }, escapeControls(reason, 300)) : null;
}

function createAttempt(number) {
  return createElement("span", { class: "attempt", title: `Attempt ${number}` }, `×${number}`);
}

function createQueue(job) {
  return job.queue && job.queue !== "default" ? [createElement("a", { class: "queue", ...linkTo({ queue: job.queue }) }, job.queue)] : [];
}

function createHost(job) {
  return job.host ? [createElement("a", { class: "queue", ...linkTo({ host: job.host }) }, job.host)] : [];
}

function createLabels(job) {
  const labels = Object.entries(job.labels || {}).slice(0, MAX_LABELS);
  return labels.map(([name, value]) => {
    const title = `Only jobs with ${escapeControls(`${name}=${value}`, 300)}`;
    return createElement("a", { class: "chip", ...linkTo({ label: `${name}:${value}` }), title }, escapeControls(`${name}=${value}`, 60));
  });
}

function createTime(job) {
  if (job.state === "running" && job.started) return [createElapsed(job.started)];
  return job.duration == null ? [] : [formatDuration(job.duration)];
}
