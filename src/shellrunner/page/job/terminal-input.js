/* Typing into the terminal of a job: its button, what it says, and the size. A terminal has one size, the job's; who types
   asks for that of the panel, and all others see lines as wide as they were written. */

import { createIdempotencyKey, request } from "../core/api.js";
import { may } from "../core/identity.js";
import { announce } from "../ui/announcer.js";
import { $, setText } from "../ui/dom.js";
import { Keyboard, TAKEN } from "./keyboard.js";

const RESIZE_DELAY = 100; // milliseconds: a window that is being dragged has many sizes

export class TerminalInput {
  #terminal;
  #pump = null;
  #job = null; // only one that has a terminal
  #status = null;
  #size = null; // the job's terminal, as far as it is known
  #keyboard = null; // while this page types
  #note = "";
  #resizeTimer = null;
  #name = `page-${createIdempotencyKey()}`;

  constructor(terminal) {
    this.#terminal = terminal;
    $("type").addEventListener("click", () => (this.#keyboard ? this.stop() : this.start()));
    $("input-take").addEventListener("click", () => this.start({ take: true }));
  }

  /** Show the output of a job, which `pump` transfers, on a terminal of the job's size. */
  open(job, pump) {
    this.#pump = pump;
    this.#job = job.tty ? job : null;
    $("wrap").hidden = Boolean(job.tty); // its lines are as wide as the job's terminal
    this.#setSize(job.tty && { rows: job.tty.rows, columns: job.tty.columns });
    this.render();
  }

  /** Take over the size from a status, if it has one. */
  update(status) {
    this.#status = status;
    if (status.tty && this.#job) this.#setSize(status.tty);
    if (status.state !== "running" && this.#keyboard) this.#quit("");
    this.render();
  }

  /** The job is done. */
  end() {
    this.#status = null;
    this.#quit("");
  }

  close() {
    this.#job = this.#pump = this.#status = null;
    this.#quit("");
  }

  /** Type into the job from now on, unless another terminal does; with `take` although it does. */
  async start({ take = false } = {}) {
    if (!this.#mayType || this.#keyboard) return;
    const pump = this.#pump;
    const keyboard = new Keyboard(this.#job.job_id, this.#name, (reason) => this.#quit(reason));
    this.#keyboard = keyboard;
    this.render();
    await pump.followAs(this.#name);
    const refusal = this.#keyboard === keyboard && (await keyboard.claim({ take }));
    if (this.#keyboard !== keyboard) return;
    if (refusal) return this.#quit(refusal);
    this.#terminal.setTyping((text) => keyboard.type(text));
    this.#note = "You are typing into this job. Press Ctrl+\\ to stop";
    this.render();
    announce(this.#note);
    this.fit();
  }

  /** Only watch from now on. */
  stop() {
    this.#quit("");
    $("type").focus();
  }

  /** Ask for the size of the panel, while this page types. */
  fit() {
    clearTimeout(this.#resizeTimer);
    if (this.#keyboard) this.#resizeTimer = setTimeout(() => this.#requestSize(), RESIZE_DELAY);
  }

  /** Show what can be done. */
  render() {
    $("type").hidden = !this.#mayType;
    $("type").setAttribute("aria-pressed", String(this.#keyboard !== null));
    $("input-bar").hidden = !this.#note;
    setText($("input-note"), this.#note);
    $("input-take").hidden = this.#note !== TAKEN;
  }

  /** The size of the job's terminal, or null if it has none. */
  get size() {
    return this.#size;
  }

  get #mayType() {
    return Boolean(this.#job?.stdin?.stream) && this.#status?.state === "running" && may("run");
  }

  #quit(reason) {
    clearTimeout(this.#resizeTimer);
    this.#keyboard?.close();
    if (this.#keyboard) this.#pump?.followAs(null);
    this.#keyboard = null;
    this.#terminal.setTyping(null);
    this.#note = reason;
    this.render();
  }

  async #requestSize() {
    const size = this.#terminal.room;
    if (!this.#keyboard || !size || isSame(size, this.#size)) return;
    this.#setSize(size); // before the program draws
    const before = this.#status?.tty;
    await request("POST", `/api/jobs/${this.#job.job_id}/tty`, { body: size }).catch(() => before && this.#setSize(before));
  }

  #setSize(size) {
    this.#size = size;
    this.#terminal.setSize(size);
  }
}

function isSame(one, other) {
  return one.rows === other?.rows && one.columns === other?.columns;
}
