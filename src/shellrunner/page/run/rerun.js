/* What a new job takes over from an earlier one: everything that the API shows of it. It never shows the values of
   environment variables or standard input, so these have to be entered again. Pure functions. */

const OWN = ["start_at", "after", "held", "notify", "profile"]; // what belonged to that job alone, or may not be its own

/** The specification of this job for the form: variables whose values are not known have none. With `again` it is that
    of another run of the job, else a template for new ones. */
export function fromJob(job, { again = false } = {}) {
  const spec = { ...job, env: Object.fromEntries((job.env || []).map((name) => [name, null])) };
  if (!again) for (const key of OWN) delete spec[key];
  return spec;
}

// The keys of a specification that inputs of other names stand for.
const KEYS = { splitStderr: "merge_stderr", delay: "start_at", argv: "command" };

/** What of a specification differs from that of the job that is run again. The inputs before and now decide, because its
    secrets are not known. Null removes a key. */
export function replacements(before, now, spec) {
  const changed = new Set(Object.keys(now).filter((key) => now[key] !== before[key]).map((key) => KEYS[key] ?? key.split(".")[0]));
  if (before.env.trim()) changed.add("env"); // its values are not stored
  if (changed.has("command")) changed.add("argv");
  return Object.fromEntries([...changed].map((key) => [key, spec[key] ?? null]));
}
