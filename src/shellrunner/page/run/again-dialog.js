/* The dialog that runs a job again. It asks for what the service does not store: the values of environment variables, and
   standard input. Nothing is run without them. */

import { createIdempotencyKey, request } from "../core/api.js";
import { escapeControls } from "../core/escape.js";
import { parsePointer } from "../form/pointer.js";
import { openForm } from "../ui/dialogs.js";
import { $, createElement } from "../ui/dom.js";

const STDIN = "stdin";

/** Open the dialog for a job; `edit(job)` is called to change it first, `onSubmitted(job)` with the new job. */
export function openAgainDialog(job, { edit, onSubmitted }) {
  const idempotencyKey = createIdempotencyKey();
  const secrets = new Map(); // the fields by `env.NAME` or `stdin`
  const ask = (key) => secrets.has(key) || secrets.set(key, new SecretField(key));
  $("again-title").textContent = `Run job ${job.job_id} again?`;
  $("again-command").textContent = escapeControls(job.command);
  $("again-fields").replaceChildren();
  // Until a job has ended the service knows them. Otherwise what it misses is asked for after it was refused.
  if (job.done) for (const name of job.env) ask(`env.${name}`);
  if (job.done && job.stdin?.text) ask(STDIN);
  showIntroduction();
  $("again-edit").onclick = () => {
    $("again").close();
    edit(job);
  };
  openForm($("again"), async () => {
    const body = readBody(secrets);
    try {
      onSubmitted(await request("POST", `/api/jobs/${job.job_id}/again`, { body, idempotencyKey }));
    } catch (error) {
      const needed = (error.errors || []).map(({ pointer }) => parsePointer(pointer).join(".")).filter(isSecret);
      for (const key of needed) ask(key);
      showIntroduction();
      secrets.get(needed[0])?.focus();
      throw error.errors?.length && !needed.length ? new Error(error.errors.map(({ pointer, detail }) => `${parsePointer(pointer).join(".")}: ${detail}`).join("\n")) : error;
    }
  });
  const [first = $("again").querySelector("[type=submit]")] = secrets.values();
  first.focus();
}

const isSecret = (key) => key === STDIN || key.startsWith("env.");

function showIntroduction() {
  $("again-introduction").hidden = !$("again-fields").children.length;
}

/** Throws an Error for a field that was neither filled nor left empty on purpose. */
function readBody(secrets) {
  const body = {};
  for (const [key, field] of secrets) {
    const value = field.read();
    if (key === STDIN) body.stdin = value;
    else (body.env ??= {})[key.slice("env.".length)] = value;
  }
  return body;
}

/** A value that is not stored: what was entered, or nothing on purpose. */
class SecretField {
  #label;
  #input;
  #isEmpty = createElement("input", { type: "checkbox" });

  constructor(key) {
    this.#label = key === STDIN ? "Standard input" : key.slice("env.".length);
    this.#input = createElement("textarea", { rows: key === STDIN ? "3" : "1", spellcheck: "false", autocapitalize: "off", name: key });
    this.#input.addEventListener("keydown", (event) => {
      if (key === STDIN || event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      this.#input.form.requestSubmit();
    });
    this.#isEmpty.addEventListener("change", () => { this.#input.disabled = this.#isEmpty.checked; });
    const label = createElement("label", {}, createElement("span", { class: "mono" }, this.#label), this.#input);
    const empty = createElement("label", { class: "check" }, this.#isEmpty, " Empty");
    $("again-fields").append(createElement("div", { class: "secret" }, label, empty));
  }

  focus() {
    this.#input.focus();
  }

  read() {
    if (this.#isEmpty.checked) return "";
    if (this.#input.value) return this.#input.value;
    this.focus();
    throw new Error(`${this.#label}: enter its value, which is not stored, or mark it as empty`);
  }
}
