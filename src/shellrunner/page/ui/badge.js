/* A job's state at a glance: as a badge, and in the tab's title and icon. */

import { $, make, write } from "./dom.js";
import { plain } from "../core/escape.js";
import { stateOf, toneOf } from "../core/labels.js";

const SIGNS = { waiting: "•", running: "▶", good: "✓", bad: "✗", stopped: "■", unknown: "?" };
const icon = document.querySelector('link[rel="icon"]');

/** A badge for this job. Sign and word say what the colour says. */
export function badge(job) {
  const tone = toneOf(job);
  const sign = make("span", { "aria-hidden": "true" }, SIGNS[tone]);
  return make("span", { class: "badge", "data-tone": tone }, sign, make("span", {}, stateOf(job)));
}

/** Let the tab show this job, or none. */
export function mark(job) {
  const tone = job ? toneOf(job) : "idle";
  const title = job ? `${SIGNS[tone]} ${stateOf(job)} · ${plain(job.command, 60)} · shellrunner` : "shellrunner";
  if (document.title !== title) document.title = title;
  const address = new URL(`../icons/${tone}.svg`, import.meta.url).href;
  if (icon.href !== address) icon.href = address;
}

/** Say something to those who cannot see it. */
export function say(words) {
  write($("says"), words);
}

/** Show a connection: its state, and in words. */
export function showLine(element, state, words) {
  element.dataset.line = state;
  write(element.lastElementChild, words);
}
