/* The selected jobs, by id. It must not know about the network. */

import { $, setText } from "../ui/dom.js";
import { formatCount } from "../core/format.js";

const selected = new Set();
let last = null; // the id that was selected last, where a range begins
let onChange = () => {};

export const isSelected = (id) => selected.has(id);
export const selectedIds = () => [...selected].sort((one, other) => one - other);

/** Call `listener` whenever the selection has changed. */
export function onSelection(listener) {
  onChange = listener;
}

/** Select a job, or not; with `to`, the listed ids, all from the last one that was selected to this one. */
export function select(id, wanted, ids = null) {
  const [from, to] = [ids?.indexOf(last) ?? -1, ids?.indexOf(id) ?? -1].sort((one, other) => one - other);
  for (const each of from < 0 ? [id] : ids.slice(from, to + 1)) setSelected(each, wanted);
  last = id;
  change();
}

/** Select all of these, or none of them. */
export function selectAll(ids, wanted) {
  for (const id of ids) setSelected(id, wanted);
  change();
}

export function clearSelection() {
  selected.clear();
  change();
}

/** Forget a job that is gone. */
export function forget(id) {
  if (selected.delete(id)) change();
}

function setSelected(id, wanted) {
  if (wanted) selected.add(id);
  else selected.delete(id);
}

function change() {
  $("selection").hidden = selected.size === 0;
  setText($("selection-count"), `${formatCount(selected.size, "job")} selected`);
  onChange();
}
