/* HTTP client of the API: JSON requests and responses, the bearer token, and errors that explain what went wrong.
   It must not know about the page's elements. */

import { isIntercepted } from "./foreign-worker.js";
import { currentToken, requestToken } from "./token.js";

export const REJECTED = "The token is unknown or has expired";

const JSON_TYPES = { PATCH: "application/merge-patch+json" }; // by method; of all others application/json

let clockOffset = 0;

/** The service answered with an error: a problem document (RFC 9457), or a status alone. */
class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The service answered with status ${status}`);
    this.status = status;
    this.kind = document.type?.split("/").at(-1) ?? "";
    this.errors = document.errors || [];
    this.document = document;
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

/** The service's clock in milliseconds since the epoch; it may differ from the browser's. */
export const serverTime = () => Date.now() + clockOffset;

/** Send a request with the token, if there is one, and return the response whatever its status. Throws Unreachable. */
export async function send(path, { headers = {}, ...options } = {}) {
  if (isIntercepted()) throw new Unreachable();
  const token = currentToken();
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

/** Ask the service about a token, with a single request, because it counts wrong ones. Returns what is wrong, or "". */
export async function checkToken(token) {
  let response;
  try {
    response = await fetch("/api", { headers: { Authorization: `Bearer ${token}` }, cache: "no-store", credentials: "same-origin" });
  } catch {
    return "Cannot reach the service";
  }
  if (response.status === 429) return `${REJECTED}. Too many were tried: wait a moment`; // a right one always works
  return requiresToken(response) ? REJECTED : "";
}

export function requiresToken(response) {
  return response.status === 401 && /^bearer\b/i.test(response.headers.get("WWW-Authenticate") || "");
}

/** Send a request, with JSON (of PATCH a merge patch, RFC 7396) or with bytes, and return the JSON response, or null for 204. Prompts for a token if one is
    required. Throws Problem or Unreachable. */
export async function request(method, path, { body, contentType = JSON_TYPES[method] ?? "application/json", idempotencyKey, signal } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": contentType };
  if (idempotencyKey) headers["Idempotency-Key"] = `"${idempotencyKey}"`;
  return parse(await sendWithToken(path, { method, headers, signal, body: encode(body) }));
}

function encode(body) {
  return body === undefined || body instanceof Uint8Array ? body : JSON.stringify(body);
}

/** A key for a request that must not be carried out twice, even if its response is lost. */
export function createIdempotencyKey() {
  // crypto.randomUUID exists for HTTPS and localhost only.
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16)).join("-");
}

export const get = (path, signal) => request("GET", path, { signal });

/** Return a response's body as a blob. Throws as `request` does. */
export async function getBlob(path) {
  const response = await sendWithToken(path, {});
  return response.ok ? response.blob() : parse(response);
}

async function sendWithToken(path, options) {
  for (;;) {
    const sentToken = currentToken();
    const response = await send(path, options);
    if (!requiresToken(response)) return response;
    await requestToken(sentToken);
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
