/* Formatting of durations, times, sizes and counts for display. It must not know about the page's elements. */

import { serverTime } from "./api.js";

const dateAndTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const timeOfDay = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const monthAndDay = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

const UNITS = ["KiB", "MiB", "GiB", "TiB"];
// Ties go to the even digit, as in Python: the command line formats the same size to the same text.
const oneDecimal = new Intl.NumberFormat("en", {
  minimumFractionDigits: 1, maximumFractionDigits: 1, roundingMode: "halfEven", useGrouping: false,
});

/** A duration in seconds: 0.002 s, 0.34 s, 12.5 s, 4m 05s, 3h 12m, 2d 4h. */
export function formatDuration(seconds) {
  if (seconds == null) return "";
  if (seconds < 0.1) return `${seconds.toFixed(3)} s`;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return formatElapsed(Math.round(seconds));
}

/** A duration in whole seconds, for a display that ticks. */
export function formatElapsed(seconds) {
  const pad = (number) => String(number).padStart(2, "0");
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${pad(seconds % 60)}s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)}h ${pad(Math.floor((seconds % 3600) / 60))}m`;
  return `${Math.floor(seconds / 86400)}d ${Math.floor((seconds % 86400) / 3600)}h`;
}

/** The age of an instant; from a day on, its date. */
export function formatAge(instant) {
  const then = new Date(instant);
  const seconds = Math.max(0, (serverTime() - then) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago, ${timeOfDay.format(then)}`;
  return `${monthAndDay.format(then)}, ${timeOfDay.format(then)}`;
}

/** The local date and time, followed by the instant as the API writes it. */
export function formatInstant(instant) {
  return instant ? `${dateAndTime.format(new Date(instant))} (${instant})` : "";
}

/** The local time of day with milliseconds. */
export function formatTimestamp(instant) {
  const then = new Date(instant);
  const pad = (number, digits = 2) => String(number).padStart(digits, "0");
  return `${pad(then.getHours())}:${pad(then.getMinutes())}:${pad(then.getSeconds())}.${pad(then.getMilliseconds(), 3)}`;
}

/** A size in bytes: 0 B, 12.5 KiB. */
export function formatSize(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  let amount = bytes / 1024;
  let unit = 0;
  for (; amount >= 1024 && unit < UNITS.length - 1; unit += 1) amount /= 1024;
  return `${oneDecimal.format(amount)} ${UNITS[unit]}`;
}

/** A number with its noun: 1 job, 2 jobs. */
export const formatCount = (number, noun) => `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;
