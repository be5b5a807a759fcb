/* The queues as tabs: how many jobs run and wait in each; and what an administrator may do with the one that is shown. */

import { linkTo, navigate, param } from "../core/address.js";
import { get, request } from "../core/api.js";
import { may } from "../core/identity.js";
import { confirm } from "../ui/dialogs.js";
import { $, createElement, replaceKeepingFocus, setText } from "../ui/dom.js";
import { openQueueDialog } from "./queue-dialog.js";

const FADE = 36; // pixels at the end of the tabs

let state = null; // until it has been fetched
let onChange = () => {};
let shown = null; // the queue whose tab was scrolled into view

/** Wire the buttons; `listener` is called when a queue was changed here. */
export function wireQueues(listener) {
  onChange = listener;
  $("queue-pause").addEventListener("click", () => tryTo(togglePause));
  $("queue-limits").addEventListener("click", () => openQueueDialog(selected(), changed));
  $("queue-new").addEventListener("click", () => openQueueDialog(null, changed));
  $("queue-remove").addEventListener("click", () => tryTo(remove));
  $("queue-toggle").addEventListener("click", () => {
    const isOpen = document.querySelector(".queue-bar").toggleAttribute("data-open");
    $("queue-toggle").setAttribute("aria-expanded", String(isOpen));
  });
}

/** Fetch and show all queues. */
export async function refreshQueues() {
  state = await get("/api/queues");
  showQueues();
}

/** Show the queues as they were fetched last, with the one in the address selected. */
export function showQueues() {
  if (state === null) return;
  const { held, queues } = state;
  $("held").hidden = !held;
  $("held").textContent = held ? `Jobs are held: ${held.reason}. An administrator can release them with “Resume all”, or with “shellrunner queues resume --all”.` : "";
  const tabs = [createTab("", "All", totals()), ...queues.map((queue) => createTab(queue.queue, queue.queue, queue))];
  replaceKeepingFocus($("queues"), ...tabs.map((tab) => createElement("li", {}, tab)));
  $("queue-names").replaceChildren(...queues.map(({ queue }) => createElement("option", { value: queue })));
  showActions();
  if (shown === param("queue")) return;
  shown = param("queue");
  showSelectedTab();
}

/** Scroll the tabs so that the selected one is seen; scrollIntoView would scroll the list too. */
function showSelectedTab() {
  const bar = $("queues").getBoundingClientRect();
  const tab = $("queues").querySelector("[aria-current]")?.getBoundingClientRect() ?? bar;
  const hidden = Math.max(0, tab.right - bar.right + FADE);
  $("queues").scrollLeft += tab.left - hidden < bar.left ? tab.left - bar.left : hidden;
}

/** How many jobs are in a state, `running`, `queued` or `waiting`, in the queue that is shown, as text. */
export function countJobs(name) {
  return state === null ? "" : (selected() ?? totals())[name].toLocaleString();
}

const selected = () => state.queues.find(({ queue }) => queue === param("queue"));

function totals() {
  const sum = (name) => state.queues.reduce((total, queue) => total + queue[name], 0);
  return { limit: null, paused: state.paused, running: sum("running"), queued: sum("queued"), waiting: sum("waiting") };
}

function createTab(name, label, { limit, paused, running, queued, waiting }) {
  const isShown = param("queue") === name;
  const counts = [
    running || (isShown && limit) ? `${running}${limit ? `/${limit}` : ""} running` : null,
    queued ? `${queued} queued` : null,
    waiting ? `${waiting} waiting` : null,
    paused || state.paused ? "paused" : null,
  ];
  const attributes = { "aria-current": isShown && "true", "data-paused": paused || state.paused };
  const text = counts.filter((count) => count).join(" · ");
  return createElement("a", { ...linkTo({ queue: name }), ...attributes }, createElement("b", {}, label), ` ${text}`);
}

function showActions() {
  const queue = selected();
  $("queue-actions").hidden = $("queue-toggle").hidden = !may("admin");
  const isPaused = queue ? queue.paused : state.paused;
  setText($("queue-pause"), `${isPaused ? "Resume" : "Pause"}${queue ? "" : " all"}`);
  $("queue-limits").hidden = $("queue-remove").hidden = !queue;
  $("queue-remove").hidden ||= !queue || queue.configured !== false;
  $("queue-new").hidden = Boolean(queue);
}

async function togglePause() {
  const queue = selected();
  const verb = (queue ?? state).paused ? "resume" : "pause";
  if (!queue && verb === "pause" && !(await confirm("Pause all queues?", "No job starts until they are resumed. Running jobs continue.", "Pause all", "Leave them"))) return;
  await request("POST", `/api/queues/${queue ? `${encodeURIComponent(queue.queue)}/` : ""}${verb}`);
  await changed();
}

async function remove() {
  const { queue } = selected();
  if (!(await confirm(`Remove queue ${queue}?`, "A queue can be removed only once all of its jobs are done.", "Remove queue", "Keep queue"))) return;
  await request("DELETE", `/api/queues/${encodeURIComponent(queue)}`);
  navigate({ queue: "" });
  await changed();
}

async function changed() {
  setText($("queue-error"), "");
  await refreshQueues();
  onChange();
}

async function tryTo(work) {
  try {
    await work();
  } catch (error) {
    setText($("queue-error"), error.message);
  }
}
