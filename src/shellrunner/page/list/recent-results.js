/* A bar chart of the jobs that ended last: a bar's height is the job's duration, its colour how the job ended. */

import { linkTo } from "../core/address.js";
import { get } from "../core/api.js";
import { escapeControls } from "../core/escape.js";
import { formatDuration, formatInstant } from "../core/format.js";
import { stateLabel, stateTone } from "../core/labels.js";
import { $, createElement, replaceKeepingFocus } from "../ui/dom.js";

const MAX_BARS = 60;
const MAX_LABEL = 120; // characters that a screen reader reads
const FIELDS = "result_id,name,command,duration,completed,ending,exit_code,signal";

/** Fetch and show the last results that match these filters. */
export async function refreshRecentResults(filters) {
  const query = new URLSearchParams(filters);
  query.set("sort", "-completed");
  query.set("limit", MAX_BARS);
  query.set("fields", FIELDS);
  const { results } = await get(`/api/results?${query}`);
  replaceKeepingFocus($("recent"), ...createBars(results.reverse()));
}

function createBars(results) {
  // Logarithmic, so that a second is visible beside an hour.
  const scale = (seconds) => Math.log10(1 + 10 * (seconds || 0));
  const max = Math.max(scale(1), ...results.map((result) => scale(result.duration)));
  return results.map((result) => createBar(result, scale(result.duration) / max));
}

function createBar(result, height) {
  const job = { ...result, state: "done" };
  const duration = result.duration == null ? "" : `, ${formatDuration(result.duration)}`;
  const description = `Job ${result.result_id}, ${stateLabel(job)}${duration}: ${escapeControls(result.name || result.command, 300)}`;
  const bar = createElement("span", { "data-tone": stateTone(job), "aria-hidden": "true" });
  bar.style.setProperty("--height", height);
  const attributes = {
    title: `${description}\n${formatInstant(result.completed)}`,
    "aria-label": description.slice(0, MAX_LABEL),
  };
  return createElement("li", {}, createElement("a", { ...linkTo({ job: String(result.result_id) }), ...attributes }, bar));
}
