/* What is done with all selected jobs: one request per job, or one request for all that match the filters. */

import { createIdempotencyKey, request } from "../core/api.js";
import { formatCount } from "../core/format.js";
import { confirm } from "../ui/dialogs.js";
import { $, setText, setTextOrHide } from "../ui/dom.js";
import { buildQuery } from "./filters.js";
import { clearSelection, selectedIds } from "./selection.js";

const MAX_CONCURRENT = 4;
const NEEDS_VALUES = "need values that are not stored";

const again = (id, body = {}) => request("POST", `/api/jobs/${id}/again`, { body, idempotencyKey: createIdempotencyKey() });
const patch = (held) => (id) => request("PATCH", `/api/jobs/${id}`, { body: { held } });
const ACTIONS = {
  cancel: { done: "cancelled", ask: "Cancel", send: (id) => request("POST", `/api/jobs/${id}/cancel`) },
  again: { done: "submitted again", ask: "Run again", send: (id) => again(id) },
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
let askForSecrets = () => {};

/** Wire the buttons of the selection. `changed()` is called when something was done. `secretsOf(refusals)` asks for what
    the service missed in jobs that are to run again, and resolves to the bodies of those that have it now, by their ids. */
export function wireBulkActions({ changed, secretsOf }) {
  onDone = changed;
  askForSecrets = secretsOf;
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
  const errors = await sendEach(ids, send, (count) => report(count, ids.length, done));
  if (name === "again") await sendWithSecrets(errors);
  const failures = [...groupByMessage(errors)].map(([message, failed]) => `${describeIds(failed)}: ${message}`);
  return [`${formatCount(ids.length - errors.size, "job")} ${done}`, ...failures].join(". ");
}

/** Run those again that were refused because values are not stored, after these were entered. */
async function sendWithSecrets(errors) {
  const bodies = await askForSecrets(errors);
  for (const id of bodies.keys()) errors.delete(id);
  const failed = await sendEach([...bodies.keys()], (id) => again(id, bodies.get(id)), () => {});
  for (const [id, error] of failed) errors.set(id, error);
}

const report = (count, all, done) => setTextOrHide($("selection-message"), `${count} of ${formatCount(all, "job")} ${done}…`);

/** Send a request for each job, a few at a time; returns the errors by the ids of those that failed. */
async function sendEach(ids, send, onProgress) {
  const errors = new Map();
  const remaining = [...ids];
  let succeeded = 0;
  await Promise.all(Array.from({ length: MAX_CONCURRENT }, async () => {
    for (let id = remaining.shift(); id !== undefined; id = remaining.shift()) {
      try {
        await send(id);
        succeeded += 1;
      } catch (error) {
        errors.set(id, error);
      }
      onProgress(succeeded);
    }
  }));
  return errors;
}

const isMissingValues = ({ errors = [] }) => errors.some(({ pointer }) => /^#\/(env\/|stdin$)/.test(pointer));

/** The ids of the jobs that failed, by what was wrong. */
function groupByMessage(errors) {
  const groups = new Map();
  for (const [id, error] of errors) {
    const message = isMissingValues(error) ? NEEDS_VALUES : error.message.replace(new RegExp(`\\b(job )?${id}\\b`), "it");
    groups.set(message, [...(groups.get(message) ?? []), id]);
  }
  return groups;
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
