/* What a new job takes over from one that is run again: everything that the API shows of it. The API never shows the
   values of environment variables or the standard input, so these have to be entered again. Pure functions. */

const CARRIED_OVER = ["priority", "labels", "merge_stderr", "leave_children", "encoding", "retries", "tty"];
const DEFAULTS = { priority: 0, merge_stderr: false, encoding: "utf-8" };

/** The values of the run box's fields for this job. */
export function fieldsFrom(job) {
  const { command, cwd, timeout, queue } = job;
  return { command, cwd, timeout, queue, env: (job.env || []).map((name) => `${name}=`).join("\n") };
}

/** The job's other settings, as far as they differ from the defaults. */
export function settingsFrom(job) {
  const settings = {};
  for (const key of CARRIED_OVER) if (isGiven(job[key]) && job[key] !== DEFAULTS[key]) settings[key] = job[key];
  const limits = Object.fromEntries(Object.entries(job.limits || {}).filter(([, limit]) => limit !== null));
  if (Object.keys(limits).length) settings.limits = limits;
  if (job.stdin?.stream) settings.stdin = { stream: true };
  if (job.argv) settings.argv = job.argv;
  return settings;
}

/** The settings as text. */
export function describeSettings(settings) {
  return Object.entries(settings).map(([key, value]) => describe(key, value)).join(", ");
}

/** The body of a new job. `argv` is carried over only if the command is still the original one. */
export function buildBody(fields, settings, originalCommand) {
  const { argv, ...otherSettings } = settings;
  if (argv && fields.command === originalCommand) {
    const { command, ...otherFields } = fields;
    return { ...otherSettings, ...otherFields, argv };
  }
  return { ...otherSettings, ...fields };
}

function isGiven(value) {
  return value != null && (typeof value !== "object" || Object.keys(value).length > 0);
}

function describe(key, value) {
  if (value === true) return key.replace("_", " ");
  if (key === "labels") return Object.entries(value).map((label) => label.join("=")).join(" ");
  if (key === "argv") return "no shell";
  return `${key.replace("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`;
}
