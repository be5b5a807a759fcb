/* The bearer token: in this module's memory, and in the tab's session storage if the person wants to stay signed in there
   after a reload. It is never in an address, a cookie or the storage of other tabs. */

import { tabStorage } from "./storage.js";

const KEY = "token";

let token = tabStorage.get(KEY);
let promptForToken = null;
let pending = null;

export const currentToken = () => token;

/** Set what is called when the service requires a token: `prompt(isRejected)` returns a promise of `{ token, keep }`;
    `isRejected` is whether the service has just rejected one. */
export function onTokenRequired(prompt) {
  promptForToken = prompt;
}

/** Prompt for a token, unless there is another one by now than `rejected`, the one that was sent or null. All requests that
    need one at the same time share one prompt. */
export async function requestToken(rejected) {
  if (rejected !== token) return;
  pending ??= promptForToken(token !== null).finally(() => { pending = null; });
  const entered = await pending;
  token = entered.token;
  if (entered.keep) tabStorage.set(KEY, token);
  else tabStorage.remove(KEY);
}

/** Sign out. */
export function forgetToken() {
  token = null;
  tabStorage.remove(KEY);
}
