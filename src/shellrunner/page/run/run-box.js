/* The form that runs a command. A submission whose response was lost is repeated with the same idempotency key, so that
   the command runs once. */

import { Unreachable, request } from "../core/api.js";
import { $, setTextOrHide } from "../ui/dom.js";
import { CommandHistory } from "./history.js";
import { buildBody, describeSettings, fieldsFrom, settingsFrom } from "./rerun.js";

const INPUTS = { command: "run-command", cwd: "run-cwd", timeout: "run-timeout", queue: "run-queue", env: "run-env" };
const MAX_ROWS = 12;

const commandHistory = new CommandHistory();
let settings = {}; // carried over from the job that is run again
let originalCommand = null;
let submission = { body: "", key: "" };

/** Wire the form; `onSubmitted` is called with each new job. */
export function wireRunBox(onSubmitted) {
  const command = $("run-command");
  $("run").addEventListener("submit", (event) => {
    event.preventDefault();
    run(onSubmitted);
  });
  $("run").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("run").requestSubmit();
  });
  command.addEventListener("keydown", browseHistory);
  command.addEventListener("input", () => {
    commandHistory.reset();
    fitRows();
  });
  $("run-toggle-options").addEventListener("click", () => showOptions($("run-options").hidden));
  $("run-settings").querySelector("button").addEventListener("click", () => carryOver({}, null));
}

export function focusRunBox() {
  $("run-command").focus();
}

/** Fill the form from a job, so that it can be changed and run again. */
export function fillFromJob(job) {
  carryOver(settingsFrom(job), job.command);
  fill(fieldsFrom(job));
  const { cwd, timeout, queue, env } = job;
  showOptions(Boolean(cwd || timeout || queue !== "default" || env.length || Object.keys(settings).length));
  focusRunBox();
}

function fill(fields) {
  for (const [name, id] of Object.entries(INPUTS)) $(id).value = fields[name] ?? "";
  if (fields.queue === "default") $("run-queue").value = "";
  fitRows();
}

function carryOver(newSettings, command) {
  settings = newSettings;
  originalCommand = command;
  const description = describeSettings(settings);
  $("run-settings").hidden = !description;
  $("run-settings").querySelector("span").textContent = `Same settings as before: ${description}`;
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
  if (entry) fill({ env: $("run-env").value, ...entry });
}

function readInputs() {
  return Object.fromEntries(Object.entries(INPUTS).map(([name, id]) => [name, $(id).value]));
}

/** Return the fields as the API takes them. Throws an Error whose message names the field that is wrong. */
function parseInputs() {
  const { command, cwd, timeout, queue, env } = readInputs();
  const fields = { command };
  if (cwd.trim()) fields.cwd = cwd.trim();
  if (timeout.trim()) fields.timeout = parseSeconds(timeout.trim());
  if (queue.trim()) fields.queue = queue.trim();
  if (env.trim()) fields.env = parseVariables(env);
  return fields;
}

function parseSeconds(text) {
  const seconds = Number(text);
  if (!(seconds > 0)) throw new Error(`Timeout: “${text}” is not a number of seconds greater than 0`);
  return seconds;
}

function parseVariables(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  return Object.fromEntries(lines.map((line) => {
    const separator = line.indexOf("=");
    if (separator < 1) throw new Error(`Environment: “${line}” is not NAME=value`);
    return [line.slice(0, separator).trim(), line.slice(separator + 1)];
  }));
}

async function run(onSubmitted) {
  if ($("run-submit").disabled || !$("run-command").value.trim()) return focusRunBox();
  $("run-submit").disabled = true;
  try {
    const job = await submit(buildBody(parseInputs(), settings, originalCommand));
    setTextOrHide($("run-error"), "");
    clear();
    onSubmitted(job);
  } catch (error) {
    setTextOrHide($("run-error"), describeError(error));
  } finally {
    $("run-submit").disabled = false;
  }
}

async function submit(body) {
  const text = JSON.stringify(body);
  if (submission.body !== text) submission = { body: text, key: createKey() };
  const job = await request("POST", "/api/jobs", { body, headers: { "Idempotency-Key": `"${submission.key}"` } });
  submission = { body: "", key: "" };
  return job;
}

function createKey() {
  // crypto.randomUUID exists for HTTPS and localhost only.
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16)).join("-");
}

function clear() {
  commandHistory.reset({ reload: true });
  carryOver({}, null);
  fill({});
  showOptions(false);
}

function describeError(error) {
  if (error instanceof Unreachable) return "Cannot reach the service. Run the command again later: it will not run twice.";
  const details = (error.errors || []).map(({ pointer, detail }) => `${pointer.replace("#/", "")}: ${detail}`);
  return details.length ? details.join("\n") : error.message;
}
