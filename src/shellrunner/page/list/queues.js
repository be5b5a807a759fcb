/* The queues: how much runs and waits in each, and their names wherever one is to be chosen. */

import { $, make, refill } from "../ui/dom.js";
import { at, link } from "../core/address.js";
import { get } from "../core/api.js";

let names = "";

/** Read and show all queues. */
export async function showQueues() {
  const { paused, queues } = await get("/api/queues");
  const shown = queues.filter((queue) => queue.running || queue.queued || queue.waiting || queue.paused || queue.queue === "default");
  refill($("queues"), ...shown.map((queue) => make("li", {}, linkTo(queue, paused))));
  offer(queues.map((queue) => queue.queue));
}

function linkTo({ queue, limit, paused, running, queued, waiting }, allPaused) {
  const counts = [
    `${running}${limit ? `/${limit}` : ""} running`,
    queued ? `${queued} queued` : null,
    waiting ? `${waiting} waiting` : null,
    paused || allPaused ? "paused" : null,
  ];
  const words = counts.filter((count) => count).join(" · ");
  const chosen = at("queue") === queue;
  const about = { "aria-current": chosen && "true", "data-paused": paused || allPaused, title: chosen ? "All queues" : "Only this queue" };
  return make("a", { ...link({ queue: chosen ? "" : queue }), ...about }, make("b", {}, queue), ` ${words}`);
}

function offer(found) {
  if (names === found.join()) return;
  names = found.join();
  $("queue-names").replaceChildren(...found.map((name) => make("option", { value: name })));
  const select = $("queue");
  select.replaceChildren(make("option", { value: "" }, "any queue"), ...found.map((name) => make("option", { value: name }, name)));
  choose(at("queue"));
}

/** Have the filter show this queue, also if there is none of that name any more. */
export function choose(name) {
  const select = $("queue");
  if (name && ![...select.options].some((option) => option.value === name)) select.append(make("option", { value: name }, name));
  select.value = name;
}

