/* What is known of a job, as a list of names and values. Knows no network. */

import { make } from "../ui/dom.js";
import { duration, running, since } from "../ui/time-elements.js";
import { plain } from "../core/escape.js";
import { size } from "../core/labels.js";

/** The facts of a job; `result` is there once it is done. */
export function factsOf(job, status, result) {
  const facts = [
    ["accepted", since(job.created)],
    ["waited", waited(job, status)],
    ["ended", status.completed && since(status.completed)],
    ["time", timeOf(status, result)],
    ["exit code", status.exit_code === null ? null : String(status.exit_code)],
    ["signal", status.signal],
    ["CPU", result?.usage && `${duration(result.usage.cpu_user)} user, ${duration(result.usage.cpu_system)} system`],
    ["memory", result?.usage?.max_rss_bytes && `${size(result.usage.max_rss_bytes)} at most`],
    ["output", result && written(result)],
    ["queue", job.queue],
    ["directory", job.cwd],
    ["timeout", job.timeout && duration(job.timeout)],
    ["priority", job.priority && String(job.priority)],
    ["environment", job.env.length && job.env.join(" ")],
    ["labels", Object.keys(job.labels).length && Object.entries(job.labels).map((label) => label.join("=")).join(" ")],
    ["after", job.after.length && `job${job.after.length > 1 ? "s" : ""} ${job.after.join(", ")}`],
    ["not before", job.start_at && since(job.start_at)],
    ["attempt", job.retries && `${status.attempt} of at most ${job.retries.max + 1}`],
    ["notified", job.notify && (job.notify.error ? `${job.notify.state}: ${job.notify.error}` : job.notify.state)],
  ];
  return facts.filter(([, value]) => value).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, typeof value === "string" ? plain(value) : value)));
}

function timeOf(status, result) {
  if (status.state === "running" && status.started) return running(status.started);
  return result?.duration == null ? null : duration(result.duration);
}

function waited(job, { started }) {
  const seconds = started ? (Date.parse(started) - Date.parse(job.created)) / 1000 : 0;
  return seconds > 1 && duration(seconds);
}

function written({ stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped }) {
  const parts = [`${size(stdout_bytes)} stdout`, stderr_bytes && `${size(stderr_bytes)} stderr`];
  const dropped = stdout_dropped + stderr_dropped;
  return [...parts, dropped && `${size(dropped)} not stored`].filter((part) => part).join(", ");
}
