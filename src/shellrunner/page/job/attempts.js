/* The attempts of a job that was retried, each with its own ending. */

import { get } from "../core/api.js";
import { formatDuration } from "../core/format.js";
import { createBadge } from "../ui/badge.js";
import { $, createElement } from "../ui/dom.js";

const MAX_SHOWN = 20;

/** Fetch and show the last attempts of a result, if there was more than one. */
export async function showAttempts(result) {
  const links = result && result.attempts.length > 1 ? result.attempts.slice(-MAX_SHOWN) : [];
  const attempts = await Promise.all(links.map((link) => get(link).catch(() => null)));
  $("job-attempts").hidden = links.length === 0;
  $("job-attempts").replaceChildren(...attempts.filter((attempt) => attempt).map(createItem));
}

function createItem(attempt) {
  const duration = attempt.duration == null ? "" : `, ${formatDuration(attempt.duration)}`;
  const badge = createBadge({ ...attempt, state: "done" });
  return createElement("li", { title: attempt.detail }, badge, ` Attempt ${attempt.attempt}${duration}`);
}
