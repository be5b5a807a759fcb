/* Fields for what the service does not store: the values of environment variables, and standard input. */

import { parsePointer } from "../form/pointer.js";
import { $, createElement } from "../ui/dom.js";

const STDIN = "stdin";
const keyOf = ({ pointer }) => parsePointer(pointer).join(".");

/** What the service misses in a submission that it refused: `env.NAME` for a variable, and `stdin`. */
export const missingIn = (error) => (error.errors || []).map(keyOf).filter((key) => key === STDIN || key.startsWith("env."));

/** The fields of the dialog, each asked for once. */
export class SecretFields {
  #fields = new Map(); // by key

  /** Begin without fields. */
  constructor() {
    $("again-fields").replaceChildren();
    $("again-introduction").hidden = true;
  }

  /** The fields in their order. */
  get all() {
    return [...this.#fields.values()];
  }

  /** Ask for `env.NAME` or `stdin`; `note` is shown beside its name. */
  ask(key, note = "") {
    if (this.#fields.has(key)) return;
    this.#fields.set(key, new SecretField(key, note));
    $("again-introduction").hidden = false;
  }

  focus(key) {
    this.#fields.get(key)?.focus();
  }

  /** What was entered, as a merge patch; of these keys only, if they are given. Throws an Error for a field that was
      neither filled nor left empty on purpose. */
  read(keys = this.#fields.keys()) {
    const body = {};
    for (const key of keys) {
      const value = this.#fields.get(key).read();
      if (key === STDIN) body.stdin = value;
      else (body.env ??= {})[key.slice("env.".length)] = value;
    }
    return body;
  }
}

/** A value that is not stored: what was entered, or nothing on purpose. */
class SecretField {
  #label;
  #input;
  #isEmpty = createElement("input", { type: "checkbox" });

  constructor(key, note) {
    this.#label = key === STDIN ? "Standard input" : key.slice("env.".length);
    this.#input = createElement("textarea", { rows: key === STDIN ? "3" : "1", spellcheck: "false", autocapitalize: "off", name: key });
    this.#input.addEventListener("keydown", (event) => {
      if (key === STDIN || event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      this.#input.form.requestSubmit();
    });
    this.#isEmpty.addEventListener("change", () => { this.#input.disabled = this.#isEmpty.checked; });
    const name = createElement("span", {}, createElement("span", { class: "mono" }, this.#label), note && createElement("small", {}, ` ${note}`));
    const empty = createElement("label", { class: "check" }, this.#isEmpty, " Empty");
    $("again-fields").append(createElement("div", { class: "secret" }, createElement("label", {}, name, this.#input), empty));
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
