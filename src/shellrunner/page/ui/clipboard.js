/* Copying to the clipboard, and the buttons for it. */

import { announce } from "./announcer.js";
import { createElement } from "./dom.js";

const FEEDBACK_TIME = 1200; // milliseconds

/** Copy text; returns whether the browser allowed it. */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelection(text); // the clipboard API exists for HTTPS and localhost only
  }
}

function copySelection(text) {
  const area = createElement("textarea", { class: "visually-hidden" });
  area.value = text;
  const focused = document.activeElement;
  (document.querySelector("dialog[open]") || document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}

/** Make a button copy what `getText()` returns, and show whether it could. `subject` names it in the announcement. */
export function wireCopyButton(button, subject, getText) {
  button.addEventListener("click", async () => {
    const copied = await copyText(getText());
    announce(copied ? `${subject} copied` : "The browser does not allow copying");
    button.dataset.copied = copied ? "yes" : "no";
    setTimeout(() => delete button.dataset.copied, FEEDBACK_TIME);
  });
  return button;
}

/** Create a small button that copies `subject`. */
export function createCopyButton(subject, getText) {
  const label = `Copy ${subject.toLowerCase()}`;
  const button = createElement("button", { type: "button", class: "subtle icon copy", "aria-label": label, title: label });
  return wireCopyButton(button, subject, getText);
}
