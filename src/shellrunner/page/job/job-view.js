/* The view of one job: its details, its output, how it ended, and the actions on it. */

import { hashWith, navigate } from "../core/address.js";
import { get, isTransient } from "../core/api.js";
import { escapeControls } from "../core/escape.js";
import { describeDetail, describePending, describeUnreachable, stateLabel, stateTone } from "../core/labels.js";
import { oncePerFrame } from "../core/scheduling.js";
import { announce } from "../ui/announcer.js";
import { createBadge } from "../ui/badge.js";
import { wireCopyButton } from "../ui/clipboard.js";
import { $, replaceKeepingFocus, setText, setTextOrHide } from "../ui/dom.js";
import { notifyIfHidden } from "../ui/notifications.js";
import { onHidden } from "../ui/visibility.js";
import { JobActions } from "./actions.js";
import { showAttempts } from "./attempts.js";
import { createDetails } from "./details.js";
import { OutputPanel } from "./output-panel.js";
import { showInTab } from "./tab-title.js";

const RETRY_DELAY = 3000; // milliseconds
const POLL_INTERVAL = 3000; // milliseconds, in a hidden tab
const USAGE_INTERVAL = 2000; // milliseconds
const REASON_INTERVAL = 5000; // milliseconds
const MAX_NOTIFICATION = 200; // characters
const UNKNOWN_STATUS = { started: null, completed: null, ending: null, exit_code: null, signal: null, attempt: 1, cancelling: false };

export class JobView {
  #output;
  #actions;
  #id = null;
  #line = 0; // of the output that is shown, or 0 to follow it
  #job = null;
  #status = null;
  #result = null;
  #usage = null; // of a running job, at the moment
  #error = ""; // why the job cannot be shown, or not any more
  #retryTimer = null;
  #pollTimer = null; // set while the tab is suspended
  #scheduleRender = oncePerFrame(() => this.#render());

