/* The attempts of a job that was tried again, each with its own ending. */

import { $, make } from "../ui/dom.js";
import { badge } from "../ui/badge.js";
import { duration } from "../ui/time-elements.js";
import { get } from "../core/api.js";

const MOST = 20;

/** Show the attempts of this result, if there were several. */
export async function showAttempts(result) {
  const links = result && result.attempts.length > 1 ? result.attempts.slice(-MOST) : [];
  const attempts = await Promise.all(links.map((link) => get(link).catch(() => null)));
  $("job-attempts").hidden = links.length === 0;
  $("job-attempts").replaceChildren(...attempts.filter((attempt) => attempt).map(item));
}

function item(attempt) {
  const words = ` attempt ${attempt.attempt}${attempt.duration == null ? "" : `, ${duration(attempt.duration)}`}`;
  return make("li", { title: attempt.detail }, badge({ ...attempt, state: "done" }), words);
}
