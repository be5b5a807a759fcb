/* What can be done with a job: the buttons of its view, which of them are shown in which state, and the requests. */

import { request } from "../core/api.js";
import { may } from "../core/identity.js";
import { confirm } from "../ui/dialogs.js";
import { $, createElement, setText } from "../ui/dom.js";

const SIGNALS = [
  ["SIGINT", "as Ctrl+C does"], ["SIGTERM", "requests termination"], ["SIGHUP", "often reloads the configuration"],
  ["SIGQUIT", "as Ctrl+\\ does"], ["SIGUSR1", ""], ["SIGUSR2", ""], ["SIGWINCH", ""], ["SIGKILL", "kills it at once"],
];

const isHeld = (job) => job.pending?.reason === "held"; // which comes before all other reasons

export class JobActions {
  #job = null; // with its status
  #listener;

  /** `listener` has again(job) and edit(job), which ask for more; changed() after the service has done something;
      deleted(id); and failed(message). */
  constructor(listener) {
    this.#listener = listener;
    const buttons = {
      "job-cancel": () => this.cancel(), "job-rerun": () => this.rerun(), "job-delete": () => this.delete(),
      "job-edit": () => this.edit(), "job-hold": () => this.toggleHold(), "job-pause": () => this.togglePause(),
    };
    for (const [id, action] of Object.entries(buttons)) $(id).addEventListener("click", action);
    this.#wireSignals();
  }

  /** Show the buttons that make sense for a job with its status, or for none; `available` is whether it still exists. */
  show(job, available = true) {
    this.#job = available ? job : null;
    const [runs, waits] = [job?.state === "running", job !== null && !job.done && job.state !== "running"];
    const shown = {
      "job-cancel": runs || waits, "job-delete": job?.done, "job-rerun": job, "job-edit": waits,
      "job-hold": waits, "job-pause": runs, "job-signal": runs,
    };
    for (const [id, wanted] of Object.entries(shown)) {
      $(id).hidden = !wanted || !may("run");
      if ($(id).tagName === "BUTTON") $(id).disabled = !available || Boolean(job?.cancelling && id !== "job-rerun");
    }
    if (waits) setText($("job-hold"), isHeld(job) ? "Release" : "Hold");
    if (runs) setText($("job-pause"), job.paused ? "Resume" : "Pause");
  }

  async cancel() {
    if (!this.#allows((job) => !job.done && !job.cancelling)) return;
    const id = this.#job.job_id;
    const text = this.#job.state === "running" ? "The command and all processes that it started will be terminated." : "It will not be started.";
    if (await confirm(`Cancel job ${id}?`, text, "Cancel job")) await this.#send("POST", `/api/jobs/${id}/cancel`);
  }

  async delete() {
    if (!this.#allows((job) => job.done)) return;
    const id = this.#job.job_id;
    if (!(await confirm(`Delete job ${id}?`, "Its result and all of its output will be deleted too.", "Delete job"))) return;
    if (await this.#send("DELETE", `/api/jobs/${id}`)) this.#listener.deleted(id);
  }

  rerun() {
    if (this.#allows(() => true)) this.#listener.again(this.#job);
  }

  edit() {
    if (this.#allows((job) => !job.done && job.state !== "running")) this.#listener.edit(this.#job);
  }

  async toggleHold() {
    if (!this.#allows((job) => !job.done && job.state !== "running")) return;
    const body = { held: !isHeld(this.#job) };
    await this.#send("PATCH", `/api/jobs/${this.#job.job_id}`, { body });
  }

  async togglePause() {
    if (!this.#allows((job) => job.state === "running")) return;
    await this.#send("POST", `/api/jobs/${this.#job.job_id}/${this.#job.paused ? "resume" : "pause"}`);
  }

  #allows(condition) {
    return this.#job !== null && may("run") && condition(this.#job);
  }

  #wireSignals() {
    const items = SIGNALS.map(([name, meaning]) => {
      const button = createElement("button", { type: "button", class: "subtle", "data-signal": name }, name, createElement("small", {}, meaning));
      return createElement("li", {}, button);
    });
    $("job-signal").querySelector("ul").prepend(...items);
    $("job-signal").addEventListener("click", (event) => {
      const signal = event.target.closest("[data-signal]")?.dataset.signal;
      if (!signal || !this.#allows((job) => job.state === "running")) return;
      $("job-signal").open = false;
      const to = $("job-signal-tree").checked ? "tree" : "group";
      this.#send("POST", `/api/jobs/${this.#job.job_id}/signal`, { body: { signal, to } });
    });
  }

  async #send(method, path, options) {
    try {
      await request(method, path, options);
      this.#listener.failed("");
      this.#listener.changed();
      return true;
    } catch (error) {
      this.#listener.failed(error.message);
      return false;
    }
  }
}