  /** `again(job)` is called to run the job again, `edit(job)` to change it, `close()` to close the view. */
  constructor({ again, edit, close }) {
    this.#actions = new JobActions({
      again,
      edit,
      changed: () => this.#fetchAgain(),
      deleted: (id) => this.showDeleted(id),
      failed: (message) => setTextOrHide($("job-message"), message),
    });
    this.#output = new OutputPanel({
      status: (status) => this.#update(status),
      done: () => this.#fetchResult(),
      failed: (status) => this.#failed(status),
      line: (line) => this.#setLine(line),
    });
    $("job-close").addEventListener("click", (event) => {
      event.preventDefault();
      close();
    });
    setInterval(() => document.hidden || this.#pollReason(), REASON_INTERVAL);
    setInterval(() => document.hidden || this.#fetchUsage(), USAGE_INTERVAL);
    onHidden({ suspend: () => this.#suspend(), resume: () => this.#resume() });
    wireCopyButton($("job-copy-command"), "Command", () => this.#job?.command ?? "");
  }

  get id() {
    return this.#id;
  }

  get output() {
    return this.#output;
  }

  get actions() {
    return this.#actions;
  }

  /** Show this job, or none for null; and this line of its output, or what follows for 0. */
  async open(id, line = 0) {
    if (id === this.#id) return this.#openLine(line);
    this.close();
    if (id === null) return;
    this.#id = id;
    $("job").hidden = false;
    document.body.classList.add("job-open");
    setText($("job-name"), `Job ${id}`);
    $("job").setAttribute("aria-busy", "true");
    setText($("job-loading"), "Loading…");
    if (!document.querySelector(".list").offsetParent) $("job").focus(); // on a narrow screen it replaces the list
    await this.#fetchJob(id);
    if (this.#id === id) this.#openLine(line);
  }

  #openLine(line) {
    if (line === this.#line || !this.#job) return;
    this.#line = line;
    this.#output.showLine(line);
  }

  /** Put the line that is shown into the address, which then is a link to it. */
  #setLine(line) {
    if (line === this.#line) return;
    this.#line = line;
    navigate({ job: line ? `${this.#id}-${line}` : String(this.#id) }, { replace: true });
  }

  async #fetchJob(id) {
    try {
      const job = await get(`/api/jobs/${id}`);
      if (this.#id !== id) return;
      this.#job = job;
      this.#error = "";
      this.#status = { ...UNKNOWN_STATUS, state: job.state, done: job.done };
      this.#output.open(job);
    } catch (error) {
      if (this.#id !== id) return;
      this.#error = error.message;
      $("job").toggleAttribute("data-missing", !isTransient(error));
      this.#output.showUnavailable(isTransient(error) ? "waiting" : "failed");
      if (isTransient(error)) this.#retryTimer = setTimeout(() => this.#fetchJob(id), RETRY_DELAY);
    }
    $("job").removeAttribute("aria-busy");
    setText($("job-loading"), "");
    this.#render();
  }

  close() {
    this.#output.close();
    this.#id = this.#job = this.#status = this.#result = this.#usage = null;
    this.#line = 0;
    this.#error = "";
    clearTimeout(this.#retryTimer);
    clearInterval(this.#pollTimer);
    this.#pollTimer = null;
    $("job").hidden = true;
    $("job").removeAttribute("data-missing");
    document.body.classList.remove("job-open");
    this.#clear();
    showInTab(null);
  }

  /** Show that a job was deleted, if it is the one shown. */
  showDeleted(id) {
    if (id !== this.#id) return;
    this.#output.close();
    this.#error = `Job ${id} was deleted`;
    this.#render();
  }

  /** Show again what this person may do with the job. */
  refresh() {
    this.#render();
  }

  /** Show this job document, which the service has just answered. */
  showChanged(job) {
    if (!this.#job || job.job_id !== this.#id) return;
    this.#job = job;
    this.#render();
  }

  /** Poll the job's state instead of streaming it, so that the title and the icon of a hidden tab stay correct. */
  #suspend() {
    if (!this.#job || this.#status.done || this.#error) return;
    this.#output.suspend();
    this.#pollTimer = setInterval(() => this.#poll(this.#id), POLL_INTERVAL);
  }

  async #poll(id) {
    const job = await get(`/api/jobs/${id}`).catch(() => null);
    if (!job || this.#id !== id || this.#pollTimer === null) return;
    if (job.done) this.#resume();
    else this.#update({ ...this.#status, state: job.state });
  }

  /** Fetch why the job waits, which may change without an event. */
  async #pollReason() {
    const id = this.#id;
    if (!this.#job || this.#error || this.#status.done || this.#status.state === "running") return;
    const status = await get(`/api/statuses/${id}`).catch(() => null);
    if (this.#id === id && status?.done === false && status.state === this.#status.state) this.#update(status);
  }

  /** Fetch what the job uses at the moment, which makes no event. */
  async #fetchUsage() {
    const id = this.#id;
    if (this.#error || this.#status?.state !== "running") return;
    const usage = await get(`/api/statuses/${id}/usage`).catch(() => null);
    if (this.#id !== id) return;
    this.#usage = usage;
    this.#scheduleRender();
  }

  #resume() {
    if (this.#pollTimer === null) return;
    clearInterval(this.#pollTimer);
    this.#pollTimer = null;
    this.#output.resume();
  }

  /** Fetch the job's document again, after it was changed. */
  async #fetchAgain() {
    const id = this.#id;
    const job = await get(`/api/jobs/${id}`).catch(() => null);
    if (job) this.showChanged(job);
  }

  #update(status) {
    this.#status = status;
    this.#scheduleRender();
  }

  async #fetchResult() {
    const id = this.#id;
    const documents = await Promise.all([get(`/api/jobs/${id}`), get(`/api/results/${id}`)]).catch((error) => error);
    if (this.#id !== id) return;
    if (documents instanceof Error) {
      if (isTransient(documents)) this.#retryTimer = setTimeout(() => this.#fetchResult(), RETRY_DELAY);
      return;
    }
    const [job, result] = documents;
    this.#job = job;
    this.#result = result;
    announce(`Job ${id}: ${stateLabel(this.#status)}`);
    notifyIfHidden(`Job ${id}: ${stateLabel(this.#status)}`, escapeControls(job.name ?? job.command, MAX_NOTIFICATION), `job-${id}`);
    this.#render();
    await showAttempts(result, () => this.#id === id);
  }

  #failed(status) {
    this.#error = { 404: `Job ${this.#id} was deleted`, 410: "The result of this job was deleted" }[status]
      ?? `The service refused to stream this job (status ${status})`;
    this.#render();
  }

  #render() {
    if (!this.#job) return setTextOrHide($("job-message"), this.#error);
    const job = { ...this.#job, ...this.#status };
    $("job-badge").replaceChildren(createBadge(job));
    setTextOrHide($("job-same-name"), job.name);
    if (job.name) $("job-same-name").href = hashWith({ name: job.name, job: "" });
    setText($("job-command"), escapeControls(job.command));
    const reason = job.done ? "" : job.unreachable ? describeUnreachable(job.unreachable) : describePending(job.pending);
    setTextOrHide($("job-pending"), escapeControls(reason));
    setTextOrHide($("job-message"), this.#error || escapeControls(describeDetail(this.#result?.detail || "")));
    $("job-message").dataset.tone = this.#error ? "failure" : stateTone(job);
    replaceKeepingFocus($("job-details"), ...createDetails(this.#job, this.#status, this.#result, this.#usage));
    this.#actions.show(job, !this.#error);
    this.#output.refresh();
    showInTab(job);
  }

  #clear() {
    $("job-badge").replaceChildren();
    $("job-details").replaceChildren();
    setText($("job-command"), "");
    setTextOrHide($("job-message"), "");
    setTextOrHide($("job-pending"), "");
    setText($("job-loading"), "");
    setTextOrHide($("job-same-name"), "");
    $("job-attempts").hidden = true;
    this.#actions.show(null);
  }
}
