/* The attempts of a job that was retried, each with its own ending, and a link to where its output begins. */

import { linkTo } from "../core/address.js";
import { get } from "../core/api.js";
import { formatDuration } from "../core/format.js";
import { createBadge } from "../ui/badge.js";
import { $, createElement } from "../ui/dom.js";

const MAX_SHOWN = 20;

/** Fetch and show the last attempts of a result, if there was more than one, while `isWanted()`. */
export async function showAttempts(result, isWanted) {
  const links = result && result.attempts.length > 1 ? result.attempts.slice(-MAX_SHOWN) : [];
  const attempts = await Promise.all(links.map((link) => get(link).catch(() => null)));
  const lines = attempts.length && attempts.every((attempt) => attempt) ? await findFirstLines(result.job_id, attempts) : [];
  if (!isWanted()) return;
  $("job-attempts").hidden = links.length === 0;
  $("job-attempts").replaceChildren(...attempts.map((attempt, index) => attempt && createItem(attempt, lines[index])).filter(Boolean));
}

/** The number of the line in which the output of each attempt begins, or null where it is not known. The output of a job
    is that of its attempts, one after the other. */
async function findFirstLines(jobId, attempts) {
  const path = `/api/statuses/${jobId}/output/line`;
  const last = await get(path).catch(() => null);
  if (!last) return [];
  let start = last.size;
  const starts = attempts.toReversed().map((attempt) => (start -= attempt.stdout_bytes + attempt.stderr_bytes)).toReversed();
  const found = starts.map((position, index) => {
    const isEmpty = position === (starts[index + 1] ?? last.size);
    return isEmpty || position < 0 ? null : get(`${path}?from=${position}`).catch(() => null);
  });
  return (await Promise.all(found)).map((place) => place && place.line);
}

function createItem(attempt, line) {
  const duration = attempt.duration == null ? "" : `, ${formatDuration(attempt.duration)}`;
  const badge = createBadge({ ...attempt, state: "done" });
  const name = `Attempt ${attempt.attempt}`;
  const link = line ? createElement("a", linkTo({ job: `${attempt.job_id}-${line}` }), name) : name;
  return createElement("li", { title: attempt.detail }, badge, createElement("span", {}, link, duration));
}
