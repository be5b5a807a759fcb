/* The listed jobs as data: fetched page by page, then updated from the event stream. It must not know about the page's
   elements. */

import { get } from "../core/api.js";

const JOB_FIELDS = "job_id,name,command,created,queue,labels,priority,state";
const STATUS_FIELDS = "status_id,state,pending,paused,cancelling,host,unreachable,attempt,started,completed,ending,exit_code,signal";
const RESULT_FIELDS = "result_id,name,command,created,queue,labels,priority,started,completed,duration,exit_code,signal,ending,attempt,host";
// The sort keys that only /api/results has: sorting by them lists only jobs that are done.
const RESULT_SORT_KEYS = new Set(["started", "completed", "duration", "exit_code", "ending"]);
const STATES = ["waiting", "queued", "running", "done"];
const MAX_CONCURRENT = 5;

export class JobList {
  /** The jobs in the order of the list. Each has `id`, the fields of its job and its status, and `duration`. */
  rows = [];
  #jobs = new Map();
  #query = new URLSearchParams();
  #nextCursor = null;
  #pendingPage = null;
  #pageSize;

  /** `pageSize` is how many rows a page has; the first page is what `refresh` keeps up to date. */
  constructor(pageSize = 100) {
    this.#pageSize = pageSize;
  }

  /** Whether `rows` belong to the last query. While its first page is being fetched they belong to the one before. */
  isCurrent = false;

  get hasMore() {
    return this.#nextCursor !== null;
  }

  /** Whether the sort order lists only jobs that are done. */
  get listsResults() {
    return RESULT_SORT_KEYS.has((this.#query.get("sort") || "").replace("-", ""));
  }

  /** Replace the query; the old rows stay until its first page has been fetched. */
  async setQuery(query) {
    this.#query = query;
    this.#jobs.clear();
    this.#nextCursor = null;
    this.isCurrent = false;
    try {
      await this.refresh();
    } catch (error) {
      if (query !== this.#query) return; // the query was replaced meanwhile
      this.rows = [];
      throw error;
    }
  }

  /** Fetch the first page again. New jobs are added, the rows of the later pages stay. */
  async refresh() {
    const page = await this.#fetchPage(null);
    if (!page) return;
    const firstPage = new Set(page.rows);
    const rest = this.isCurrent ? this.rows.filter((job) => !firstPage.has(job)) : [];
    // Without a common row there may be a gap between the new first page and the old rows.
    const overlaps = this.isCurrent && page.nextCursor && rest.length < this.rows.length;
    if (!overlaps || !this.#nextCursor) this.#nextCursor = page.nextCursor;
    this.rows = overlaps ? [...page.rows, ...rest] : page.rows;
    this.isCurrent = true;
  }

  /** Fetch the next page. Concurrent calls share one request. */
  fetchMore() {
    this.#pendingPage ??= this.#fetchMore().finally(() => { this.#pendingPage = null; });
    return this.#pendingPage;
  }

  async #fetchMore() {
    const cursor = this.#nextCursor;
    const page = cursor && (await this.#fetchPage(cursor));
    if (!page || cursor !== this.#nextCursor) return; // the list was refreshed meanwhile
    const listed = new Set(this.rows);
    this.rows = [...this.rows, ...page.rows.filter((job) => !listed.has(job))];
    this.#nextCursor = page.nextCursor;
  }

  /** Apply a status from the event stream; returns whether the first page may have changed and should be refreshed. */
  update(status) {
    const job = this.#jobs.get(status.status_id);
    if (!job) return this.listsResults ? status.done : this.#mayBelong(status);
    Object.assign(job, status);
    job.duration = durationOf(job);
    if (this.#matches(job)) return false;
    this.remove(status.status_id);
    return this.hasMore && this.rows.length < this.#pageSize;
  }

  remove(id) {
    this.#jobs.delete(id);
    this.rows = this.rows.filter((job) => job.id !== id);
  }

  /** Whether an unknown job may belong to the rows fetched so far. In the default order, newest first, a job that is
      older than the last row belongs to a later page. */
  #mayBelong(status) {
    const newestFirst = !this.#query.get("sort");
    const last = this.rows.at(-1);
    return !(newestFirst && this.#nextCursor && last && status.status_id < last.id) && this.#matches(status);
  }

  #matches(job) {
    const accepts = (name, value) => !this.#query.get(name) || this.#query.get(name).split(",").includes(String(value));
    return accepts("state", job.state) && accepts("host", job.host) && accepts("ending", job.ending) && accepts("exit_code", job.exit_code);
  }

  async #fetchPage(cursor) {
    const query = this.#query;
    const { found, next } = await (this.listsResults ? this.#fetchResults(cursor) : this.#fetchJobs(cursor));
    if (query !== this.#query) return null; // the query was replaced meanwhile
    return { rows: found.map((row) => this.#merge(row)), nextCursor: cursorOf(next) };
  }

  async #fetchJobs(cursor) {
    // Both lists have the same order and the same cursors, but a job may be added or deleted between the two requests.
    const [jobs, statuses] = await Promise.all([
      get(this.#path("/api/jobs", JOB_FIELDS, cursor)),
      get(this.#path("/api/statuses", STATUS_FIELDS, cursor)),
    ]);
    const byId = new Map(statuses.statuses.map((status) => [status.status_id, status]));
    const missing = jobs.jobs.filter((job) => !byId.has(job.job_id));
    await forEachConcurrently(missing, async ({ job_id: id }) => byId.set(id, await get(`/api/statuses/${id}`).catch(() => ({}))));
    return { found: jobs.jobs.map((job) => ({ ...job, ...byId.get(job.job_id), id: job.job_id })), next: jobs.next };
  }

  async #fetchResults(cursor) {
    const page = await get(this.#path("/api/results", RESULT_FIELDS, cursor));
    return { found: page.results.map((result) => ({ ...result, state: "done", id: result.result_id })), next: page.next };
  }

  #merge(row) {
    const job = this.#jobs.get(row.id) || {};
    const before = { ...job };
    this.#jobs.set(row.id, Object.assign(job, row));
    // The event stream may have delivered a later status while the page was being fetched.
    if (progressOf(before) > progressOf(row)) Object.assign(job, before);
    job.duration ??= durationOf(job);
    return job;
  }

  #path(list, fields, cursor) {
    const query = new URLSearchParams(this.#query);
    query.set("fields", fields);
    query.set("limit", this.#pageSize);
    if (cursor) query.set("cursor", cursor);
    return `${list}?${query}`;
  }
}

/** How far a job has come, as a number that never decreases: attempts first, then states. */
function progressOf(job) {
  return (job.attempt ?? 0) * STATES.length + STATES.indexOf(job.state);
}

function durationOf(job) {
  return job.started && job.completed ? (Date.parse(job.completed) - Date.parse(job.started)) / 1000 : null;
}

function cursorOf(next) {
  return next && new URLSearchParams(next.slice(next.indexOf("?"))).get("cursor");
}

async function forEachConcurrently(items, work) {
  const remaining = [...items];
  const workers = Array.from({ length: MAX_CONCURRENT }, async () => {
    while (remaining.length) await work(remaining.shift());
  });
  await Promise.all(workers);
}
