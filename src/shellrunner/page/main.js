/* The page as a whole: shows what the address asks for, and keeps it up to date from the stream of all statuses. */

import { hashWith, navigate, onNavigate, param } from "./core/address.js";
import { Unreachable, forgetToken, isTransient, onTokenRequired } from "./core/api.js";
import { EventStream } from "./core/event-stream.js";
import { isIntercepted, onIntercepted, removeForeignWorkers } from "./core/foreign-worker.js";
import { formatCount } from "./core/format.js";
import { oncePerFrame, throttle } from "./core/scheduling.js";
import { onHidden } from "./core/visibility.js";
import { JobView } from "./job/job-view.js";
import { buildQuery, hasFilters, showFilters, wireFilters } from "./list/filters.js";
import { JobList } from "./list/job-list.js";
import { refreshQueues } from "./list/queues.js";
import { refreshRecentResults } from "./list/recent-results.js";
import { focusRow, moveFocus, showListStatus, showRows } from "./list/table.js";
import { fillFromJob, focusRunBox, wireRunBox } from "./run/run-box.js";
import { announce } from "./ui/announcer.js";
import { showConnection } from "./ui/connection-status.js";
import { promptForToken, showHelp } from "./ui/dialogs.js";
import { $, setText } from "./ui/dom.js";
import { onKey } from "./ui/shortcuts.js";
import { initTheme } from "./ui/theme.js";

// Milliseconds between two updates of the same kind.
const LIST_INTERVAL = 300;
const QUEUES_INTERVAL = 500;
const RECENT_INTERVAL = 1000;
const RETRY_INTERVAL = 3000;
const QUEUES_POLL_INTERVAL = 15_000; // no stream has an event for a queue that is paused or resumed

const list = new JobList();
const view = new JobView({ rerun: fillFromJob, close: closeJob });
const table = document.querySelector(".table");
let shownFilters = null; // the address that `list` was fetched for, apart from the job
let listError = null; // why the list could not be fetched

const render = oncePerFrame(() => {
  showRows(list.rows, view.id);
  table.setAttribute("aria-busy", String(!list.isCurrent && !listError));
  showListStatus(describeList());
});
const updateList = throttle(LIST_INTERVAL, () => tryTo(async () => {
  await list.refresh();
  render();
}));
const updateQueues = throttle(QUEUES_INTERVAL, () => tryTo(refreshQueues));
// The list reports what is wrong with the filters.
const updateRecent = throttle(RECENT_INTERVAL, () => refreshRecentResults(buildQuery({ sort: false })).catch(() => {}));
const retryList = throttle(RETRY_INTERVAL, () => list.isCurrent || reloadList());
const filtersInAddress = () => hashWith({ job: "" });

const stream = new EventStream("/api/statuses/events", "/api/queues", {
  event: handleEvent,
  state: (state) => {
    showConnection($("connection"), state);
    if (state === "waiting") showBanner("Cannot reach the service; retrying. The data shown may be out of date.");
    // The list is fetched after the stream has opened, so that no change between the two is missed.
    if (state === "live") catchUp();
  },
  failed: () => {
    showConnection($("connection"), "failed");
    tryTo(refreshQueues); // its error message is the reason
  },
});

function handleEvent(name, document) {
  if (name === "reset") return reloadList();
  if (name === "deleted") {
    list.remove(document.status_id);
    view.showDeleted(document.status_id);
  } else if (list.update(document)) updateList();
  if (document.done) updateRecent();
  updateQueues();
  render();
}

/** Run `work`; show an error, unless the service is unreachable, which the stream reports. Returns whether it succeeded. */
async function tryTo(work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof Unreachable)) showBanner(error.message);
    return false;
  }
}

function showBanner(text) {
  $("banner").hidden = !text;
  setText($("banner").firstElementChild, text);
}

/** Fetch the list for the filters in the address. */
async function reloadList() {
  shownFilters = filtersInAddress();
  listError = null;
  table.setAttribute("aria-busy", "true");
  updateQueues();
  updateRecent();
  try {
    await list.setQuery(buildQuery());
  } catch (error) {
    listError = error;
    if (isTransient(error)) retryList();
  }
  render();
  fetchMoreIfVisible(); // the next page may have been requested for the query before, and is dropped then
}

