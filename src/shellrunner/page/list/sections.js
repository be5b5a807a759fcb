/* What is listed: without filters the home, which is several short lists (what runs, what is next, what waits, what failed
   today, what has ended); else one list of what matches. It must not know about the page's elements. */

import { param } from "../core/address.js";
import { serverTime } from "../core/api.js";
import { FAILED_ENDINGS } from "../core/labels.js";
import { FAILED_EXIT, hasFilters, buildQuery } from "./filters.js";
import { JobList } from "./job-list.js";

const MAX_RUNNING = 100;
const MAX_WAITING = 5;
const MAX_FAILED = 5;
const FAILURES = [FAILED_EXIT, { ending: FAILED_ENDINGS.join() }]; // no filter selects both

/* A section has its lists, and how many rows of them together it shows; `all` are the filters that show all of them, and
   `count` is the name of their number in a queue's document. What no filter selects is shown further here: of that whole
   pages are fetched. */
const createHome = () => [
  section("running", "Running", MAX_RUNNING, [{ state: "running" }], { count: "running", all: { state: "running" } }),
  section("queued", "Queued, next first", MAX_WAITING, [{ state: "queued", sort: "-priority,created" }],
    { count: "queued", all: { state: "queued", sort: "-priority,created" } }),
  section("waiting", "Waiting", MAX_WAITING, [{ state: "waiting" }], { count: "waiting", all: { state: "waiting" } }),
  section("failed", "Failed today", MAX_FAILED, FAILURES.map((failure) => ({ ...failure, completed_after: startOfToday() }))),
  section("ended", "Ended", Infinity, [{ state: "done" }]),
];

function section(key, title, max, queries, options = {}) {
  const pageSize = options.all ? max : undefined;
  return { key, title, max, lists: queries.map((query) => ({ query, list: new JobList(pageSize) })), ...options };
}

function startOfToday() {
  const now = new Date(serverTime());
  return new Date(now.getFullYear(), now.getMonth(), now.getDate()).toISOString();
}

export class Sections {
  #sections = [];
  #stale = new Set(); // lists whose first page may have changed
  #day = "";

  /** Whether what is shown is the home. */
  get isHome() {
    return this.#sections.length > 1;
  }

  /** Whether all lists have been fetched for the present filters. */
  get isCurrent() {
    return this.#sections.length > 0 && this.#lists.every(({ list }) => list.isCurrent);
  }

  /** The list that goes on where the page ends. */
  get last() {
    return this.#sections.at(-1)?.lists[0].list;
  }

  get #lists() {
    return this.#sections.flatMap((each) => each.lists);
  }

  /** The sections that have rows, each with its `rows`, how many it has as text, and `hidden`, whether these are more. */
  get shown() {
    return this.#sections.map((each) => {
      const rows = mergeRows(each.lists.map(({ list }) => list));
      const isLast = each.lists[0].list === this.last;
      const hasMore = !isLast && each.lists.some(({ list }) => list.hasMore);
      const number = isLast ? "" : `${rows.length}${hasMore ? "+" : ""}`;
      return { ...each, rows: rows.slice(0, each.max), number, hidden: hasMore || rows.length > each.max };
    }).filter(({ rows }) => rows.length);
  }

  /** Fetch the lists for the filters in the address. */
  async reload() {
    const isHome = !hasFilters() && !param("sort");
    const sections = isHome ? createHome() : [section("all", null, Infinity, [{}])];
    this.#sections = sections;
    this.#stale.clear();
    this.#day = startOfToday();
    await Promise.all(this.#lists.map(({ query, list }) => list.setQuery(queryWith(query))));
  }

  /** Show every row of a section that was fetched; when all of these are shown, fetch more. */
  async expand(key) {
    const found = this.#sections.find((each) => each.key === key);
    const isShown = mergeRows(found.lists.map(({ list }) => list)).length <= found.max;
    found.max = Infinity;
    if (isShown) await Promise.all(found.lists.map(({ list }) => list.fetchMore()));
  }

  /** Apply a status from the event stream; returns whether `refresh` has something to do. */
  update(status) {
    for (const { list } of this.#lists) if (list.update(status)) this.#stale.add(list);
    return this.#stale.size > 0;
  }

  remove(id) {
    for (const { list } of this.#lists) list.remove(id);
  }

  /** Fetch the first page of the lists that may have changed, or of all of them; on another day all sections. */
  async refresh({ all = false } = {}) {
    if (this.isHome && this.#day !== startOfToday()) return this.reload();
    const stale = all ? this.#lists.map(({ list }) => list) : [...this.#stale];
    this.#stale.clear();
    await Promise.all(stale.map((list) => list.refresh()));
  }

  /** Fetch those again whose reason to wait may have changed without an event. */
  async refreshWaiting() {
    if (this.isHome && this.#day !== startOfToday()) return this.reload();
    const waiting = this.#sections.filter(({ key }) => key === "queued" || key === "waiting");
    await Promise.all(waiting.flatMap(({ lists }) => lists.map(({ list }) => list.refresh())));
  }
}

function queryWith(values) {
  const query = buildQuery();
  for (const [name, value] of Object.entries(values)) query.set(name, value);
  return query;
}

/** The rows of several lists, newest first, as far as all of these have been fetched. */
function mergeRows(lists) {
  if (lists.length === 1) return lists[0].rows;
  const end = Math.max(0, ...lists.filter((list) => list.hasMore).map((list) => list.rows.at(-1)?.id ?? 0));
  const rows = lists.flatMap((list) => list.rows).filter(({ id }) => id >= end);
  return rows.sort((one, other) => other.id - one.id);
}
