/* The badge that shows a job's state. */

import { stateLabel, stateTone } from "../core/labels.js";
import { createElement } from "./dom.js";

/** A symbol for each tone, for people who cannot distinguish the colours. */
export const SYMBOLS = { waiting: "•", running: "▶", success: "✓", failure: "✗", stopped: "■", unknown: "?" };

/** Create a badge for a job. Its symbol and its label repeat what its colour means. */
export function createBadge(job) {
  const tone = stateTone(job);
  const symbol = createElement("span", { "aria-hidden": "true" }, SYMBOLS[tone]);
  return createElement("span", { class: "badge", "data-tone": tone }, symbol, createElement("span", {}, stateLabel(job)));
}
