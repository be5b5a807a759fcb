/* The dialog that runs jobs again. It asks for what the service does not store: the values of environment variables, and
   standard input. Nothing is run without them. */

import { createIdempotencyKey, request } from "../core/api.js";
import { escapeControls } from "../core/escape.js";
import { formatCount } from "../core/format.js";
import { parsePointer } from "../form/pointer.js";
import { openForm } from "../ui/dialogs.js";
import { $ } from "../ui/dom.js";
import { SecretFields, missingIn } from "./secret-fields.js";

const MAX_IDS = 10; // that are named beside a field

/** Open the dialog for a job; `edit(job)` is called to change it first, `onSubmitted(job)` with the new job. */
export function openAgainDialog(job, { edit, onSubmitted }) {
  const idempotencyKey = createIdempotencyKey();
  const fields = prepare(`Run job ${job.job_id} again?`, escapeControls(job.command));
  // Until a job has ended the service knows them. Otherwise what it misses is asked for after it was refused.
  if (job.done) for (const name of job.env) fields.ask(`env.${name}`);
  if (job.done && job.stdin?.text) fields.ask("stdin");
  $("again-edit").onclick = () => {
    $("again").close();
    edit(job);
  };
  openForm($("again"), async () => {
    const body = fields.read();
    try {
      onSubmitted(await request("POST", `/api/jobs/${job.job_id}/again`, { body, idempotencyKey }));
    } catch (error) {
      const missing = missingIn(error);
      for (const key of missing) fields.ask(key);
      fields.focus(missing[0]);
      throw error.errors?.length && !missing.length ? new Error(error.errors.map(({ pointer, detail }) => `${parsePointer(pointer).join(".")}: ${detail}`).join("\n")) : error;
    }
  });
  focusFirst(fields);
}

/** Ask for what the service misses in jobs that it refused to run again, by their ids, once for all jobs that miss it.
    Resolves to the body of each that can be submitted now, by its id; to none if the dialog was closed. */
export function askForSecrets(refusals) {
  const byId = [...refusals].sort(([one], [other]) => one - other); // they came in any order
  const missing = new Map(byId.map(([id, error]) => [id, missingIn(error)]).filter(([, keys]) => keys.length));
  if (!missing.size) return new Map();
  const fields = prepare(`Run ${formatCount(missing.size, "more job")} again?`, "");
  for (const key of new Set([...missing.values()].flat())) fields.ask(key, describeUsers(key, missing));
  return new Promise((resolve) => {
    openForm($("again"), () => resolve(new Map([...missing].map(([id, keys]) => [id, fields.read(keys)]))));
    $("again").addEventListener("close", () => resolve(new Map()), { once: true });
    focusFirst(fields);
  });
}

function describeUsers(key, missing) {
  const ids = [...missing.keys()].filter((id) => missing.get(id).includes(key));
  const more = ids.length > MAX_IDS ? ` and ${ids.length - MAX_IDS} more` : "";
  return `job${ids.length === 1 ? "" : "s"} ${ids.slice(0, MAX_IDS).join(", ")}${more}`;
}

/** Prepare the dialog for one job, which has a command, or for several. */
function prepare(title, command) {
  $("again-title").textContent = title;
  $("again-command").textContent = command;
  $("again-command").hidden = $("again-edit").hidden = !command;
  return new SecretFields();
}

function focusFirst(fields) {
  const [first = $("again").querySelector("[type=submit]")] = fields.all;
  first.focus();
}
