/* The page put together: what is in the address is shown, what the stream of all statuses tells is kept up. */

import { $, seldom, soon, write } from "./ui/dom.js";
import { at, changed, go, watch } from "./core/address.js";
import { say, showLine } from "./ui/badge.js";
import { askForToken, help } from "./ui/dialogs.js";
import { Unreachable, door, lockedBy, passes } from "./core/api.js";
import { filtered, query, showFilters, wireFilters } from "./list/filters.js";
import { JobView } from "./job/job-view.js";
import { on } from "./ui/shortcuts.js";
import { Listing } from "./list/job-list.js";
import { showQueues } from "./list/queues.js";
import { showRecent } from "./list/recent-results.js";
import { focusRunBox, runAgain, wireRunBox } from "./run/run-box.js";
import { Stream } from "./core/event-stream.js";
import { focusOn, foot, show, step } from "./list/table.js";
import { wireTheme } from "./ui/theme.js";
import { whenUnseen } from "./core/visibility.js";
import { count } from "./core/labels.js";

const QUEUES = 15_000; // milliseconds: that a queue was paused or resumed no stream tells

const listing = new Listing();
const view = new JobView({ again: runAgain, close: closeJob });
const table = document.querySelector(".table");

const render = soon(() => {
  show(listing.rows, view.id);
  table.setAttribute("aria-busy", String(!listing.current && !fault));
  foot(words());
});
const refresh = seldom(300, () => attempt(async () => {
  await listing.refresh();
  render();
}));
const refreshQueues = seldom(500, () => attempt(showQueues));
const refreshRecent = seldom(1000, () => showRecent(query({ sort: false })).catch(() => {})); // the list says what is wrong
const readOnceMore = seldom(3000, () => listing.current || readAnew());
const place = () => changed({ job: "" }); // what of the address says which jobs are listed
let shown = null;
let fault = null; // why the list could not be read

const stream = new Stream("/api/statuses/events", "/api/queues", {
  event: hear,
  state: (state) => {
    showLine($("line"), state, { connecting: "connecting", live: "live", waiting: "reconnecting" }[state]);
    if (state === "waiting") trouble("The service cannot be reached. What is shown may be old; it is tried again by itself.");
    // Connect, then read the list: so nothing is missed.
    if (state === "live") catchUp();
  },
  over: () => {
    showLine($("line"), "gone", "refused");
    attempt(showQueues); // which says why
  },
});

function hear(name, document) {
  if (name === "reset") return readAnew();
  if (name === "deleted") {
    listing.remove(document.status_id);
    view.deleted(document.status_id);
  } else if (listing.update(document)) refresh();
  if (document.done) refreshRecent();
  refreshQueues();
  render();
}

async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof Unreachable)) trouble(error.message); // else the stream says so, and goes on trying
    return false;
  }
}

function trouble(words) {
  $("trouble").hidden = !words;
  write($("trouble").firstElementChild, words);
}

async function readAnew() {
  shown = place();
  fault = null;
  table.setAttribute("aria-busy", "true");
  refreshQueues();
  refreshRecent();
  try {
    await listing.read(query());
  } catch (error) {
    fault = error;
    if (passes(error)) readOnceMore();
  }
  render();
}

/** The stream is there, for the first time or again. */
function catchUp() {
  trouble("");
  if (!listing.current) return readAnew();
  refresh();
  refreshQueues();
  refreshRecent();
  readOn();
}

function words() {
  if (fault) return fault.message;
  if (!listing.current) return "reading the list…";
  if (listing.more) return "more below…";
  if (listing.rows.length) return `${count(listing.rows.length, "job")}, all that there are`;
  if (filtered()) return "No job fits this.";
  return "No jobs yet. Write a command above and press Ctrl+Enter.";
}

function arrive() {
  showFilters();
  if (place() !== shown) readAnew();
  view.open(/^[1-9]\d{0,14}$/.test(at("job")) ? Number(at("job")) : null);
  render();
}

function closeJob() {
  const id = view.id;
  go({ job: "" });
  focusOn(id);
}

const watcher = new IntersectionObserver(async (entries) => {
  if (!entries.at(-1).isIntersecting || !listing.more) return; // what came before it is past
  // If it cannot be read now, then once the service is back.
  if (!(await attempt(() => listing.extend()))) return;
  render();
  readOn();
}, { rootMargin: "600px" });

/** Read on if the end of the list is to be seen soon, or still. */
function readOn() {
  watcher.unobserve($("foot"));
  watcher.observe($("foot"));
}

function wireKeys() {
  on("/", () => $("find").focus());
  on("n", focusRunBox);
  on("j", () => step(1));
  on("k", () => step(-1));
  on("?", help);
  on("Escape", () => view.id && closeJob());
  on("c", () => view.cancel());
  on("r", () => view.again());
  on("d", () => view.remove());
  on("e", () => view.output.toEnd());
  on("f", () => view.id && view.output.seek());
  on("w", () => view.id && view.output.wrap());
  on("t", () => view.id && view.output.times());
  $("help-open").addEventListener("click", help);
}

function hurry() {
  stream.hurry();
  view.output.hurry();
}

lockedBy(async (refused) => {
  const token = await askForToken(refused);
  $("sign-out").hidden = false;
  return token;
});
$("sign-out").addEventListener("click", () => {
  door.leave();
  location.reload();
});
wireTheme((theme) => view.output.theme(theme));
wireFilters();
wireKeys();
readOn();
wireRunBox((job) => {
  say(`Job ${job.job_id} was accepted`);
  refresh();
  go({ job: String(job.job_id) });
});
$("retry").addEventListener("click", () => {
  stream.open(stream.id); // also if it was refused
  view.output.hurry();
});
watch(arrive);
addEventListener("online", hurry);
setInterval(() => document.hidden || refreshQueues(), QUEUES);
document.addEventListener("visibilitychange", () => document.hidden || hurry());
whenUnseen({ leave: () => stream.close(), back: () => stream.open(stream.id, { quietly: true }) });
arrive();
stream.open();
