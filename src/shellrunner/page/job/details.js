/* A job's details as a list of names and values. It must not know about the network. */

import { linkTo } from "../core/address.js";
import { escapeControls } from "../core/escape.js";
import { formatDuration, formatSize } from "../core/format.js";
import { stateLabel } from "../core/labels.js";
import { createElement } from "../ui/dom.js";
import { createAge, createElapsed } from "../ui/time-elements.js";

/** Create the list entries for a job; `result` is null until the job is done, `live` is what it uses now, or null. Empty
    values are left out. */
export function createDetails(job, status, result, live) {
  const { usage } = result ?? {};
  const details = [
    ["Time", runningTime(status, result)],
    ["Ended", status.completed && createAge(status.completed)],
    ["Accepted", createAge(job.created)],
    ["Waited", waitingTime(job, status)],
    ["Host", status.host && createElement("a", linkTo({ host: status.host }), status.host)],
    ["Reported later", result?.found && describeFound(result.found)],
    ["Process", status.pid && `pid ${status.pid}`],
    ["Uses", live && status.state === "running" && liveUsage(live)],
    ["Exit code", status.exit_code === null || status.ending === "exited" ? null : String(status.exit_code)], // else the badge has it
    ["Signal", status.ending !== "signalled" && status.signal],
    ["CPU", usage && `${formatDuration(usage.cpu_user)} user, ${formatDuration(usage.cpu_system)} system`],
    ["Memory", usage?.max_rss_bytes && `${formatSize(usage.max_rss_bytes)} peak`],
    ["Output", result && outputSizes(result)],
    ["Left behind", result?.leftovers_count && leftovers(result)],
    ["Queue", createElement("a", linkTo({ queue: job.queue }), job.queue)],
    ["Profile", job.profile],
    ["Directory", job.cwd],
    ["Timeout", job.timeout && formatDuration(job.timeout)],
    ["Priority", job.priority && String(job.priority)],
    ["Environment", job.env.length && job.env.join(" ")],
    ["Labels", Object.keys(job.labels).length && createElement("span", {}, ...Object.entries(job.labels).flatMap(createLabel))],
    ["Again", job.again_of && createElement("a", linkTo({ job: String(job.again_of) }), `job ${job.again_of}`)],
    ["After", job.after.length && createElement("ul", { class: "chain" }, ...job.after.map(createDependency))],
    ["Not before", job.start_at && createAge(job.start_at)],
    ["Attempt", job.retries && `${status.attempt} of at most ${job.retries.max + 1}`],
    ["Callback", job.notify && (job.notify.error ? `${job.notify.state}: ${job.notify.error}` : job.notify.state)],
  ];
  return details.filter(([, value]) => value).map(createEntry);
}

function createEntry([name, value]) {
  const content = typeof value === "string" ? escapeControls(value) : value;
  return createElement("div", {}, createElement("dt", {}, name), createElement("dd", {}, content));
}

function createLabel([name, value]) {
  const link = createElement("a", { class: "chip", ...linkTo({ label: `${name}:${value}` }) }, escapeControls(`${name}=${value}`));
  return [link, " "];
}

function createDependency(id) {
  return createElement("li", {}, createElement("a", linkTo({ job: String(id) }), `job ${id}`));
}

function liveUsage({ cpu_share, rss_bytes, processes }) {
  return `${Math.round(100 * cpu_share)} % CPU, ${formatSize(rss_bytes)}, ${processes} ${processes === 1 ? "process" : "processes"}`;
}

/** What the host of a lost job has reported since. */
function describeFound(found) {
  return createElement("span", {}, `${stateLabel({ ...found, state: "done" })}, `, createAge(found.completed));
}

function runningTime(status, result) {
  if (status.state === "running" && status.started) return createElapsed(status.started);
  return result?.duration == null ? null : formatDuration(result.duration);
}

function waitingTime(job, { started }) {
  const seconds = started ? (Date.parse(started) - Date.parse(job.created)) / 1000 : 0;
  return seconds > 1 && formatDuration(seconds);
}

function leftovers({ leftovers_count: count, leftovers: processes }) {
  const names = processes.map(({ pid, command }) => `${command} (pid ${pid})`);
  if (count > names.length) names.push(`${count - names.length} more`);
  return `${count} ${count === 1 ? "process" : "processes"}, ended with it: ${names.join(", ")}`;
}

function outputSizes({ stdout_bytes, stderr_bytes, stdout_dropped, stderr_dropped }) {
  const dropped = stdout_dropped + stderr_dropped;
  const parts = [
    `${formatSize(stdout_bytes)} stdout`,
    stderr_bytes && `${formatSize(stderr_bytes)} stderr`,
    dropped && `${formatSize(dropped)} not stored`,
  ];
  return parts.filter((part) => part).join(", ");
}
