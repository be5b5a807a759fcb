/* The box in which a command is written and run. A submission whose answer was lost is sent again under the same key,
   so that it can never run twice. */

import { $, tell } from "../ui/dom.js";
import { bodyOf, fieldsOf, keptOf, wordsOf } from "./rerun.js";
import { Past } from "./history.js";
import { Unreachable, ask } from "../core/api.js";

const PLACES = { command: "run-command", cwd: "run-cwd", timeout: "run-timeout", queue: "run-queue", env: "run-env" };
const past = new Past();
let kept = {};
let original = null;
let attempt = { body: "", key: "" };

/** Let the box work; `ran` gets each new job. */
export function wireRunBox(ran) {
  const command = $("run-command");
  $("run").addEventListener("submit", (event) => {
    event.preventDefault();
    run(ran);
  });
  $("run").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("run").requestSubmit();
  });
  command.addEventListener("keydown", travel);
  command.addEventListener("input", () => {
    past.forget();
    grow();
  });
  $("run-more").addEventListener("click", () => unfold($("run-options").hidden));
  $("run-kept").querySelector("button").addEventListener("click", () => keep({}, null));
}

/** Put the caret into the box. */
export function focusRunBox() {
  $("run-command").focus();
}

/** Fill the box with what a job was, to be changed and run. */
export function runAgain(job) {
  keep(keptOf(job), job.command);
  fill(fieldsOf(job));
  const { cwd, timeout, queue, env } = job;
  unfold(Boolean(cwd || timeout || queue !== "default" || env.length || Object.keys(kept).length));
  focusRunBox();
}

function fill(fields) {
  for (const [name, id] of Object.entries(PLACES)) $(id).value = fields[name] ?? "";
  if (fields.queue === "default") $("run-queue").value = "";
  grow();
}

function keep(what, command) {
  kept = what;
  original = command;
  const words = wordsOf(kept);
  $("run-kept").hidden = !words;
  $("run-kept").querySelector("span").textContent = `Also as before: ${words}.`;
}

function unfold(open) {
  $("run-options").hidden = !open;
  $("run-more").setAttribute("aria-expanded", String(open));
}

function grow() {
  const area = $("run-command");
  area.rows = Math.min(12, area.value.split("\n").length);
}

async function travel(event) {
  const { value, selectionStart, selectionEnd } = event.target;
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey || selectionStart !== selectionEnd) return;
  const atTop = event.key === "ArrowUp" && !value.slice(0, selectionStart).includes("\n");
  const atBottom = event.key === "ArrowDown" && !value.slice(selectionStart).includes("\n");
  if (!atTop && !atBottom) return;
  event.preventDefault();
  const found = atTop ? await past.back(read()).catch(() => null) : past.forth();
  if (found) fill({ env: $("run-env").value, ...found });
}

function read() {
  return Object.fromEntries(Object.entries(PLACES).map(([name, id]) => [name, $(id).value]));
}

/** The fields as a job has them; throws words that say what to mend. */
function asked() {
  const { command, cwd, timeout, queue, env } = read();
  const fields = { command };
  if (cwd.trim()) fields.cwd = cwd.trim();
  if (timeout.trim()) fields.timeout = seconds(timeout.trim());
  if (queue.trim()) fields.queue = queue.trim();
  if (env.trim()) fields.env = variables(env);
  return fields;
}

function seconds(text) {
  const number = Number(text);
  if (!(number > 0)) throw new Error(`Timeout: ${text} is not a number of seconds above 0.`);
  return number;
}

function variables(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  return Object.fromEntries(lines.map((line) => {
    const cut = line.indexOf("=");
    if (cut < 1) throw new Error(`Environment: “${line}” is not NAME=value.`);
    return [line.slice(0, cut).trim(), line.slice(cut + 1)];
  }));
}

async function run(ran) {
  if ($("run-go").disabled || !$("run-command").value.trim()) return focusRunBox();
  $("run-go").disabled = true;
  try {
    const job = await submit(bodyOf(asked(), kept, original));
    tell($("run-error"), "");
    clear();
    ran(job);
  } catch (error) {
    tell($("run-error"), wordsFor(error));
  } finally {
    $("run-go").disabled = false;
  }
}

async function submit(body) {
  const text = JSON.stringify(body);
  if (attempt.body !== text) attempt = { body: text, key: newKey() };
  const job = await ask("POST", "/api/jobs", { body, headers: { "Idempotency-Key": `"${attempt.key}"` } });
  attempt = { body: "", key: "" };
  return job;
}

function newKey() {
  // randomUUID is there for HTTPS and localhost only.
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16)).join("-");
}

function clear() {
  past.forget({ all: true });
  keep({}, null);
  fill({});
  unfold(false);
}

function wordsFor(error) {
  if (error instanceof Unreachable) return "The service cannot be reached. Run it again once it is back: it will not run twice.";
  const faults = (error.errors || []).map(({ pointer, detail }) => `${pointer.replace("#/", "")}: ${detail}`);
  return faults.length ? faults.join("\n") : error.message;
}
