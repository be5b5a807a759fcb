/* Times for people: how long ago, how long it took, how long it has been running. Ticks for all of the page at once. */

import { make, write } from "./dom.js";
import { door } from "../core/api.js";

const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

/** A duration of so many seconds: 0.002 s, 0.34 s, 12.5 s, 4m 05s, 3h 12m, 2d 4h. */
export function duration(seconds) {
  if (seconds == null) return "";
  if (seconds < 0.1) return `${seconds.toFixed(3)} s`;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return coarse(Math.round(seconds));
}

function coarse(seconds) {
  const pad = (number) => String(number).padStart(2, "0");
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${pad(seconds % 60)}s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}h ${pad(Math.floor((seconds % 3600) / 60))}m`;
  return `${Math.floor(seconds / 86400)}d ${Math.floor((seconds % 86400) / 3600)}h`;
}

/** How long ago it was, in one word; what is days ago has its date. */
function ago(instant) {
  const then = new Date(instant);
  const seconds = Math.max(0, (door.now() - then) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago, ${clock.format(then)}`;
  return `${day.format(then)}, ${clock.format(then)}`;
}

/** The time itself, to the millisecond. */
export function exact(instant) {
  return instant ? `${full.format(new Date(instant))} (${instant})` : "";
}

/** An element that says how long ago this was, goes on saying so, and has the time itself as its title. */
export function since(instant) {
  const element = make("time", { datetime: instant, title: exact(instant), "data-ticks": "ago" });
  tick(element);
  return element;
}

/** An element that says how long it has been going on. */
export function running(instant) {
  const element = make("time", { datetime: instant, title: `since ${exact(instant)}`, "data-ticks": "running" });
  tick(element);
  return element;
}

function tick(element) {
  const { ticks } = element.dataset;
  const seconds = Math.floor((door.now() - Date.parse(element.dateTime)) / 1000);
  write(element, ticks === "ago" ? ago(element.dateTime) : coarse(Math.max(0, seconds)));
}

setInterval(() => {
  if (!document.hidden) document.querySelectorAll("[data-ticks]").forEach(tick);
}, 1000);

document.addEventListener("visibilitychange", () => document.querySelectorAll("[data-ticks]").forEach(tick));
