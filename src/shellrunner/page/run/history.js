/* The command history for the arrow keys. It is read from the service's list of jobs; the browser stores nothing. */

import { get } from "../core/api.js";

const FIELDS = "command,argv,name,cwd,env,stdin,timeout,priority,queue,labels,merge_stderr,leave_children,encoding,limits,retries,tty";
const MAX_JOBS = 200;

export class CommandHistory {
  #entries = null; // newest first
  #index = -1; // -1 is the draft
  #draft = null;

  /** Return the entry before the current one, a `{ job }`, or null; `draft` is what to return to from the newest one. */
  async previous(draft) {
    this.#entries ??= await fetchEntries();
    if (this.#index + 1 >= this.#entries.length) return null;
    if (this.#index < 0) this.#draft = draft;
    this.#index += 1;
    return this.#entries[this.#index];
  }

  /** Return the entry after the current one, or the draft, or null if the draft is current. */
  next() {
    if (this.#index < 0) return null;
    this.#index -= 1;
    return this.#index < 0 ? this.#draft : this.#entries[this.#index];
  }

  /** Start at the newest entry again; `reload` fetches them again too. */
  reset({ reload = false } = {}) {
    this.#index = -1;
    if (reload) this.#entries = null;
  }
}

async function fetchEntries() {
  const { jobs } = await get(`/api/jobs?fields=${FIELDS}&limit=${MAX_JOBS}`);
  const seen = new Set();
  return jobs.filter(({ command }) => !seen.has(command) && seen.add(command)).map((job) => ({ job }));
}
