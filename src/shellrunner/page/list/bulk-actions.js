/* What is done with all selected jobs: one request per job, or one request for all that match the filters. */

import { createIdempotencyKey, request } from "../core/api.js";
import { formatCount } from "../core/format.js";
import { confirm } from "../ui/dialogs.js";
import { $, setText, setTextOrHide } from "../ui/dom.js";
import { buildQuery } from "./filters.js";
import { clearSelection, selectedIds } from "./selection.js";

const MAX_CONCURRENT = 4;
const MERGE_PATCH = "application/merge-patch+json";
const NEEDS_VALUES = "need values that are not stored: run each of them again by itself";

const patch = (held) => (id) => request("PATCH", `/api/jobs/${id}`, { body: { held }, contentType: MERGE_PATCH });
const ACTIONS = {
  cancel: { done: "cancelled", ask: "Cancel", send: (id) => request("POST", `/api/jobs/${id}/cancel`) },
  again: { done: "submitted again", ask: "Run again", send: (id) => request("POST", `/api/jobs/${id}/again`, { body: {}, idempotencyKey: createIdempotencyKey() }) },
  hold: { done: "held", send: patch(true) },
  release: { done: "released", send: patch(false) },
  delete: { done: "deleted", ask: "Delete", send: (id) => request("DELETE", `/api/jobs/${id}`) },
};
const FILTERED = {
  cancel: { method: "POST", path: "/api/jobs/cancel", count: "cancelled" },
  delete: { method: "DELETE", path: "/api/jobs", count: "deleted" },
};

let allMatching = false; // rather than the selected ones
let onDone = () => {};

/** Wire the buttons of the selection; `listener` is called when something was done. */
export function wireBulkActions(listener) {
  onDone = listener;
  for (const button of document.querySelectorAll("[data-bulk]"))
    button.addEventListener("click", () => carryOut(button.dataset.bulk));
  $("selection-clear").addEventListener("click", clearSelection);
  $("selection-matching").addEventListener("click", () => {
    allMatching = true;
    setText($("selection-count"), "All jobs that match the filters");
    showButtons(false);
  });
}

/** Update the buttons for the present selection; `more` is whether the filters select more than what is listed. */
export function showBulkActions(more) {
  allMatching = false;
  showButtons(more);
  if (selectedIds().length) setTextOrHide($("selection-message"), "");
}

function showButtons(more) {
  $("selection-matching").hidden = !more;
  for (const button of document.querySelectorAll("[data-bulk]")) button.hidden = allMatching && !FILTERED[button.dataset.bulk];
}

async function carryOut(name) {
  for (const button of document.querySelectorAll("[data-bulk]")) button.disabled = true;
  try {
    const message = await (allMatching ? carryOutFiltered(name) : carryOutEach(name, selectedIds()));
    if (message === null) return;
    clearSelection();
    setTextOrHide($("selection-message"), message);
    onDone();
  } catch (error) {
    setTextOrHide($("selection-message"), error.message);
  } finally {
    for (const button of document.querySelectorAll("[data-bulk]")) button.disabled = false;
  }
}

/** Returns what was done, or null if it was not confirmed. */
async function carryOutEach(name, ids) {
  const { ask, done, send } = ACTIONS[name];
  const question = `${ask} ${formatCount(ids.length, "job")}?`;
  if (ask && !(await confirm(question, describeIds(ids), `${ask} ${formatCount(ids.length, "job")}`, "Leave them"))) return null;
  const errors = new Map(); // ids by message
  let count = 0;
  const remaining = [...ids];
  await Promise.all(Array.from({ length: MAX_CONCURRENT }, async () => {
    for (let id = remaining.shift(); id !== undefined; id = remaining.shift()) {
      try {
        await send(id);
        count += 1;
      } catch (error) {
        const message = name === "again" && error.status === 422 ? NEEDS_VALUES : error.message.replace(new RegExp(`\\b(job )?${id}\\b`), "it");
        errors.set(message, [...(errors.get(message) ?? []), id]);
      }
      setTextOrHide($("selection-message"), `${count} of ${formatCount(ids.length, "job")} ${done}…`);
    }
  }));
  const failures = [...errors].map(([message, failed]) => `${describeIds(failed)}: ${message}`);
  return [`${formatCount(count, "job")} ${done}`, ...failures].join(". ");
}

function describeIds(ids) {
  const shown = ids.slice(0, 20).join(", ");
  return `Job${ids.length === 1 ? "" : "s"} ${shown}${ids.length > 20 ? ` and ${ids.length - 20} more` : ""}`;
}

/** The service says how many jobs it would be before it is confirmed. */
async function carryOutFiltered(name) {
  const { method, path, count } = FILTERED[name];
  const query = buildQuery({ sort: false });
  const would = await request(method, `${path}?${query}`).catch((error) => {
    if (error.document?.[count] === undefined) throw error;
    return error.document;
  });
  const { ask, done } = ACTIONS[name];
  const number = formatCount(would[count], "job");
  if (!(await confirm(`${ask} ${number}?`, "These are all jobs that match the filters, also those that are not listed yet.", `${ask} ${number}`, "Leave them"))) return null;
  query.set("confirm", "true");
  return `${formatCount((await request(method, `${path}?${query}`))[count], "job")} ${done}`;
}
