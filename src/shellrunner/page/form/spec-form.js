/* A form for the keys of a specification, made from the definitions of its fields. It must not know about the network. */

import { createElement, setTextOrHide } from "../ui/dom.js";
import { toTexts } from "./fields.js";

let forms = 0;

export class SpecForm {
  #inputs = new Map(); // by key
  #errors = new Map();
  #prefix = `spec-${(forms += 1)}`;

  /** Make a form of these groups of fields in an element. */
  constructor(container, groups) {
    container.replaceChildren(...groups.map(([name, fields]) => this.#createGroup(name, fields)));
  }

  /** The text of each field, by key; true or false for checks. */
  get texts() {
    return Object.fromEntries([...this.#inputs].map(([key, input]) => [key, input.type === "checkbox" ? input.checked : input.value]));
  }

  set texts(texts) {
    for (const [key, input] of this.#inputs) {
      if (input.type === "checkbox") input.checked = Boolean(texts[key]);
      else input.value = texts[key] ?? "";
    }
    this.clearErrors();
  }

  /** Fill the form with the values of a specification; what it does not give is left empty. */
  fill(spec) {
    this.texts = toTexts(spec);
  }

  /** Show what is wrong with a field, and move the focus there; returns whether there is such a field. A key without a
      field of its own, such as `env.NAME`, belongs to that of `env`. */
  showError(key, message) {
    const known = [key, key.slice(0, key.indexOf("."))].find((each) => this.#inputs.has(each));
    if (!known) return false;
    this.#inputs.get(known).setAttribute("aria-invalid", "true");
    setTextOrHide(this.#errors.get(known), message);
    this.#inputs.get(known).focus();
    return true;
  }

  clearErrors() {
    for (const [key, input] of this.#inputs) {
      input.removeAttribute("aria-invalid");
      setTextOrHide(this.#errors.get(key), "");
    }
  }

  #createGroup(name, fields) {
    const legend = createElement("legend", {}, name);
    const grid = createElement("div", { class: "fields" }, ...fields.map((field) => this.#createField(field)));
    return createElement("fieldset", { class: "spec-group" }, legend, grid);
  }

  #createField(field) {
    const id = `${this.#prefix}-${field.key.replaceAll(".", "-")}`;
    const input = createInput(field, { id, name: field.key, "aria-describedby": `${id}-error` });
    const error = createElement("span", { class: "error", id: `${id}-error`, hidden: true });
    this.#inputs.set(field.key, input);
    this.#errors.set(field.key, error);
    if (field.implies) input.addEventListener("change", () => { for (const key of field.implies) this.#inputs.get(key).checked = input.checked; });
    const label = createElement("label", { for: id }, field.label);
    const isCheck = field.kind === "check";
    const attributes = { class: `field ${isCheck ? "check" : ""} ${field.wide ? "wide" : ""}` };
    return createElement("div", attributes, ...(isCheck ? [input, label] : [label, input]), error);
  }
}

function createInput(field, attributes) {
  const text = { ...attributes, placeholder: field.hint, spellcheck: "false", autocapitalize: "off", autocomplete: "off" };
  if (field.kind === "check") return createElement("input", { ...attributes, type: "checkbox" });
  if (field.kind === "instant") return createElement("input", { ...attributes, type: "datetime-local", step: "1" });
  if (field.kind === "lines") return createElement("textarea", { ...text, rows: "1" });
  if (field.kind !== "select") return createElement("input", { ...text, list: field.list });
  const options = field.options.map(([value, label]) => createElement("option", { value }, label));
  return createElement("select", attributes, ...options);
}
