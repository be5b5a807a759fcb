/* The dialogs: confirmation, signing in, keyboard shortcuts. */

import { $, setTextOrHide } from "./dom.js";

const NO_TOKEN = "A token consists of letters, digits and punctuation without spaces: check what was pasted";

/** Ask for confirmation; resolves to whether it was given. `action` and `refusal` are the labels of the buttons. */
export function confirm(title, text, action, refusal = "Keep job") {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  dialog.querySelector("[data-answer=yes]").textContent = action;
  dialog.querySelector("[data-answer=no]").textContent = refusal;
  return new Promise((resolve) => open(dialog, resolve));
}

/** Ask for a token until one is entered, and whether to keep it for this tab; `error` is what was wrong with the last. */
export function promptForToken(error) {
  const dialog = $("sign-in");
  setTextOrHide($("token-error"), error);
  return new Promise((resolve) => {
    open(dialog, () => {
      const token = $("token").value.trim();
      // Without a token the page has nothing to show, so the dialog cannot be dismissed.
      if (!isToken(token)) return promptForToken(token ? NO_TOKEN : "").then(resolve);
      $("token").value = "";
      resolve({ token, keep: $("keep-token").checked });
    });
  });
}

/** Whether text can be sent as a token: a browser refuses to send other characters in a header. */
const isToken = (text) => /^[\x21-\x7e]+$/.test(text);

/** Show the keyboard shortcuts. */
export function showHelp() {
  open($("help"), () => {});
}

/** Show a dialog whose form is submitted with `submit()`. It stays open, and shows the message, while that throws an Error. */
export function openForm(dialog, submit) {
  if (dialog.open) return;
  const listeners = new AbortController();
  const error = dialog.querySelector(".form-error");
  const button = dialog.querySelector("[type=submit]");
  setTextOrHide(error, "");
  dialog.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    button.disabled = true;
    try {
      await submit();
      dialog.close();
    } catch (problem) {
      setTextOrHide(error, problem.message);
    } finally {
      button.disabled = false;
    }
  }, listeners);
  dialog.querySelector("[data-answer=no]").addEventListener("click", () => dialog.close(), listeners);
  dialog.addEventListener("close", () => listeners.abort(), listeners);
  dialog.showModal();
}

/** Show a dialog; `onClose(submitted)` is called when it is closed. */
function open(dialog, onClose) {
  if (dialog.open) return;
  const listeners = new AbortController();
  let submitted = false;
  const finish = (event) => {
    event.preventDefault();
    submitted = event.type === "submit";
    dialog.close();
  };
  dialog.querySelector("form").addEventListener("submit", finish, listeners);
  dialog.querySelector("[data-answer=no]")?.addEventListener("click", finish, listeners);
  dialog.addEventListener("close", () => {
    listeners.abort();
    onClose(submitted);
  }, listeners);
  dialog.showModal();
}
