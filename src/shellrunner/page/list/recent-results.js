/* A strip of what ended last: one bar a job, as high as it took long, coloured by how it ended. */

import { $, make, refill } from "../ui/dom.js";
import { link } from "../core/address.js";
import { duration, exact } from "../ui/time-elements.js";
import { get } from "../core/api.js";
import { plain } from "../core/escape.js";
import { stateOf, toneOf } from "../core/labels.js";

const BARS = 60;
const FIELDS = "result_id,command,duration,completed,ending,exit_code,signal";

/** Read and show the last ones that fit these filters. */
export async function showRecent(filters) {
  const query = new URLSearchParams(filters);
  query.set("sort", "-completed");
  query.set("limit", BARS);
  query.set("fields", FIELDS);
  const { results } = await get(`/api/results?${query}`);
  refill($("recent"), ...bars(results.reverse()));
}

function bars(results) {
  // The scale is logarithmic: a second is to be seen beside an hour.
  const scale = (seconds) => Math.log10(1 + 10 * (seconds || 0));
  const highest = Math.max(scale(1), ...results.map((result) => scale(result.duration)));
  return results.map((result) => {
    const job = { ...result, state: "done" };
    const words = `job ${result.result_id}, ${stateOf(job)}${result.duration == null ? "" : `, ${duration(result.duration)}`}: ${plain(result.command, 300)}`;
    const bar = make("span", { "data-tone": toneOf(job), "aria-hidden": "true" });
    bar.style.setProperty("--height", scale(result.duration) / highest);
    const about = { title: `${words}\n${exact(result.completed)}`, "aria-label": words.slice(0, 120) };
    return make("li", {}, make("a", { ...link({ job: String(result.result_id) }), ...about }, bar));
  });
}
