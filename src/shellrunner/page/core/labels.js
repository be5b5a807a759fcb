/* What the service's terms are called here, and which of a few colours they have. Knows no elements. */

const ENDINGS = {
  signalled: "signalled",
  timed_out: "timed out",
  cancelled: "cancelled",
  output_limit: "output limit",
  out_of_memory: "out of memory",
  failed_to_start: "failed to start",
  skipped: "skipped",
  lost: "lost",
};
const TONES = { cancelled: "stopped", skipped: "stopped", lost: "unknown" };
const SIZES = ["bytes", "kB", "MB", "GB", "TB"];

/** A job in one word: its state, or how it ended. */
export function stateOf(job) {
  if (job.state !== "done") return job.cancelling ? "cancelling" : job.state;
  if (job.ending === "exited") return `exit ${job.exit_code}`;
  if (job.ending === "signalled") return job.signal || "signalled";
  return ENDINGS[job.ending] || job.ending || "done";
}

/** The tone of a job: waiting, running, good, bad, stopped or unknown. */
export function toneOf(job) {
  if (job.state === "running") return "running";
  if (job.state !== "done") return "waiting";
  if (job.ending === "exited") return job.exit_code === 0 ? "good" : "bad";
  return TONES[job.ending] || (job.ending ? "bad" : "unknown");
}

/** A number of bytes. */
export function size(bytes) {
  let step = 0;
  let number = bytes;
  for (; number >= 1000 && step < SIZES.length - 1; step += 1) number /= 1000;
  return `${step ? number.toFixed(number < 10 ? 1 : 0) : number} ${SIZES[step]}`;
}

/** One of something, or several: `count(2, "job")` is 2 jobs. */
export const count = (number, noun) => `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`;
