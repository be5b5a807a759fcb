/* The keys that are typed into a job: in their order, each once, by one writer at a time. What is typed while a request
   is under way is sent with the next one. It must not know about the page's elements. */

import { isTransient, request } from "../core/api.js";

const NO_OFFSET = "999999999999999999"; // bytes: no input has so many, so the answer names how many it has
const MAX_REQUEST = 1 << 18; // bytes
const MIN_RETRY_DELAY = 100; // milliseconds
const MAX_RETRY_DELAY = 3000;
const WAITING = new Set(["input-full", "keeper-silent", "store-unavailable"]);
const REFUSALS = {
  "input-taken": "Another terminal is typing into this job",
  "input-closed": "This job takes no input",
  "not-running": "This job is not running",
  "command-not-allowed": "This token may not type into this job",
  "insufficient-scope": "This token may not type into jobs",
  "not-yours": "This job belongs to another user",
};

export const TAKEN = REFUSALS["input-taken"];

export class Keyboard {
  #path;
  #onRefused;
  #waiting = []; // pieces of bytes that have not been sent
  #sending = false;
  #closed = false;
  #offset = 0;

  /** `name` is that under which the job is followed; `onRefused(reason)` is called when it takes no more keys. */
  constructor(jobId, name, onRefused) {
    this.#path = `/api/jobs/${jobId}/stdin?writer=${name}`;
    this.#onRefused = onRefused;
  }

  /** Become the job's writer; with `take` although there is another one. Returns why not, or "". */
  async claim({ take = false } = {}) {
    try {
      await this.#post(new Uint8Array(), NO_OFFSET, take ? "&take=true" : "");
      return "";
    } catch (error) {
      if (error.kind !== "wrong-offset") return REFUSALS[error.kind] ?? error.message;
      this.#offset = error.document.offset;
      return "";
    }
  }

  /** Send text after all that was typed before. */
  type(text) {
    const bytes = new TextEncoder().encode(text);
    for (let start = 0; start < bytes.length; start += MAX_REQUEST) this.#waiting.push(bytes.subarray(start, start + MAX_REQUEST));
    if (!this.#sending) this.#send();
  }

  /** Send nothing more. */
  close() {
    this.#closed = true;
    this.#waiting = [];
  }

  async #send() {
    this.#sending = true;
    while (this.#waiting.length && !this.#closed) {
      const reason = await this.#sendOnce(this.#takeWaiting());
      if (reason && !this.#closed) {
        this.close();
        this.#onRefused(reason);
      }
    }
    this.#sending = false;
  }

  /** Send bytes until they are received; returns why they were refused, or "". */
  async #sendOnce(bytes) {
    let delay = MIN_RETRY_DELAY;
    let isRepeated = false; // an earlier attempt may have succeeded, and only its response was lost
    while (!this.#closed) {
      try {
        await this.#post(bytes, this.#offset);
        this.#offset += bytes.length;
        return "";
      } catch (error) {
        if (error.kind === "wrong-offset") {
          const { offset } = error.document;
          const isReceived = isRepeated && offset === this.#offset + bytes.length;
          this.#offset = offset; // others have typed, or another attempt has begun
          if (isReceived) return "";
        } else if (isTransient(error) || WAITING.has(error.kind)) {
          isRepeated ||= error.kind !== "input-full";
          await new Promise((resolve) => { setTimeout(resolve, delay); });
          delay = Math.min(2 * delay, MAX_RETRY_DELAY);
        } else return REFUSALS[error.kind] ?? error.message;
      }
    }
    return "";
  }

  /** Take as much of what waits as one request may have. */
  #takeWaiting() {
    let size = 0;
    let count = 0;
    while (count < this.#waiting.length && (count === 0 || size + this.#waiting[count].length <= MAX_REQUEST)) size += this.#waiting[count++].length;
    const joined = new Uint8Array(size);
    let at = 0;
    for (const piece of this.#waiting.splice(0, count)) {
      joined.set(piece, at);
      at += piece.length;
    }
    return joined;
  }

  #post(body, offset, more = "") {
    return request("POST", `${this.#path}&offset=${offset}${more}`, { body, contentType: "application/octet-stream" });
  }
}
