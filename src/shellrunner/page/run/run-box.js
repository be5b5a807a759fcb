/* The form that runs a command. A submission whose response was lost is repeated with the same idempotency key, so that
   the command runs once. */

import { Unreachable, createIdempotencyKey, request } from "../core/api.js";
import { GROUPS, toSpec } from "../form/fields.js";
import { parsePointer } from "../form/pointer.js";
import { SpecForm } from "../form/spec-form.js";
import { splitWords } from "../form/words.js";
import { $, setText, setTextOrHide } from "../ui/dom.js";
import { CommandHistory } from "./history.js";
import { fromJob, patchFor } from "./rerun.js";
import { openTemplates } from "./templates.js";

const MAX_ROWS = 12;
const NO_INPUT = "The standard input of the earlier job is not stored. Enter it again, or press Run once more to run without it";

const commandHistory = new CommandHistory();
let options = null;
let original = null; // the job that is run again, as the form showed it
let missingInput = false; // whether standard input has to be entered, because that of the job before is not stored
let withoutInput = false; // whether none is wanted in its place
let submission = { inputs: "", key: "", body: null };

/** Wire the form; `onSubmitted` is called with each new job. */
export function wireRunBox(onSubmitted) {
  options = new SpecForm($("run-fields"), GROUPS);
  const command = $("run-command");
  $("run").addEventListener("submit", (event) => {
    event.preventDefault();
    run(onSubmitted);
  });
  $("run").addEventListener("keydown", submitOnEnter);
  command.addEventListener("keydown", browseHistory);
  command.addEventListener("input", () => {
    commandHistory.reset();
    fitRows();
  });
  $("run-toggle-options").addEventListener("click", () => showOptions($("run-options").hidden));
  $("run-templates").addEventListener("click", () => openTemplates(fillFromJob));
  $("run-reset").addEventListener("click", clear);
}

/** Enter runs, as in a shell; with Shift, and in the other fields of several lines, it begins a line. Ctrl+Enter runs
    everywhere. */
function submitOnEnter(event) {
  if (event.key !== "Enter" || event.isComposing || event.shiftKey || event.altKey) return;
  const runs = event.ctrlKey || event.metaKey || event.target === $("run-command");
  if (!runs) return;
  event.preventDefault();
  $("run").requestSubmit();
}

export function focusRunBox() {
  $("run-command").focus();
}

/** Fill the form from a job, so that it can be changed and run. With `again` it becomes another run of that job, for which
    the service knows what was not changed here. */
export function fillFromJob(job, { again = false } = {}) {
  fill(fromJob(job, { again }));
  original = again ? { job, inputs: readInputs() } : null;
  setText($("run-again-text"), again ? `Job ${job.job_id} again` : "From an earlier job");
  $("run-again").hidden = false;
  showOptions(true);
  focusRunBox();
}

function fill(job) {
  missingInput = Boolean(job.stdin?.text);
  withoutInput = false;
  $("run-command").value = job.command ?? "";
  $("run-split-stderr").checked = job.merge_stderr === false;
  options.fill(job);
  fitRows();
}

function showOptions(visible) {
  $("run-options").hidden = !visible;
  $("run-toggle-options").setAttribute("aria-expanded", String(visible));
}

function fitRows() {
  const area = $("run-command");
  area.rows = Math.min(MAX_ROWS, area.value.split("\n").length);
}

async function browseHistory(event) {
  const { value, selectionStart, selectionEnd } = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey || selectionStart !== selectionEnd) return;
  // In the other lines of a longer command the arrow keys move the caret.
  const fromFirstLine = event.key === "ArrowUp" && !value.slice(0, selectionStart).includes("\n");
  const fromLastLine = event.key === "ArrowDown" && !value.slice(selectionStart).includes("\n");
  if (!fromFirstLine && !fromLastLine) return;
  event.preventDefault();
  const entry = fromFirstLine ? await commandHistory.previous(readInputs()).catch(() => null) : commandHistory.next();
  if (entry?.job) fill(fromJob(entry.job));
  else if (entry) restore(entry);
  // What the command needs beside itself must be seen before it runs again.
  if (options.texts.env || missingInput) showOptions(true);
}

