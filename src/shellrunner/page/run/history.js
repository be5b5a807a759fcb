/* Earlier commands, brought back by the arrow keys. They are the service's own list: the browser keeps nothing. */

import { get } from "../core/api.js";

const FIELDS = "command,cwd,timeout,queue";

export class Past {
  #earlier = null;
  #place = -1;
  #draft = null;

  /** The one before what is shown; `draft` is what stands there now. Null if there is none. */
  async back(draft) {
    this.#earlier ??= await read();
    if (this.#place + 1 >= this.#earlier.length) return null;
    if (this.#place < 0) this.#draft = draft;
    this.#place += 1;
    return this.#earlier[this.#place];
  }

  /** The one after it, at last the draft; null if the draft is shown already. */
  forth() {
    if (this.#place < 0) return null;
    this.#place -= 1;
    return this.#place < 0 ? this.#draft : this.#earlier[this.#place];
  }

  /** A command was run, or something was typed: begin anew. */
  forget({ all = false } = {}) {
    this.#place = -1;
    if (all) this.#earlier = null;
  }
}

async function read() {
  const { jobs } = await get(`/api/jobs?fields=${FIELDS}&limit=200`);
  const seen = new Set();
  return jobs.filter(({ command }) => !seen.has(command) && seen.add(command));
}
