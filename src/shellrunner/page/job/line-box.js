/* The box that goes to a line of the output by its number, and copies a link to it. */

import { hashWith } from "../core/address.js";
import { get } from "../core/api.js";
import { formatCount } from "../core/format.js";
import { wireCopyButton } from "../ui/clipboard.js";
import { $, setText } from "../ui/dom.js";

/** Wire the box. `output` has jobId(), selected() for the number of the selected line or 0, and go(line). Returns an object
    with show(visible). */
export function wireLineBox(output) {
  const show = (visible) => {
    $("line-box").hidden = !visible;
    $("line-open").setAttribute("aria-expanded", String(visible));
    if (!visible) return;
    $("line-number").value = output.selected() || "";
    $("line-number").select();
    showCount(output.jobId());
  };
  $("line-box").addEventListener("submit", (event) => {
    event.preventDefault();
    output.go(Math.max(1, Number($("line-number").value)));
  });
  $("line-box").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    show(false);
    $("line-open").focus();
  });
  $("line-open").addEventListener("click", () => show($("line-box").hidden));
  $("line-close").addEventListener("click", () => show(false));
  wireCopyButton($("line-link"), "Link", () => linkToLine(output.jobId(), $("line-number").value));
  return { show };
}

function linkToLine(jobId, line) {
  return new URL(hashWith({ job: line ? `${jobId}-${line}` : String(jobId) }), location.href).href;
}

async function showCount(jobId) {
  setText($("line-count"), "");
  const last = await get(`/api/statuses/${jobId}/output/line`).catch(() => null);
  if (last) setText($("line-count"), `of ${formatCount(last.lines, "line")}`);
}
