/* The page put together: what is in the address is shown, what the stream of all statuses tells is kept up. */

import { $, seldom, soon, write } from "./dom.js";
import { at, go, watch } from "./address.js";
import { say, showLine } from "./badge.js";
import { askForToken, help } from "./dialogs.js";
import { Unreachable, door, lockedBy } from "./door.js";
import { filtered, query, showFilters, wireFilters } from "./filters.js";
import { JobView } from "./job.js";
import { on } from "./keys.js";
import { Listing } from "./listing.js";
import { showQueues } from "./queues.js";
import { showRecent } from "./recent.js";
import { focusRunBox, runAgain, wireRunBox } from "./runbox.js";
import { Stream } from "./stream.js";
import { focusOn, foot, show, step } from "./table.js";
import { wireTheme } from "./theme.js";
import { count } from "./words.js";

const listing = new Listing();
const view = new JobView({ again: runAgain, close: closeJob });
const table = document.querySelector(".table");

const render = soon(() => {
  show(listing.rows, view.id);
  table.setAttribute("aria-busy", "false");
  foot(words());
});
const refresh = seldom(300, () => attempt(async () => {
  await listing.refresh();
  render();
}));
const refreshQueues = seldom(500, () => attempt(showQueues));
const refreshRecent = seldom(1000, () => attempt(() => showRecent(query({ sort: false }))));
let shown = null;

const stream = new Stream("/api/statuses/events", "/api/queues", {
  event: hear,
  state: (state) => {
    showLine($("line"), state, { connecting: "connecting", live: "live", waiting: "reconnecting" }[state]);
    if (state === "waiting") trouble("The service cannot be reached. What is shown may be old; it is tried again by itself.");
    if (state === "live") trouble("");
    // Connect, then read the list: so nothing is missed.
    if (state === "live" && !stream.id) readAnew();
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
  } catch (error) {
    if (!(error instanceof Unreachable)) trouble(error.message); // else the stream says so, and goes on trying
  }
}

function trouble(words) {
  $("trouble").hidden = !words;
  write($("trouble").firstElementChild, words);
}

async function readAnew() {
  shown = query().toString();
  table.setAttribute("aria-busy", "true");
  refreshQueues();
  refreshRecent();
  await attempt(() => listing.read(query()));
  render();
}

function words() {
  if (listing.more) return "more below…";
  if (listing.rows.length) return `${count(listing.rows.length, "job")}, all that there are`;
  if (filtered()) return "No job fits this.";
  return "No jobs yet. Write a command above and press Ctrl+Enter.";
}

function arrive() {
  showFilters();
  if (query().toString() !== shown) readAnew();
  view.open(Number(at("job")) || null);
  render();
}

function closeJob() {
  const id = view.id;
  go({ job: "" });
  focusOn(id);
}

function wireScrolling() {
  const watcher = new IntersectionObserver(async ([entry]) => {
    if (!entry.isIntersecting || !listing.more) return;
    await attempt(() => listing.extend());
    render();
    // Also if it has not left the screen meanwhile.
    watcher.unobserve($("foot"));
    watcher.observe($("foot"));
  }, { rootMargin: "600px" });
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
wireScrolling();
wireRunBox((job) => {
  say(`Job ${job.job_id} was accepted`);
  refresh();
  go({ job: String(job.job_id) });
});
$("retry").addEventListener("click", hurry);
watch(arrive);
addEventListener("online", hurry);
document.addEventListener("visibilitychange", () => document.hidden || hurry());
shown = query().toString();
arrive();
stream.open();