function restore({ command, splitStderr, ...texts }) {
  missingInput = withoutInput = false;
  $("run-command").value = command;
  $("run-split-stderr").checked = splitStderr;
  options.texts = texts;
  fitRows();
}

function readInputs() {
  return { command: $("run-command").value, splitStderr: $("run-split-stderr").checked, ...options.texts };
}

/** The specification that the form describes. Throws an Error whose message names the field that is wrong. */
function readSpec(inputs) {
  const { command, splitStderr, argv, ...texts } = inputs;
  const how = argv ? { argv: splitWords(command) } : { command };
  // Merged, stderr comes exactly where the command wrote it, as in a terminal.
  const spec = { ...how, merge_stderr: !splitStderr, ...toSpec(texts) };
  if (missingInput && spec.stdin === undefined) {
    [missingInput, withoutInput] = [false, true]; // the next submission confirms it
    throw Object.assign(new Error(NO_INPUT), { key: "stdin" });
  }
  return spec;
}

async function run(onSubmitted) {
  if ($("run-submit").disabled || !$("run-command").value.trim()) return focusRunBox();
  $("run-submit").disabled = true;
  options.clearErrors();
  setTextOrHide($("run-error"), "");
  try {
    const job = await submit(readInputs());
    clear();
    commandHistory.reset({ reload: true });
    onSubmitted(job);
  } catch (error) {
    explain(error);
  } finally {
    $("run-submit").disabled = false;
  }
}

async function submit(inputs) {
  const text = JSON.stringify([inputs, original?.job.job_id]);
  // A body is made once for the same inputs: a delay counts from the first submission.
  if (submission.inputs !== text) submission = { inputs: text, key: createIdempotencyKey(), body: createBody(inputs) };
  const path = original ? `/api/jobs/${original.job.job_id}/again` : "/api/jobs";
  const job = await request("POST", path, { body: submission.body, idempotencyKey: submission.key });
  submission = { inputs: "", key: "", body: null };
  return job;
}

function createBody(inputs) {
  const spec = readSpec(inputs);
  if (!original) return spec;
  const patch = patchFor(original.job, original.inputs, inputs, spec);
  return withoutInput && !spec.stdin ? { ...patch, stdin: null } : patch;
}

function clear() {
  commandHistory.reset();
  original = null;
  $("run-again").hidden = true;
  fill({ merge_stderr: true });
  showOptions(false);
  setTextOrHide($("run-error"), "");
}

function explain(error) {
  if (error instanceof Unreachable) return setTextOrHide($("run-error"), "Cannot reach the service. Run the command again later: it will not run twice.");
  const faults = error.key ? [{ key: error.key, detail: error.message }] : (error.errors || []).map(toFault);
  if (original && !error.key && faults.some(({ key }) => key === "stdin")) confirmNoInput();
  const others = faults.filter(({ key, detail }) => {
    showOptions(true); // a field that is hidden takes no focus
    return !options.showError(key, detail);
  });
  const lines = others.map(({ key, detail }) => (key ? `${key}: ${detail}` : detail));
  setTextOrHide($("run-error"), faults.length ? lines.join("\n") : error.message);
}

/** Of a job of an earlier version it is not known whether it had input: the next submission confirms that there is none. */
function confirmNoInput() {
  withoutInput = true;
  submission = { inputs: "", key: "", body: null };
}

/** An error of the service with the key of its field. */
function toFault({ pointer, detail }) {
  const [key, name] = parsePointer(pointer);
  if (key === "env" && name !== undefined) return { key, detail: `${name}: ${detail}` };
  return { key: parsePointer(pointer).join("."), detail };
}
