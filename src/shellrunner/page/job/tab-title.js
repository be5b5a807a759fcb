/* The tab's title and icon, which show the open job's state. */

import { escapeControls } from "../core/escape.js";
import { stateLabel, stateTone } from "../core/labels.js";
import { SYMBOLS } from "../ui/badge.js";

const MAX_COMMAND = 60; // characters
const icon = document.querySelector('link[rel="icon"]');

/** Show a job in the tab's title and icon, or none. */
export function showInTab(job) {
  const tone = job ? stateTone(job) : "idle";
  const title = job ? `${SYMBOLS[tone]} ${stateLabel(job)} · ${escapeControls(job.name || job.command, MAX_COMMAND)} · shellrunner` : "shellrunner";
  if (document.title !== title) document.title = title;
  const href = new URL(`../icons/${tone}.svg`, import.meta.url).href;
  if (icon.href !== href) icon.href = href;
}
