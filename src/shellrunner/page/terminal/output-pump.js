/* A job's output from the stream to the screen, no faster than the screen takes it. Of much output only the end is
   fetched: the stream can be entered anywhere, because its ids are places in the output. */

import { Painter } from "./ansi-painter.js";
import { Record, lengthOf } from "./output-buffer.js";
import { Stream } from "../core/event-stream.js";
import { send } from "../core/api.js";
import { size } from "../core/labels.js";
import { withoutPiles } from "../core/escape.js";

const MUCH = 8_000_000; // bytes: of what is more, only the end is shown
const END = 2_000_000; // bytes of it
const AT_ONCE = 150_000; // characters for the screen between two frames; fewer of those that take it long
const AT_FIRST = 2000;
const AT_LEAST = 250;
const LONG = 60; // milliseconds
const WAITING = 2_000_000; // characters that wait for the screen: more is not fetched

export class Tap {
  #screen;
  #told;
  #path;
  #stream;
  #painter;
  #record = new Record();
  #next = 0; // the piece that the screen gets next
  #rest = ""; // what is left of the one before
  #portion = AT_FIRST;
  #waiting = 0;
  #busy = false; // the screen has not taken or shown yet what it was given
  #place = 0;
  #held = false;
  #entered = false;
  #closed = false;
  #resting = false;

  /** `view` is {only, times}; `told` has status(document), done(document), line(state), over(status), and
      moved() whenever something of this has changed. */
  constructor(job, screen, view, told) {
    this.#screen = screen;
    this.#told = told;
    this.#painter = new Painter(view);
    this.#path = `/api/statuses/${job}`;
    this.#stream = new Stream(`${this.#path}/events`, this.#path, {
      event: (name, document, id) => this.#event(name, document, id),
      state: told.line,
      over: (status) => this.#over(status),
    });
    screen.clear();
  }

  /** How many bytes of output were passed over. */
  skipped = 0;
  /** How many bytes the service could not store. */
  dropped = { stdout: 0, stderr: 0 };

  get longest() {
    return this.#record.longest;
  }

  /** Whether no output has come yet. */
  get silent() {
    return this.#record.end === 0;
  }

  /** Begin, or go on where it was left; what is too far ahead is passed over. */
  async open(how) {
    const total = await this.#total();
    if (this.#closed || this.#resting) return;
    if (total - this.#place <= MUCH) return this.#stream.open(this.#stream.id, how);
    this.#skip(total - END);
    this.#stream.open(String(this.#place), how);
  }

  /** Try to connect at once. */
  hurry() {
    this.#stream.hurry();
  }

  /** Hold no connection until `wake`. */
  rest() {
    this.#resting = true;
    this.#stream.close();
  }

  wake() {
    this.#resting = this.#held = false;
    this.open({ quietly: true });
  }

  close() {
    this.#closed = true;
    this.#stream.close();
  }

  /** Show all that is here in another way. */
  show(view) {
    this.#painter = new Painter(view);
    this.#screen.clear();
    this.#rewind();
    this.#pump();
  }

  #rewind() {
    this.#next = this.#record.begin;
    this.#rest = "";
    this.#waiting = 0;
    for (let at = this.#next; at < this.#record.end; at += 1) this.#waiting += lengthOf(this.#record.at(at));
  }

  async #total() {
    const response = await send(`${this.#path}/output`, { method: "HEAD" }).catch(() => null);
    await response?.text(); // an answer that is left unread is broken off
    return response?.ok ? Number(response.headers.get("Content-Length")) : 0; // else the stream says what is wrong
  }

  #event(name, document, id) {
    if (name === "stdout" || name === "stderr") this.#take(name, document, id);
    else if (name === "status") this.#told.status(document);
    else if (name === "dropped") this.dropped[document.stream] = document.bytes;
    else if (name === "done") this.#done(document);
    this.#told.moved();
  }

  #done(document) {
    this.#stream.close();
    this.#told.done(document);
  }

  #take(stream, { text, time }, id) {
    this.#place = parseInt(id, 10);
    this.#add({ stream, text: this.#entered ? wholeLines(text) : text, time });
    this.#entered = false;
    if (this.#waiting > WAITING && !this.#held) {
      this.#held = true;
      this.#stream.close();
    }
  }

  #skip(place) {
    const left = place - this.#place;
    this.#place = place;
    this.#entered = true;
    this.skipped += left;
    this.#add({ remark: `⋯ ${size(left)} of output left out here; the download has all of it ⋯` });
  }

  #add(piece) {
    this.#record.add(piece);
    this.#waiting += lengthOf(piece);
    this.#pump();
  }

  #pump() {
    if (!this.#busy) this.#give();
    if (!this.#held || this.#waiting > WAITING / 4) return;
    this.#held = false;
    this.open({ quietly: true });
  }

  #give() {
    if (this.#next < this.#record.begin) this.#rewind();
    while (this.#rest.length < this.#portion && this.#next < this.#record.end) {
      this.#rest += this.#painted(this.#record.at(this.#next++));
    }
    const text = this.#rest.slice(0, this.#portion);
    if (!text) return;
    this.#rest = this.#rest.slice(text.length);
    this.#busy = true;
    const began = performance.now();
    this.#screen.write(text, () => {
      this.#pace(performance.now() - began);
      nextFrame(() => {
        this.#busy = false;
        if (!this.#closed) this.#pump();
      });
    });
  }

  /** Give less at once of what keeps the terminal busy: some sequences cost it thousands of times what a letter does. */
  #pace(took) {
    this.#portion = Math.min(AT_ONCE, Math.max(AT_LEAST, this.#portion * (took > LONG ? 0.25 : 2)));
  }

  #painted(piece) {
    this.#waiting -= lengthOf(piece);
    return piece.remark ? this.#painter.remark(piece.remark) : this.#painter.paint({ ...piece, text: withoutPiles(piece.text) });
  }

  #over(status) {
    if (status !== 400) return this.#told.over(status);
    // Another history: there is no such place in it.
    this.#place = 0;
    this.#stream.open();
  }
}

/** What follows the first end of a line: the rest of a line, or half a character, would only confuse. */
function wholeLines(text) {
  const end = text.indexOf("\n");
  return end < 0 ? text.replace(/^\ufffd+/, "") : text.slice(end + 1);
}

/** Let the page be drawn before `work`. In a tab that is not seen nothing is drawn, and there is nothing to wait for. */
function nextFrame(work) {
  if (document.hidden) return work();
  const timer = setTimeout(run, 250); // should the tab be hidden now
  const frame = requestAnimationFrame(run);
  function run() {
    clearTimeout(timer);
    cancelAnimationFrame(frame);
    work();
  }
}
