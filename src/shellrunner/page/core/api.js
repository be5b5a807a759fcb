/* HTTP client of the API: JSON requests and responses, the bearer token, and errors that explain what went wrong.
   The token is held in this module's memory only and sent in a header only. It must not know about the page's elements. */

import { isIntercepted } from "./foreign-worker.js";

let token = null;
let promptForToken = null;
let pendingToken = null;
let clockOffset = 0;

/** The service answered with an error: a problem document (RFC 9457), or a status alone. */
class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The service answered with status ${status}`);
    this.status = status;
    this.errors = document.errors || [];
  }
}

/** The service did not answer at all. */
export class Unreachable extends Error {
  constructor() {
    super("Cannot reach the service");
    this.status = 0;
  }
}

/** Whether a retry may succeed: the service is down, restarting or overloaded. */
export const isTransient = ({ status = 0 }) => status < 400 || status >= 500 || [408, 425, 429].includes(status);

/** Set what is called when the service requires a token: `prompt(rejected)` returns a promise of one; `rejected` is
    whether the service has just rejected the last. */
export function onTokenRequired(prompt) {
  promptForToken = prompt;
}

export const hasToken = () => token !== null;

/** Sign out. */
export function forgetToken() {
  token = null;
}

/** The service's clock in milliseconds since the epoch; it may differ from the browser's. */
export const serverTime = () => Date.now() + clockOffset;

/** Prompt for a token. All requests that need one at the same time share one prompt. */
export async function requestToken() {
  pendingToken ??= promptForToken(token !== null).finally(() => { pendingToken = null; });
  token = await pendingToken;
}

/** Send a request with the token, if there is one, and return the response whatever its status. Throws Unreachable. */
export async function send(path, { headers = {}, ...options } = {}) {
  if (isIntercepted()) throw new Unreachable();
  const allHeaders = token === null ? headers : { ...headers, Authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(path, { ...options, headers: allHeaders, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
  updateClockOffset(response.headers.get("Date"));
  return response;
}

export function requiresToken(response) {
  return response.status === 401 && /^bearer\b/i.test(response.headers.get("WWW-Authenticate") || "");
}

/** Send a JSON request and return the JSON response, or null for 204. Prompts for a token if one is required.
    Throws Problem or Unreachable. */
export async function request(method, path, { body, headers = {}, signal } = {}) {
  const contentType = body === undefined ? {} : { "Content-Type": "application/json" };
  const options = { method, headers: { ...contentType, ...headers }, signal, body: body && JSON.stringify(body) };
  return parse(await sendWithToken(path, options));
}

export const get = (path, signal) => request("GET", path, { signal });

/** Return a response's body as a blob. Throws as `request` does. */
export async function getBlob(path) {
  const response = await sendWithToken(path, {});
  return response.ok ? response.blob() : parse(response);
}

async function sendWithToken(path, options) {
  for (;;) {
    const sentToken = token;
    const response = await send(path, options);
    if (!requiresToken(response)) return response;
    // Another request may have prompted for a token since this one was sent.
    if (sentToken === token) await requestToken();
  }
}

async function parse(response) {
  if (response.status === 204) return null;
  const isJson = /json/.test(response.headers.get("Content-Type") || "");
  const document = isJson ? await response.json().catch(() => null) : null;
  if (response.ok && document) return document;
  // A proxy whose service is down answers with an HTML page of its own.
  throw new Problem(response.status, document || { detail: `Received status ${response.status}, and not from the service` });
}

function updateClockOffset(date) {
  const offset = date ? Date.parse(date) - Date.now() : 0;
  clockOffset = Math.abs(offset) > 1500 ? offset : 0; // the Date header has a resolution of one second
}
