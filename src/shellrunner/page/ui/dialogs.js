/* The dialogs: confirmation, signing in, keyboard shortcuts. */

import { $, setTextOrHide } from "./dom.js";

/** Ask for confirmation; resolves to whether it was given. `action` is the label of the button that gives it. */
export function confirm(title, text, action) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  dialog.querySelector("[data-answer=yes]").textContent = action;
  return new Promise((resolve) => open(dialog, resolve));
}

/** Ask for a token until one is entered; `rejected` is whether the service has just rejected one. */
export function promptForToken(rejected) {
  const dialog = $("sign-in");
  setTextOrHide($("token-error"), rejected ? "The token is unknown or has expired" : "");
  return new Promise((resolve) => {
    open(dialog, () => {
      const token = $("token").value.trim();
      $("token").value = "";
      // Without a token the page has nothing to show, so the dialog cannot be dismissed.
      if (token) resolve(token);
      else promptForToken(false).then(resolve);
    });
  });
}

/** Show the keyboard shortcuts. */
export function showHelp() {
  open($("help"), () => {});
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
