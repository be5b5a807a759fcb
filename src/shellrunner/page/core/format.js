/* Formatting of durations, times, sizes and counts for display. It must not know about the page's elements. */

import { serverTime } from "./api.js";

const dateAndTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const timeOfDay = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const monthAndDay = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const yearMonthAndDay = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

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

/** How far away an instant is: 12 s ago, in 5 min; from a day on, its date. */
export function formatAge(instant) {
  const then = new Date(instant);
  const seconds = (serverTime() - then) / 1000;
  const distance = Math.ceil(Math.abs(seconds));
  if (distance >= 86400) return formatDate(then);
  return seconds < 0 ? `in ${formatDistance(distance)}` : `${formatDistance(distance)} ago`;
}

/** Rounded up, so that what took a while is never shown as having begun less than that while ago. */
function formatDistance(seconds) {
  const minutes = Math.ceil(seconds / 60);
  if (seconds < 60) return `${seconds} s`;
  return minutes < 60 ? `${minutes} min` : formatElapsed(minutes * 60);
}

/** The date and the time of day; the year only if it is not the present one. */
export function formatDate(instant) {
  const then = new Date(instant);
  const format = then.getFullYear() === new Date(serverTime()).getFullYear() ? monthAndDay : yearMonthAndDay;
  return `${format.format(then)}, ${timeOfDay.format(then)}`;
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
