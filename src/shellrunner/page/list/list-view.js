/* The list as a whole: fetches its sections, the queues and the recent results, and keeps them up to date. */

import { hashWith, param } from "../core/address.js";
import { isTransient } from "../core/api.js";
import { formatCount } from "../core/format.js";
import { may } from "../core/identity.js";
import { oncePerFrame, throttle } from "../core/scheduling.js";
import { currentToken } from "../core/token.js";
import { $, setText } from "../ui/dom.js";
import { showBulkActions, wireBulkActions } from "./bulk-actions.js";
import { buildQuery, showFilters, wireFilters } from "./filters.js";
import { hasSeveralHosts, refreshHosts, showHosts, wireHosts } from "./hosts.js";
import { countJobs, refreshQueues, showQueues, wireQueues } from "./queues.js";
import { refreshRecentResults } from "./recent-results.js";
import { Sections } from "./sections.js";
import { forget, isSelected, onSelection, selectAll } from "./selection.js";
import { listedIds, showSections } from "./table.js";

// Milliseconds between two updates of the same kind.
const LIST_INTERVAL = 300;
const QUEUES_INTERVAL = 500;
const HOSTS_INTERVAL = 5000;
const RECENT_INTERVAL = 1000;
const RETRY_INTERVAL = 3000;
const POLL_INTERVAL = 15_000; // no event says that a queue was paused, or why a job waits now

const table = document.querySelector(".table");

export class ListView {
  #sections = new Sections();
  #openId;
  #tryTo;
  #shownFilters = null; // the address that the sections were fetched for, apart from the job
  #error = null; // why they could not be fetched
  #scrollObserver;

