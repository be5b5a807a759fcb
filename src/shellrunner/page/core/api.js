/* Asking the service: JSON in, JSON out, the token if there is one, and errors that say what happened.
   The token is in this module's memory only, and travels in a header only. */

let token = null;
let askForToken = null;
let asking = null;
let skew = 0;

/** The service answered, but not with what was asked for: a problem of RFC 9457. */
class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `the answer was ${status}`);
    this.status = status;
    this.kind = (document.type || "").replace("/problems/", "");
    this.errors = document.errors || [];
  }
}

/** The service did not answer at all. */
export class Unreachable extends Error {
  constructor() {
    super("The service cannot be reached.");
    this.status = 0;
  }
}

/** Whether what went wrong may pass by itself: the service away, or a proxy that says so. */
export const passes = ({ status = 0 }) => status < 400 || status >= 500 || [408, 425, 429].includes(status);

/** `ask` opens a dialog for a token, told whether one was refused just now, and resolves to it. */
export function lockedBy(ask) {
  askForToken = ask;
}

export const door = {
  get locked() {
    return token !== null;
  },
  /** Forget the token. */
  leave() {
    token = null;
  },
  /** The service's time, in milliseconds: the clocks may differ. */
  now: () => Date.now() + skew,
};

/** Have a token asked for; whoever comes meanwhile waits for the same one. */
export async function unlock() {
  asking ??= askForToken(token !== null).finally(() => { asking = null; });
  token = await asking;
}

/** Send a request as it is, with the token if there is one. A network error is Unreachable. */
export async function send(path, { headers = {}, ...options } = {}) {
  const own = token === null ? headers : { ...headers, Authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(path, { ...options, headers: own, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
  noteTime(response.headers.get("Date"));
  return response;
}

/** Whether this answer asks for a token. */
export function wantsToken(response) {
  return response.status === 401 && /^bearer\b/i.test(response.headers.get("WWW-Authenticate") || "");
}

/** Ask the service for a document, or have it do something; asks for a token if one is needed.
    Throws Problem or Unreachable. */
export async function ask(verb, path, { body, headers = {}, signal } = {}) {
  const sent = body === undefined ? {} : { "Content-Type": "application/json" };
  return read(await admitted(path, { method: verb, headers: { ...sent, ...headers }, signal, body: body && JSON.stringify(body) }));
}

export const get = (path, signal) => ask("GET", path, { signal });

/** Ask for bytes as they are. Throws as `ask` does. */
export async function bytes(path) {
  const response = await admitted(path, {});
  return response.ok ? response.blob() : read(response);
}

async function admitted(path, options) {
  for (;;) {
    const used = token;
    const response = await send(path, options);
    if (!wantsToken(response)) return response;
    if (used === token) await unlock();
  }
}

async function read(response) {
  if (response.status === 204) return null;
  const isJson = /json/.test(response.headers.get("Content-Type") || "");
  const document = isJson ? await response.json().catch(() => null) : null;
  if (response.ok && document) return document;
  // A proxy answers for a service that is away with a page of its own.
  throw new Problem(response.status, document || { detail: `The answer was ${response.status}, and not the service's.` });
}

function noteTime(date) {
  const ahead = date ? Date.parse(date) - Date.now() : 0;
  skew = Math.abs(ahead) > 1500 ? ahead : 0; // the header has whole seconds only
}
