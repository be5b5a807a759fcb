/* What a new job takes over from one that was run: all that the service shows of it. The values of its variables and
   its input it never shows, so these are to be given again. Knows no elements. */

const KEPT = ["priority", "labels", "merge_stderr", "leave_children", "encoding", "retries", "tty"];
const USUAL = { priority: 0, merge_stderr: false, encoding: "utf-8" };

/** The fields of the run box for this job. */
export function fieldsOf(job) {
  const { command, cwd, timeout, queue } = job;
  return { command, cwd, timeout, queue, env: (job.env || []).map((name) => `${name}=`).join("\n") };
}

/** What else of the job a new one is to have; nothing if it is all as usual. */
export function keptOf(job) {
  const kept = {};
  for (const key of KEPT) if (isGiven(job[key]) && job[key] !== USUAL[key]) kept[key] = job[key];
  const limits = Object.fromEntries(Object.entries(job.limits || {}).filter(([, limit]) => limit !== null));
  if (Object.keys(limits).length) kept.limits = limits;
  if (job.stdin?.stream) kept.stdin = { stream: true };
  if (job.argv) kept.argv = job.argv;
  return kept;
}

/** What is kept, in words. */
export function wordsOf(kept) {
  return Object.entries(kept).map(([key, value]) => wordOf(key, value)).join(", ");
}

/** The body of a new job: its fields and what was kept, which a changed command has no argv of. */
export function bodyOf(fields, kept, original) {
  const { argv, ...rest } = kept;
  if (argv && fields.command === original) {
    const { command, ...others } = fields;
    return { ...rest, ...others, argv };
  }
  return { ...rest, ...fields };
}

function isGiven(value) {
  return value != null && (typeof value !== "object" || Object.keys(value).length > 0);
}

function wordOf(key, value) {
  if (value === true) return key.replace("_", " ");
  if (key === "labels") return Object.entries(value).map((label) => label.join("=")).join(" ");
  if (key === "argv") return "no shell";
  return `${key.replace("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`;
}
