/* One job: what it is, what it writes, how it ended, and what can be done with it. */

import { $, soon, tell, write } from "../ui/dom.js";
import { badge, mark, say } from "../ui/badge.js";
import { copies } from "../ui/clipboard.js";
import { confirm } from "../ui/dialogs.js";
import { ask, get, passes } from "../core/api.js";
import { factsOf } from "./details.js";
import { plain } from "../core/escape.js";
import { showAttempts } from "./attempts.js";
import { Output } from "./output-panel.js";
import { whenUnseen } from "../core/visibility.js";
import { stateOf } from "../core/labels.js";

export class JobView {
  #output;
  #again;
  #id = null;
  #job = null;
  #status = null;
  #result = null;
  #gone = "";
  #later = null;
  #peeking = null;
  #render = soon(() => this.#show());

  /** `again` gets the job that is to be run again; `close` closes the view. */
  constructor({ again, close }) {
    this.#again = again;
    this.#output = new Output({
      status: (status) => this.#take(status),
      done: () => this.#finish(),
      over: (status) => this.#lose(status),
    });
    $("job-cancel").addEventListener("click", () => this.cancel());
    $("job-again").addEventListener("click", () => this.again());
    $("job-delete").addEventListener("click", () => this.remove());
    $("job-close").addEventListener("click", (event) => {
      event.preventDefault();
      close();
    });
    whenUnseen({ leave: () => this.#rest(), back: () => this.#wake() });
    copies($("job-copy-command"), "command", () => this.#job?.command ?? "");
  }

  get id() {
    return this.#id;
  }

  get output() {
    return this.#output;
  }

  /** Look at another job, or at none. */
  async open(id) {
    if (id === this.#id) return;
    this.close();
    if (id === null) return;
    this.#id = id;
    $("job").hidden = false;
    document.body.classList.add("open");
    write($("job-name"), `Job ${id}`);
    if (!document.querySelector(".all").offsetParent) $("job").focus(); // there is no room for both
    await this.#read(id);
  }

  async #read(id) {
    try {
      const job = await get(`/api/jobs/${id}`);
      if (this.#id !== id) return;
      this.#job = job;
      this.#gone = "";
      this.#status = { ...NOTHING, state: job.state, done: job.done };
      this.#output.open(id);
    } catch (error) {
      if (this.#id !== id) return;
      this.#gone = error.message;
      this.#output.none(passes(error) ? "waiting" : "gone");
      if (passes(error)) this.#later = setTimeout(() => this.#read(id), PAUSE);
    }
    this.#show();
  }

  close() {
    this.#output.close();
    this.#id = this.#job = this.#status = this.#result = null;
    this.#gone = "";
    clearTimeout(this.#later);
    clearInterval(this.#peeking);
    this.#peeking = null;
    $("job").hidden = true;
    document.body.classList.remove("open");
    this.#clear();
    mark(null);
  }

  /** The list's stream tells that a job was deleted. */
  deleted(id) {
    if (id !== this.#id) return;
    this.#output.close();
    this.#gone = `Job ${id} was deleted.`;
    this.#show();
  }

  async cancel() {
    if (!this.#job || this.#status.done || this.#gone) return;
    const id = this.#id;
    if (!(await confirm(`Cancel job ${id}?`, "Its command and all that it started are ended.", "Cancel the job"))) return;
    await this.#do("POST", `/api/jobs/${id}/cancel`);
  }

  async remove() {
    if (!this.#job || !this.#status.done || this.#gone) return;
    const id = this.#id;
    if (!(await confirm(`Delete job ${id}?`, "Its result and all of its output are deleted with it.", "Delete it"))) return;
    if (await this.#do("DELETE", `/api/jobs/${id}`)) this.deleted(id);
  }

  again() {
    if (this.#job) this.#again(this.#job);
  }

  async #do(verb, path) {
    try {
      await ask(verb, path);
      return true;
    } catch (error) {
      tell($("job-detail"), error.message);
      return false;
    }
  }

  /** The tab's title and icon go on saying how the job is. */
  #rest() {
    if (!this.#job || this.#status.done || this.#gone) return;
    this.#output.rest();
    this.#peeking = setInterval(() => this.#peek(this.#id), PAUSE);
  }

  async #peek(id) {
    const job = await get(`/api/jobs/${id}`).catch(() => null);
    if (!job || this.#id !== id || this.#peeking === null) return;
    if (job.done) this.#wake();
    else this.#take({ ...this.#status, state: job.state });
  }

  #wake() {
    if (this.#peeking === null) return;
    clearInterval(this.#peeking);
    this.#peeking = null;
    this.#output.wake();
  }

  #take(status) {
    this.#status = status;
    this.#render();
  }

  async #finish() {
    const id = this.#id;
    const about = await Promise.all([get(`/api/jobs/${id}`), get(`/api/results/${id}`)]).catch((error) => error);
    if (this.#id !== id) return;
    if (about instanceof Error) {
      if (passes(about)) this.#later = setTimeout(() => this.#finish(), PAUSE);
      return;
    }
    const [job, result] = about;
    this.#job = job;
    this.#result = result;
    say(`Job ${id}: ${stateOf(this.#status)}`);
    this.#show();
    await showAttempts(result);
  }

  #lose(status) {
    this.#gone = { 404: `Job ${this.#id} was deleted.`, 410: "The result of this job was deleted." }[status]
      ?? `The service refuses to show this job (${status}).`;
    this.#show();
  }

  #show() {
    if (!this.#job) return tell($("job-detail"), this.#gone);
    const job = { ...this.#job, ...this.#status };
    $("job-badge").replaceChildren(badge(job));
    write($("job-command"), plain(job.command));
    tell($("job-detail"), this.#gone || plain(this.#result?.detail || ""));
    $("job-facts").replaceChildren(...factsOf(this.#job, this.#status, this.#result));
    $("job-cancel").disabled = job.done || job.cancelling || Boolean(this.#gone);
    $("job-cancel").hidden = job.done;
    $("job-delete").hidden = !job.done;
    $("job-delete").disabled = Boolean(this.#gone);
    $("job-again").disabled = false;
    mark(job);
  }

  #clear() {
    $("job-badge").replaceChildren();
    $("job-facts").replaceChildren();
    write($("job-command"), "");
    tell($("job-detail"), "");
    $("job-attempts").hidden = true;
    $("job-cancel").hidden = $("job-delete").hidden = true;
    $("job-again").disabled = true;
  }
}

const PAUSE = 3000; // milliseconds, before what could not be read is asked for again
const NOTHING = { started: null, completed: null, ending: null, exit_code: null, signal: null, attempt: 1, cancelling: false };