/** Fetch what may have changed while the stream was not open. */
function catchUp() {
  showBanner("");
  if (!list.isCurrent) return reloadList();
  updateList();
  updateQueues();
  updateRecent();
  fetchMoreIfVisible();
}

function describeList() {
  if (listError) return listError.message;
  if (!list.isCurrent) return "Loading…";
  if (list.hasMore) return "Scroll for more";
  if (list.rows.length) return `${formatCount(list.rows.length, "job")} in total`;
  if (hasFilters()) return "No jobs match these filters";
  return "No jobs yet. Enter a command above and press Ctrl+Enter.";
}

function showAddress() {
  showFilters();
  if (filtersInAddress() !== shownFilters) reloadList();
  view.open(/^[1-9]\d{0,14}$/.test(param("job")) ? Number(param("job")) : null);
  render();
}

function closeJob() {
  const id = view.id;
  navigate({ job: "" });
  focusRow(id);
}

const scrollObserver = new IntersectionObserver(async (entries) => {
  if (!entries.at(-1).isIntersecting || !list.hasMore) return; // only the last entry is the current state
  // After a failure `catchUp` continues once the service is back.
  if (!(await tryTo(() => list.fetchMore()))) return;
  render();
  fetchMoreIfVisible();
}, { rootMargin: "600px" });

/** Fetch the next page if the end of the list is visible or close to it. Observing it again reports the current state. */
function fetchMoreIfVisible() {
  scrollObserver.unobserve($("list-status"));
  scrollObserver.observe($("list-status"));
}

function wireKeys() {
  onKey("/", () => $("search").focus());
  onKey("n", focusRunBox);
  onKey("j", () => moveFocus(1));
  onKey("k", () => moveFocus(-1));
  onKey("?", showHelp);
  onKey("Escape", () => view.id && closeJob());
  onKey("c", () => view.cancel());
  onKey("r", () => view.rerun());
  onKey("d", () => view.delete());
  onKey("e", () => view.output.scrollToEnd());
  onKey("f", () => view.id && view.output.showFind());
  onKey("w", () => view.id && view.output.toggleWrap());
  onKey("t", () => view.id && view.output.toggleTimes());
  $("help-open").addEventListener("click", showHelp);
}

/** Stop for good: another program would receive all requests. */
function refuse() {
  forgetToken();
  stream.close();
  const text = document.createElement("p");
  text.className = "banner";
  text.setAttribute("role", "alert");
  text.textContent = "Another program has left a service worker at this address, which could read what is sent and change "
    + "what is shown. It has been removed: close all tabs of this address, then open it again. Enter no token before.";
  document.body.replaceChildren(text);
}

function retryNow() {
  stream.retryNow();
  view.output.retryNow();
}

onTokenRequired(async (rejected) => {
  const token = await promptForToken(rejected);
  $("sign-out").hidden = false;
  return token;
});
$("sign-out").addEventListener("click", () => {
  forgetToken();
  location.reload();
});
initTheme((theme) => view.output.setTheme(theme));
wireFilters();
wireKeys();
fetchMoreIfVisible();
wireRunBox((job) => {
  announce(`Job ${job.job_id} accepted`);
  updateList();
  navigate({ job: String(job.job_id) });
});
$("retry").addEventListener("click", () => {
  stream.open(stream.lastId); // it may have failed for good, and then has no retry scheduled
  view.output.retryNow();
});
onIntercepted(refuse);
onNavigate(showAddress);
addEventListener("online", retryNow);
setInterval(() => document.hidden || updateQueues(), QUEUES_POLL_INTERVAL);
document.addEventListener("visibilitychange", () => document.hidden || retryNow());
onHidden({ suspend: () => stream.close(), resume: () => stream.open(stream.lastId, { silent: true }) });
if (isIntercepted()) refuse();
else {
  showAddress();
  stream.open();
}
removeForeignWorkers(); // also those that do not control this page yet
