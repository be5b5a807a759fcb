/* What a new job takes over from an earlier one: everything that the API shows of it. It never shows the values of
   environment variables or standard input, so these have to be entered again. Pure functions. */

import { createPatch } from "../form/patch.js";

// What says when that job might start, which is not repeated; and what a template takes over neither: the address of the
// callback is not shown, and the profile may be that of a token.
const TIMING = ["start_at", "after", "held"];
const NOT_IN_TEMPLATES = ["notify", "profile"];

/** The specification of this job for the form: variables whose values are not known have none. With `again` it is that
    of another run of the job, else a template for new ones. */
export function fromJob(job, { again = false } = {}) {
  const spec = { ...job, env: Object.fromEntries((job.env || []).map((name) => [name, null])) };
  for (const key of again ? TIMING : [...TIMING, ...NOT_IN_TEMPLATES]) delete spec[key];
  return spec;
}

// The keys of a specification that inputs of other names stand for.
const KEYS = { splitStderr: "merge_stderr", delay: "start_at", argv: "command" };

/** The merge patch that makes of a job's specification the one of the form. The inputs before and now decide what has
    changed, because the job's secrets are not known. */
export function patchFor(job, before, now, spec) {
  const changed = new Set(Object.keys(now).filter((key) => now[key] !== before[key]).map((key) => KEYS[key] ?? key.split(".")[0]));
  if (job.env.length) changed.add("env"); // its values are not stored
  if (changed.has("command")) changed.add("argv");
  return createPatch(job, spec, changed);
}
