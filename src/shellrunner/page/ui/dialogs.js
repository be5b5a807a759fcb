/* The dialogs: asking before something is ended or deleted, asking for a token, telling the keys. */

import { $, tell } from "./dom.js";

/** Ask; true if the answer is `yes`, the word on the button. */
export function confirm(title, text, yes) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  dialog.querySelector("[data-answer=yes]").textContent = yes;
  return new Promise((resolve) => open(dialog, (answered) => resolve(answered)));
}

/** Ask for a token, until there is one; `refused` is whether one was refused just now. */
export function askForToken(refused) {
  const dialog = $("sign-in");
  tell($("token-error"), refused ? "The service does not know this token, or it has expired." : "");
  return new Promise((resolve) => {
    open(dialog, () => {
      const token = $("token").value.trim();
      $("token").value = "";
      // Without a token there is nothing to see behind the dialog.
      if (token) resolve(token);
      else askForToken(false).then(resolve);
    });
  });
}

/** Tell the keys. */
export function help() {
  open($("help"), () => {});
}

function open(dialog, closed) {
  if (dialog.open) return;
  const once = new AbortController();
  let answered = false;
  const form = dialog.querySelector("form");
  const finish = (event) => {
    event.preventDefault();
    answered = event.type === "submit";
    dialog.close();
  };
  form.addEventListener("submit", finish, once);
  dialog.querySelector("[data-answer=no]")?.addEventListener("click", finish, once);
  dialog.addEventListener("close", () => {
    once.abort();
    closed(answered);
  }, once);
  dialog.showModal();
}
