/* The hosts that share the history: what runs on each, and what an administrator may do with it. One host alone is not
   shown: there is nothing to choose, and the queues can be paused. */

import { linkTo, param } from "../core/address.js";
import { get, request } from "../core/api.js";
import { escapeControls } from "../core/escape.js";
import { may } from "../core/identity.js";
import { SYMBOLS } from "../ui/badge.js";
import { confirm } from "../ui/dialogs.js";
import { $, createElement, replaceKeepingFocus, setText } from "../ui/dom.js";
import { createAge } from "../ui/time-elements.js";

let workers = []; // until they have been fetched
let onChange = () => {};

/** `listener` is called when a host was changed here. */
export function wireHosts(listener) {
  onChange = listener;
}

/** Whether the history has several hosts, so that it matters which one runs a job. */
export const hasSeveralHosts = () => workers.length > 1;

/** Fetch and show all hosts. */
export async function refreshHosts() {
  ({ workers } = await get("/api/workers"));
  showHosts();
}

/** Show the hosts as they were fetched last. */
export function showHosts() {
  $("hosts").hidden = !hasSeveralHosts();
  document.querySelector(".table").toggleAttribute("data-hosts", hasSeveralHosts());
  if (!hasSeveralHosts()) return;
  setText($("hosts-summary"), summary());
  $("hosts").toggleAttribute("data-alarm", workers.some(isMissing));
  replaceKeepingFocus($("host-list"), ...workers.map(createHost));
}

/** Whether a host is gone, and was not stopped. */
const isMissing = ({ reachable, stopped }) => !reachable && !stopped;

function summary() {
  const count = (is) => workers.filter(is).length;
  const numbers = [
    [count(({ reachable }) => reachable), "reachable"],
    [count(isMissing), "unreachable"],
    [count(({ stopped }) => stopped), "stopped"],
    [count(({ draining }) => draining), "drained"],
  ];
  return numbers.filter(([number]) => number).map(([number, word]) => `${number} ${word}`).join(" · ");
}

function createHost(worker) {
  const [tone, state] = stateOf(worker);
  const symbol = createElement("span", { "aria-hidden": "true" }, SYMBOLS[tone]);
  const isShown = param("host") === worker.host;
  const link = { ...linkTo({ host: isShown ? "" : worker.host }), "aria-current": isShown && "true", title: "Only jobs of this host" };
  return createElement("li", {},
    createElement("a", link, createElement("b", {}, worker.host)),
    createElement("span", { class: "badge", "data-tone": tone }, symbol, createElement("span", {}, state)),
    createElement("span", { class: "host-load" }, loadOf(worker)),
    createElement("span", { class: "host-seen" }, ...(worker.reachable ? [escapeControls(worker.version)] : ["seen ", createAge(worker.seen)])),
    createElement("span", { class: "host-actions" }, ...(may("admin") ? createActions(worker) : [])));
}

function stateOf({ reachable, stopped, draining, running, runs_jobs: runsJobs }) {
  if (stopped) return ["stopped", "Stopped"];
  if (!reachable) return ["unknown", "Unreachable"];
  if (draining) return ["stopped", running ? "Draining" : "Drained"];
  return runsJobs ? ["success", "Open"] : ["waiting", "API only"];
}

function loadOf({ running, unsettled, slots, queues, differing, runs_jobs: runsJobs }) {
  const parts = [
    [running || runsJobs, runsJobs ? `${running} of ${slots} running` : `${running} running`],
    [unsettled, `${unsettled} lost may run on`],
    [queues && runsJobs, `only ${queues?.join(", ")}`],
    [differing.length, `other settings: ${differing.join(", ")}`],
  ];
  return parts.filter(([isThere]) => isThere).map(([, text]) => text).join(" · ");
}

function createActions(worker) {
  const button = (text, work, attributes = {}) =>
    createElement("button", { type: "button", class: "subtle", "aria-label": `${text} host ${worker.host}`, onclick: () => tryTo(work), ...attributes }, text);
  const path = `/api/workers/${encodeURIComponent(worker.host)}`;
  const drain = button("Drain", () => change("POST", `${path}/drain`), { title: "Start no more jobs there; running jobs continue" });
  const resume = button("Resume", () => change("POST", `${path}/resume`));
  const remove = button("Remove", () => removeHost(worker, path), { class: "subtle danger" });
  const actions = worker.runs_jobs || worker.draining ? [worker.draining ? resume : drain] : [];
  return worker.reachable ? actions : [...actions, remove];
}

async function removeHost({ host, running }, path) {
  const jobs = running === 1 ? "The job that runs there is lost: it ends" : `The ${running} jobs that run there are lost: they end`;
  const text = `Do this only if the host will not return. ${running ? `${jobs}, and nobody knows how.` : "Nothing runs there."}`;
  if (await confirm(`Remove host ${host}?`, text, "Remove host", "Keep host")) await change("DELETE", `${path}?confirm=true`);
}

async function change(verb, path) {
  await request(verb, path);
  setText($("host-error"), "");
  await refreshHosts();
  onChange();
}

async function tryTo(work) {
  try {
    await work();
  } catch (error) {
    setText($("host-error"), error.message);
  }
}
