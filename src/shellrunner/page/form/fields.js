/* The keys of a job's specification as fields of a form: each key once, with its label, its group and how it is written.
   `command` is not among them: it has a place of its own. It must not know about the page's elements. */

import { assignments, duration, exactText, fromNow, ids, instant, number, size, text, words } from "./values.js";

const YES_NO = [["", "As configured"], ["false", "End them"], ["true", "Let them continue"]];
const RETRYABLE = ["exited", "signalled", "timed_out", "output_limit", "out_of_memory", "failed_to_start", "lost"];

/* Of a field: `key` is its path in the specification; `kind` is the element (line, lines, check, select), a line by
   default; `editable` says that it can be changed until the job starts; `initial` is the value that needs no mention;
   `list` is the id of a list of suggestions; `wide` takes the whole width; a check is set and unset with the one that
   `implies` it. */
export const GROUPS = [
  ["Job", [
    { key: "name", label: "Name", type: text, hint: "e.g. nightly-backup", editable: true },
    { key: "queue", label: "Queue", type: text, initial: "default", hint: "default", list: "queue-names", editable: true },
    { key: "priority", label: "Priority", type: number, initial: 0, hint: "0; larger first", editable: true },
    { key: "labels", label: "Labels, key=value lines", kind: "lines", type: assignments, hint: "e.g. team=web", editable: true },
  ]],
  ["Command", [
    { key: "cwd", label: "Working directory", type: text, hint: "As configured" },
    { key: "profile", label: "Profile", type: text, hint: "The queue's" },
    { key: "argv", label: "Without a shell (the words are its arguments)", wide: true, kind: "check" },
    { key: "env", label: "Environment, NAME=value lines", kind: "lines", type: assignments, wide: true, hint: 'STAGE=test, or KEY="several lines"' },
    { key: "stdin", label: "Standard input", kind: "lines", type: exactText, wide: true },
    { key: "stdin.stream", label: "Send standard input while it runs", kind: "check", wide: true },
  ]],
  ["Start", [
    { key: "start_at", label: "Not before", kind: "instant", type: instant, editable: true },
    { key: "delay", label: "Delay from now", type: fromNow, hint: "10m, 1h 30m" },
    { key: "after", label: "After jobs (all exit with 0)", type: ids, hint: "e.g. 12 15", editable: true },
    { key: "held", label: "Hold until it is released", kind: "check", wide: true, editable: true },
  ]],
  ["Limits", [
    { key: "timeout", label: "Timeout", type: duration, hint: "None; 90, 10m, 1h 30m", editable: true },
    { key: "limits.memory_bytes", label: "Memory", type: size, hint: "As configured; 512M" },
    { key: "limits.cpu_seconds", label: "CPU time", type: duration, hint: "As configured; 10m" },
    { key: "limits.output_bytes", label: "Output", type: size, hint: "As configured; 1G" },
    { key: "limits.processes", label: "Processes of the user", type: number, hint: "As configured" },
    { key: "limits.open_files", label: "Open files", type: number, hint: "As configured" },
    { key: "leave_children", label: "Processes left behind", kind: "select", options: YES_NO },
  ]],
  ["Retries", [
    { key: "retries.max", label: "Maximum retries", type: number, hint: "None" },
    { key: "retries.delay", label: "Wait before each", type: duration, hint: "0; 10s, 5m" },
    { key: "retries.on", label: "After these endings", type: words, hint: RETRYABLE.join(" "), wide: true },
  ]],
  ["Output", [
    { key: "encoding", label: "Charset", type: text, initial: "utf-8", hint: "utf-8", list: "charsets" },
    { key: "notify.url", label: "Send the result to (URL)", type: text, hint: "https://" },
  ]],
  ["Terminal", [
    { key: "tty", label: "Run in a terminal", kind: "check", wide: true, implies: ["tty.echo", "stdin.stream"] },
    { key: "tty.rows", label: "Rows", type: number, hint: "24" },
    { key: "tty.columns", label: "Columns", type: number, hint: "80" },
    { key: "tty.echo", label: "Echo what is typed", kind: "check", wide: true },
  ]],
];

const FIELDS = GROUPS.flatMap(([, fields]) => fields);
const isEmpty = (value) => value == null || value === false || value === ""
  || (typeof value === "object" && Object.keys(value).length === 0);

/** The groups with the fields of a job that can still be changed before it starts. */
export const EDITABLE_GROUPS = GROUPS
  .map(([name, fields]) => [name, fields.filter((field) => field.editable && field.key !== "held")])
  .filter(([, fields]) => fields.length);

/** The text of each field for this specification, by key: "" for what it does not give; true or false for checks. */
export function toTexts(spec) {
  return Object.fromEntries(FIELDS.map((field) => [field.key, toText(field, spec)]));
}

function toText(field, spec) {
  const value = field.key.split(".").reduce((part, name) => part?.[name], spec);
  if (field.kind === "check") return !isEmpty(value);
  if (field.kind === "select") return value == null ? "" : String(value);
  const isOther = isEmpty(value) || value === field.initial || (field.key === "stdin" && typeof value !== "string");
  return isOther || !field.type.format ? "" : field.type.format(value);
}

/** The specification for these texts, without a command. Throws an Error whose message names the field that is wrong, and
    whose `key` is its key. */
export function toSpec(texts) {
  if (texts.stdin && texts["stdin.stream"]) throw Object.assign(new Error("Standard input: enter it, or send it while the job runs, not both"), { key: "stdin" });
  const spec = {};
  for (const field of FIELDS) {
    const given = texts[field.key];
    const isGiven = typeof given === "string" ? given.trim() : given;
    const belongsToOther = field.key.startsWith("tty.") && !texts.tty;
    if (isGiven && !belongsToOther) setPath(spec, field.key, parse(field, given));
  }
  const { delay, ...given } = spec;
  return delay ? { start_at: delay, ...given } : given;
}

/** The value of one field. */
function parse(field, given) {
  if (field.kind === "check") return given;
  if (field.kind === "select") return given === "true";
  try {
    return field.type.parse(given);
  } catch (error) {
    const message = error instanceof RangeError ? `“${given}” is not a time` : error.message;
    throw Object.assign(new Error(`${field.label.split(",")[0]}: ${message}`), { key: field.key });
  }
}

function setPath(spec, path, value) {
  const names = path.split(".");
  const last = names.pop();
  const parent = names.reduce((part, name) => {
    if (typeof part[name] !== "object") part[name] = {}; // also in place of a check that stands for it
    return part[name];
  }, spec);
  parent[last] = value;
}
