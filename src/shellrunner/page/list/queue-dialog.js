/* The dialog that sets a queue's limits, or adds a queue. */

import { request } from "../core/api.js";
import { openForm } from "../ui/dialogs.js";
import { $ } from "../ui/dom.js";

/** Open the dialog for a queue, or for a new one if it is null; `changed()` is called once the service has accepted it. */
export function openQueueDialog(queue, changed) {
  $("queue-dialog-title").textContent = queue ? `Limits of queue ${queue.queue}` : "New queue";
  $("queue-name").value = queue?.queue ?? "";
  $("queue-name").readOnly = Boolean(queue);
  $("queue-max-running").value = queue?.limit ?? "";
  $("queue-max-queued").value = queue?.max_queued ?? "";
  openForm($("queue-dialog"), async () => {
    const name = $("queue-name").value.trim();
    if (!name) throw new Error("Enter a name for the queue");
    const body = { max_running: parseLimit("queue-max-running"), max_queued: parseLimit("queue-max-queued") };
    await request("PUT", `/api/queues/${encodeURIComponent(name)}`, { body });
    await changed();
  });
}

function parseLimit(id) {
  const text = $(id).value.trim();
  if (!text) return null;
  if (!/^[1-9]\d*$/.test(text)) throw new Error(`“${text}” is not a whole number greater than 0`);
  return Number(text);
}
