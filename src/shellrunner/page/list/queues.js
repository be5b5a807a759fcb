/* The queues: how many jobs run and wait in each, and their names in the filter and in the run box. */

import { linkTo, param } from "../core/address.js";
import { get } from "../core/api.js";
import { $, createElement, replaceKeepingFocus } from "../ui/dom.js";

let names = "";

/** Fetch and show all queues. */
export async function refreshQueues() {
  const { paused, held, queues } = await get("/api/queues");
  $("held").hidden = !held;
  $("held").textContent = held ? `Jobs are held: ${held.reason}. An administrator can release them with “shellrunner queues resume --all”.` : "";
  const shown = queues.filter((queue) => queue.running || queue.queued || queue.waiting || queue.paused || queue.queue === "default");
  replaceKeepingFocus($("queues"), ...shown.map((queue) => createElement("li", {}, createQueueLink(queue, paused))));
  updateNames(queues.map((queue) => queue.queue));
}

/** Select a queue in the filter, even if there is no queue of that name. */
export function selectQueue(name) {
  const select = $("queue");
  if (name && ![...select.options].some((option) => option.value === name)) select.append(createOption(name, name));
  select.value = name;
}

function createQueueLink({ queue, limit, paused, running, queued, waiting }, allPaused) {
  const counts = [
    `${running}${limit ? `/${limit}` : ""} running`,
    queued ? `${queued} queued` : null,
    waiting ? `${waiting} waiting` : null,
    paused || allPaused ? "paused" : null,
  ];
  const text = counts.filter((count) => count).join(" · ");
  const selected = param("queue") === queue;
  const attributes = {
    "aria-current": selected && "true",
    "data-paused": paused || allPaused,
    title: selected ? "Show all queues" : "Show only this queue",
  };
  return createElement("a", { ...linkTo({ queue: selected ? "" : queue }), ...attributes }, createElement("b", {}, queue), ` ${text}`);
}

function updateNames(found) {
  if (names === found.join()) return;
  names = found.join();
  $("queue-names").replaceChildren(...found.map((name) => createElement("option", { value: name })));
  $("queue").replaceChildren(createOption("", "Any queue"), ...found.map((name) => createOption(name, name)));
  selectQueue(param("queue"));
}

function createOption(value, text) {
  return createElement("option", { value }, text);
}
