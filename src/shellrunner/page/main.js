/* The page as a whole: shows what the address asks for, and keeps it up to date from the stream of all statuses. */

import { navigate, onNavigate, param } from "./core/address.js";
import { REJECTED, Unreachable, checkToken } from "./core/api.js";
import { EventStream } from "./core/event-stream.js";
import { isIntercepted, onIntercepted, removeForeignWorkers } from "./core/foreign-worker.js";
import { may, refreshIdentity } from "./core/identity.js";
import { currentToken, forgetToken, onTokenRequired } from "./core/token.js";
import { JobView } from "./job/job-view.js";
import { showHosts } from "./list/hosts.js";
import { ListView } from "./list/list-view.js";
import { refreshQueues, showQueues } from "./list/queues.js";
import { focusRow, moveFocus } from "./list/table.js";
import { askForSecrets, openAgainDialog } from "./run/again-dialog.js";
import { openEditDialog } from "./run/edit-dialog.js";
import { fillFromJob, focusRunBox, wireRunBox } from "./run/run-box.js";
import { announce } from "./ui/announcer.js";
import { describeOutage, showConnection } from "./ui/connection-status.js";
import { promptForToken, showHelp } from "./ui/dialogs.js";
import { $, setText } from "./ui/dom.js";
import { wireMenu } from "./ui/menu.js";
import { wireNotifications } from "./ui/notifications.js";
import { onKey } from "./ui/shortcuts.js";
import { initTheme } from "./ui/theme.js";
import { onHidden } from "./ui/visibility.js";

const view = new JobView({ again: runAgain, edit: (job) => openEditDialog(job, edited), close: closeJob });
const list = new ListView({ openId: () => view.id, tryTo, secretsOf: askForSecrets });

const stream = new EventStream("/api/statuses/events", "/api/queues", {
  event: handleEvent,
  state: (state, status) => {
    showConnection($("connection"), state);
    if (state === "waiting") showBanner(describeOutage(status));
    if (state === "signing-in") showBanner("");
    if (state !== "live") return;
    showBanner("");
    tryTo(showIdentity);
    list.catchUp(); // after the stream has opened, so that no change between the two is missed
  },
  failed: () => {
    showConnection($("connection"), "failed");
    tryTo(refreshQueues); // its error message is the reason
  },
});

function handleEvent(name, document) {
  if (name === "reset") return list.reload();
  if (name !== "deleted") return list.update(document);
  list.remove(document.status_id);
  view.showDeleted(document.status_id);
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

/** Offer only what this person may do. */
async function showIdentity() {
  await refreshIdentity();
  document.body.toggleAttribute("data-read-only", !may("run"));
  showQueues();
  showHosts();
  view.refresh();
  list.render();
}

function showAddress() {
  const [, id, line] = /^([1-9]\d{0,14})(?:-([1-9]\d{0,14}))?$/.exec(param("job")) ?? [];
  view.open(id ? Number(id) : null, Number(line ?? 0));
  list.showAddress();
}

function closeJob() {
  const id = view.id;
  navigate({ job: "" });
  focusRow(id);
}

function runAgain(job) {
  openAgainDialog(job, { edit: editAgain, onSubmitted: showSubmitted });
}

/** Fill the run box with a job, to run it again changed. On a narrow screen the job covers it. */
function editAgain(job) {
  if (!$("run").offsetParent) navigate({ job: "" });
  fillFromJob(job, { again: true });
}

function showSubmitted(job) {
  announce(`Job ${job.job_id} accepted`);
  navigate({ job: String(job.job_id) });
}

function edited(job) {
  view.showChanged(job);
  list.reload();
}

function wireKeys() {
  onKey("/", () => $("search").focus());
  onKey("n", focusRunBox);
  onKey("j", () => moveFocus(1));
  onKey("k", () => moveFocus(-1));
  onKey("x", () => document.activeElement.closest("[data-job]")?.querySelector("input").click());
  onKey("?", showHelp);
  onKey("Escape", () => view.id && closeJob());
  onKey("c", () => view.actions.cancel());
  onKey("r", () => view.actions.rerun());
  onKey("d", () => view.actions.delete());
  onKey("h", () => view.actions.toggleHold());
  onKey("p", () => view.actions.togglePause());
  onKey("e", () => view.output.scrollToEnd());
  onKey("f", () => view.id && view.output.showFind());
  onKey("g", () => view.id && view.output.showLineBox());
  onKey("w", () => view.id && view.output.toggleWrap());
  onKey("i", () => view.id && view.output.type());
  onKey("t", () => view.id && view.output.toggleTimes());
  $("help-open").addEventListener("click", showHelp);
}

function wireDialogs() {
  for (const menu of document.querySelectorAll("details.menu")) wireMenu(menu);
  for (const button of document.querySelectorAll("dialog [data-close]"))
    button.addEventListener("click", () => button.closest("dialog").close());
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

onTokenRequired(async (isRejected) => {
  for (let error = isRejected ? REJECTED : ""; ;) {
    const entered = await promptForToken(error);
    error = isIntercepted() ? REJECTED : await checkToken(entered.token);
    if (error) continue;
    $("sign-out").hidden = false;
    return entered;
  }
});
$("sign-out").hidden = currentToken() === null;
$("sign-out").addEventListener("click", () => {
  forgetToken();
  location.reload();
});
initTheme((theme) => view.output.setTheme(theme));
wireKeys();
wireDialogs();
wireNotifications();
wireRunBox(showSubmitted);
$("retry").addEventListener("click", () => {
  stream.open(stream.lastId); // it may have failed for good, and then has no retry scheduled
  view.output.retryNow();
});
onIntercepted(refuse);
onNavigate(showAddress);
addEventListener("online", retryNow);
document.addEventListener("visibilitychange", () => document.hidden || retryNow());
onHidden({ suspend: () => stream.close(), resume: () => stream.open(stream.lastId, { silent: true }) });
async function start() {
  // One request finds out that a token which was kept has expired; all that the page begins with would be as many.
  if (currentToken() !== null && (await checkToken(currentToken())).startsWith(REJECTED)) forgetToken();
  showAddress();
  tryTo(showIdentity);
  stream.open();
}

if (isIntercepted()) refuse();
else start();
removeForeignWorkers(); // also those that do not control this page yet
