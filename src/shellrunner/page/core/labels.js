/* Display names of job states and endings, and the tone that decides their colour and icon. It must not know about the
   page's elements. */

import { formatDate } from "./format.js";

const INSTANT = /\d{4}-\d\d-\d\dT[0-9:.]+Z/g;
const STATES = { waiting: "Waiting", queued: "Queued", running: "Running", done: "Done" };
/** In the order in which the list's filter offers them; a command's own exit is shown by its code instead. */
export const ENDINGS = {
  signalled: "Signalled",
  timed_out: "Timed out",
  cancelled: "Cancelled",
  output_limit: "Output limit",
  out_of_memory: "Out of memory", // reserved: no server produces it yet
  failed_to_start: "Failed to start",
  skipped: "Skipped",
  lost: "Lost",
};
const TONES = { cancelled: "stopped", skipped: "stopped", lost: "unknown" };

/** The endings that are failures, beside an exit with another code than 0. A job that was cancelled ended as somebody
    wanted, and one that was skipped names the job that failed. */
export const FAILED_ENDINGS = Object.keys(ENDINGS).filter((ending) => TONES[ending] !== "stopped");

/** A job's state, or how it ended. */
export function stateLabel(job) {
  if (job.state === "running" && job.unreachable) return "Unreachable";
  if (job.state !== "done" && job.cancelling) return "Cancelling";
  if (job.state === "running" && job.paused) return "Paused";
  if (job.pending?.reason === "held") return "Held";
  if (job.state !== "done") return STATES[job.state] || job.state;
  if (job.ending === "exited") return `Exit ${job.exit_code}`;
  if (job.ending === "signalled") return job.signal || ENDINGS.signalled;
  return ENDINGS[job.ending] || job.ending || STATES.done;
}

/** How an attempt ended that another one followed. */
export const attemptLabel = (end) => `Attempt ${end.attempt} of ${end.max_attempts}: ${stateLabel({ ...end, state: "done" })}`;

/** A job's tone: waiting, running, success, failure, stopped or unknown. */
export function stateTone(job) {
  if (job.state === "running" && job.unreachable) return "unknown";
  if (job.state === "running") return job.paused ? "waiting" : "running";
  if (job.state !== "done") return "waiting";
  if (job.ending === "exited") return job.exit_code === 0 ? "success" : "failure";
  return TONES[job.ending] || (job.ending ? "failure" : "unknown");
}

/** What the service says about a job, with its instants as local times. */
export const describeDetail = (detail) => detail.replace(INSTANT, formatDate);

/** Why a job waits, in words; "" if it does not. */
export const describePending = (pending) => (pending ? describeDetail(pending.detail) : "");

/** That the host of a running job is not reachable, in words. */
export const describeUnreachable = ({ host, since }) =>
  `host ${host} unreachable since ${formatDate(since)}: whether the job runs is not known`;
