/* Copying text, and the buttons that do. */

import { make } from "./dom.js";
import { say } from "./badge.js";

/** Put this text on the clipboard; false if the browser does not let us. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // over plain HTTP from another host there is no clipboard
  }
}

function copyBySelection(text) {
  const area = make("textarea", { class: "unseen" });
  area.value = text;
  const focused = document.activeElement;
  (document.querySelector("dialog[open]") || document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

/** Let a button copy what `text()` gives, and say that it did. */
export function copies(button, what, text) {
  button.addEventListener("click", async () => {
    const done = await copy(text());
    say(done ? `${what} copied` : "the browser does not allow copying");
    button.dataset.done = done ? "yes" : "no";
    setTimeout(() => delete button.dataset.done, 1200);
  });
  return button;
}

/** A small button that copies `what`. */
export function copyButton(what, text) {
  const button = make("button", { type: "button", class: "quiet icon copy", "aria-label": `Copy ${what}`, title: `Copy ${what}` });
  return copies(button, what, text);
}