  /** Show the sections as they are. */
  render = oncePerFrame(() => this.#render());
  #refresh = throttle(LIST_INTERVAL, () => this.#tryTo(() => this.#sections.refresh()).then(this.render));
  #refreshQueues = throttle(QUEUES_INTERVAL, () => this.#tryTo(refreshQueues).then(this.render));
  #refreshHosts = throttle(HOSTS_INTERVAL, () => this.#tryTo(refreshHosts));
  // The list reports what is wrong with the filters.
  #refreshRecent = throttle(RECENT_INTERVAL, () => refreshRecentResults(buildQuery({ sort: false })).catch(() => {}));
  #retry = throttle(RETRY_INTERVAL, () => this.#sections.isCurrent || this.reload());

  /** `openId()` returns the id of the job that is open; `tryTo(work)` shows an error of `work`, and returns a promise of
      whether there was none; `secretsOf(refusals)` is that of the bulk actions. */
  constructor({ openId, tryTo, secretsOf }) {
    this.#openId = openId;
    this.#tryTo = tryTo;
    const changed = () => this.reload();
    wireFilters();
    wireQueues(changed);
    wireHosts(changed);
    wireBulkActions({ changed, secretsOf });
    onSelection(() => this.#showSelection());
    $("select-all").addEventListener("change", () => selectAll(listedIds(), $("select-all").checked));
    const ahead = { root: document.querySelector(".list"), rootMargin: "600px" }; // without its root it would be clipped to it
    this.#scrollObserver = new IntersectionObserver((entries) => this.#onScroll(entries), ahead);
    setInterval(() => document.hidden || this.#poll(), POLL_INTERVAL);
    setInterval(() => document.hidden || !hasSeveralHosts() || this.#refreshHosts(0), HOSTS_INTERVAL); // no event says that a host is gone
  }

  /** Show what the address asks for. */
  showAddress() {
    showFilters();
    showQueues();
    showHosts();
    if (hashWith({ job: "" }) !== this.#shownFilters) this.reload();
    this.render();
  }

  /** Fetch the sections for the filters in the address. */
  async reload() {
    this.#shownFilters = hashWith({ job: "" });
    this.#error = null;
    table.setAttribute("aria-busy", "true");
    this.#refreshQueues();
    this.#refreshHosts(0);
    this.#refreshRecent();
    try {
      await this.#sections.reload();
    } catch (error) {
      this.#error = error;
      if (isTransient(error)) this.#retry();
    }
    this.render();
    this.#fetchMoreIfVisible(); // the next page may have been requested for the query before, and is dropped then
  }

  /** Fetch what may have changed while the stream of all statuses was not open. */
  catchUp() {
    if (!this.#sections.isCurrent) return this.reload();
    this.#tryTo(() => this.#sections.refresh({ all: true })).then(this.render);
    this.#refreshQueues();
    this.#refreshHosts(0);
    this.#refreshRecent();
    this.#fetchMoreIfVisible();
  }

  /** Apply a status from the event stream. */
  update(status) {
    if (this.#sections.update(status)) this.#refresh();
    if (status.done) this.#refreshRecent();
    this.#refreshQueues();
    if (hasSeveralHosts()) this.#refreshHosts();
    this.render();
  }

  remove(id) {
    this.#sections.remove(id);
    forget(id);
    this.#refreshQueues();
    this.render();
  }

  #render() {
    const isCurrent = this.#sections.isCurrent && !this.#error;
    if (isCurrent || this.#error) showSections(isCurrent ? this.#sections.shown.map(withTotal) : [], this.#openId(), (key) => this.#expand(key));
    table.setAttribute("aria-busy", String(!isCurrent && !this.#error));
    setText($("list-status"), this.#describe());
    this.#showStart(isCurrent && this.#sections.isHome && !this.#sections.shown.length);
    const ids = listedIds();
    const selected = ids.filter(isSelected).length;
    $("select-all").checked = selected > 0 && selected === ids.length;
    $("select-all").indeterminate = selected > 0 && selected < ids.length;
  }

  #describe() {
    if (this.#error) return this.#error.message;
    if (!this.#sections.isCurrent) return "Loading…";
    if (this.#sections.last.hasMore) return "Scroll for more";
    if (this.#sections.isHome) return this.#sections.shown.length ? "" : describeEmptyHome();
    const { length } = this.#sections.last.rows;
    return length ? `${formatCount(length, "job")} in total` : "No jobs match these filters";
  }

  /** Show how to begin, in place of what would be empty. */
  #showStart(isEmpty) {
    document.querySelector(".list").toggleAttribute("data-empty", isEmpty);
    $("start").hidden = !isEmpty || Boolean(param("queue")) || !may("run");
    setText($("start-commands"), describeStart(location.origin, currentToken() !== null));
  }

  #showSelection() {
    showBulkActions(!this.#sections.isHome && Boolean(this.#sections.last?.hasMore) && listedIds().every(isSelected));
    this.render();
  }

  async #expand(key) {
    await this.#tryTo(() => this.#sections.expand(key));
    this.render();
  }

  #poll() {
    this.#refreshQueues();
    this.#refreshHosts();
    this.#tryTo(() => this.#sections.refreshWaiting()).then(this.render);
  }

  async #onScroll(entries) {
    if (!entries.at(-1).isIntersecting || !this.#sections.last?.hasMore) return; // only the last entry is the current state
    // After a failure `catchUp` continues once the service is back.
    if (!(await this.#tryTo(() => this.#sections.last.fetchMore()))) return;
    this.render();
    this.#fetchMoreIfVisible();
  }

  /** Fetch the next page if the end of the list is visible or close to it. Observing it again reports the current state. */
  #fetchMoreIfVisible() {
    this.#scrollObserver.unobserve($("list-status"));
    this.#scrollObserver.observe($("list-status"));
  }
}

/** A section whose jobs the queues count, with their number. */
const withTotal = (section) => (section.count ? { ...section, number: countJobs(section.count) } : section);

const describeEmptyHome = () => (param("queue") ? `No jobs in queue ${param("queue")} yet` : "No jobs yet");

function describeStart(origin, needsToken) {
  const headers = ["-H 'Content-Type: application/json'", needsToken && '-H "Authorization: Bearer $TOKEN"'].filter(Boolean).join(" ");
  return `shellrunner run --server ${origin} 'make test'\n\ncurl ${headers} \\\n  -d '{"command": "make test"}' ${origin}/api/jobs`;
}
