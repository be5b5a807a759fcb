/* The list of jobs as the service has it: page by page, then kept up by what the stream tells. Knows no elements. */

import { get } from "../core/api.js";

const LIMIT = 100;
const JOB = "job_id,command,created,queue,labels,priority,state";
const STATUS = "status_id,state,cancelling,attempt,started,completed,ending,exit_code,signal";
const RESULT = "result_id,command,created,started,completed,duration,exit_code,signal,ending,attempt";
// Only results can be sorted by these.
const OF_RESULTS = new Set(["started", "completed", "duration", "exit_code", "ending"]);
const AT_ONCE = 5;

export class Listing {
  /** Jobs in the order of the list; each has the keys of its job and status, and perhaps `duration`. */
  rows = [];
  #known = new Map();
  #query = new URLSearchParams();
  #next = null;
  #extending = null;

  /** Whether `rows` are those of the query that was asked for last, and not the ones before it. */
  current = false;

  get more() {
    return this.#next !== null;
  }

  /** Whether the list is sorted by something that only jobs have which are done. */
  get doneOnly() {
    return OF_RESULTS.has((this.#query.get("sort") || "").replace("-", ""));
  }

  /** Begin anew with another query; what is there stays until its first page is. */
  async read(query) {
    this.#query = query;
    this.#known.clear();
    this.#next = null;
    this.current = false;
    try {
      await this.refresh();
    } catch (error) {
      if (query !== this.#query) return; // another list is wanted by now
      this.rows = [];
      throw error;
    }
  }

  /** Read the first page again: what is new comes in, what lies behind it stays. */
  async refresh() {
    const page = await this.#page(null);
    if (!page) return;
    const first = new Set(page.rows);
    const rest = this.current ? this.rows.filter((job) => !first.has(job)) : [];
    const joins = this.current && page.next && rest.length < this.rows.length;
    if (!joins || !this.#next) this.#next = page.next;
    this.rows = joins ? [...page.rows, ...rest] : page.rows;
    this.current = true;
  }

  /** Read the next page; whoever asks while it is on its way waits for the same one. */
  extend() {
    this.#extending ??= this.#extend().finally(() => { this.#extending = null; });
    return this.#extending;
  }

  async #extend() {
    const cursor = this.#next;
    const page = cursor && (await this.#page(cursor));
    if (!page || cursor !== this.#next) return; // the list was read anew meanwhile
    const there = new Set(this.rows);
    this.rows = [...this.rows, ...page.rows.filter((job) => !there.has(job))];
    this.#next = page.next;
  }

  /** Take a status from the stream. True if the first page is to be read again: it may have changed. */
  update(status) {
    const job = this.#known.get(status.status_id);
    if (!job) return this.doneOnly ? status.done : this.#mayBelong(status);
    Object.assign(job, status);
    job.duration = lasted(job);
    if (!this.#fits(job)) this.remove(status.status_id);
    return false;
  }

  remove(id) {
    this.#known.delete(id);
    this.rows = this.rows.filter((job) => job.id !== id);
  }

  #mayBelong(status) {
    // By default the newest come first: what is older than all that is shown is further down.
    const newest = !this.#query.get("sort");
    const last = this.rows.at(-1);
    return !(newest && this.#next && last && status.status_id < last.id) && this.#fits(status);
  }

  #fits(job) {
    const among = (name, value) => !this.#query.get(name) || this.#query.get(name).split(",").includes(String(value));
    return among("state", job.state) && among("ending", job.ending) && among("exit_code", job.exit_code);
  }

  async #page(cursor) {
    const query = this.#query;
    const { found, next } = await (this.doneOnly ? this.#results(cursor) : this.#jobs(cursor));
    if (query !== this.#query) return null; // another list is wanted by now
    return { rows: found.map((about) => this.#keep(about)), next: cursorOf(next) };
  }

  async #jobs(cursor) {
    // Both lists have the same order and the same cursors; between the two a job may have come or gone.
    const [jobs, statuses] = await Promise.all([
      get(this.#path("/api/jobs", JOB, cursor)),
      get(this.#path("/api/statuses", STATUS, cursor)),
    ]);
    const known = new Map(statuses.statuses.map((status) => [status.status_id, status]));
    const lacking = jobs.jobs.filter((job) => !known.has(job.job_id));
    await several(lacking, async (job) => known.set(job.job_id, await get(`/api/statuses/${job.job_id}`).catch(() => ({}))));
    return { found: jobs.jobs.map((job) => ({ ...job, ...known.get(job.job_id), id: job.job_id })), next: jobs.next };
  }

  async #results(cursor) {
    const page = await get(this.#path("/api/results", RESULT, cursor));
    const found = page.results.map((result) => ({ ...result, state: "done", id: result.result_id }));
    // A result does not say where its job belongs.
    await several(found.filter(({ id }) => this.#known.get(id)?.queue === undefined), async (job) => {
      const { queue, labels, priority } = await get(`/api/jobs/${job.id}`).catch(() => ({}));
      Object.assign(job, { queue, labels, priority });
    });
    return { found, next: page.next };
  }

  #keep(about) {
    const job = this.#known.get(about.id) || {};
    const before = { ...job };
    this.#known.set(about.id, Object.assign(job, about));
    // The stream may have told more while the page was on its way.
    if (progress(before) > progress(about)) Object.assign(job, before);
    job.duration ??= lasted(job);
    return job;
  }

  #path(list, fields, cursor) {
    const query = new URLSearchParams(this.#query);
    query.set("fields", fields);
    query.set("limit", LIMIT);
    if (cursor) query.set("cursor", cursor);
    return `${list}?${query}`;
  }
}

const STATES = ["waiting", "queued", "running", "done"];

/** How far a job is, as a number; attempts come before states. */
function progress(job) {
  return (job.attempt ?? 0) * STATES.length + STATES.indexOf(job.state);
}

function lasted(job) {
  return job.started && job.completed ? (Date.parse(job.completed) - Date.parse(job.started)) / 1000 : null;
}

function cursorOf(next) {
  return next && new URLSearchParams(next.slice(next.indexOf("?"))).get("cursor");
}

/** Do something with each, a few at a time. */
async function several(items, work) {
  const left = [...items];
  const workers = Array.from({ length: AT_ONCE }, async () => {
    while (left.length) await work(left.shift());
  });
  await Promise.all(workers);
}
