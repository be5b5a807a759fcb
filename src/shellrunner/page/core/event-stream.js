/* A stream of server-sent events that reconnects after a cut, a restart of the service, a proxy's 502 or a connection
   that died silently. It uses EventSource, or fetch when a token has to be sent. It must not know about jobs. */

import { isTransient, requiresToken, send } from "./api.js";
import { isIntercepted } from "./foreign-worker.js";
import { SseParser } from "./sse.js";
import { currentToken, requestToken } from "./token.js";

const EVENTS = ["status", "stdout", "stderr", "attempt", "dropped", "done", "deleted", "reset"];
// EventSource hides the service's keep-alive comments, so a quiet connection looks like a dead one.
const IDLE_TIMEOUT = 60_000; // milliseconds
const MIN_RETRY_DELAY = 500;
const MAX_RETRY_DELAY = 15_000;
const TOKEN_REQUIRED = -1; // in place of a status
const TOO_MANY_REQUESTS = 429;

// The streams that wait for their next attempt because the service was away.
const waiting = new Set();

export class EventStream {
  #path;
  #probePath;
  #listener;
  #lastId = "";
  #connection = null;
  #retryTimer = null;
  #idleTimer = null;
  #attempts = 0;
  #sentToken = null;

  /** `probePath` is requested to find out why `path` cannot be streamed, which EventSource does not report. `listener` has
      event(name, document, id), state("connecting" | "live" | "signing-in"), state("waiting", status), where 0 is a
      service that does not answer, and failed(status) for an error that a retry would not resolve. */
  constructor(path, probePath, listener) {
    this.#path = path;
    this.#probePath = probePath;
    this.#listener = listener;
  }

  /** Further query parameters of the connections that are opened from now on. */
  parameters = {};

  /** The id of the last event, from which the stream can be resumed. */
  get lastId() {
    return this.#lastId;
  }

  /** Connect, and receive the events after `lastId`; `silent` leaves out the state "connecting". */
  open(lastId = "", { silent = false } = {}) {
    this.close();
    this.#lastId = lastId;
    this.#attempts = 0;
    if (!silent) this.#listener.state("connecting");
    this.#connect();
  }

  /** Reconnect at once if a retry is scheduled. */
  retryNow() {
    if (this.#retryTimer === null) return;
    clearTimeout(this.#retryTimer);
    this.#connect();
  }

  close() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#idleTimer);
    this.#retryTimer = null;
    waiting.delete(this);
    this.#disconnect();
  }

  #connect() {
    this.#retryTimer = null;
    waiting.delete(this);
    if (isIntercepted()) return;
    this.#sentToken = currentToken();
    const connect = this.#sentToken === null ? connectWithEventSource : connectWithFetch;
    // A connection that was replaced may still call back.
    const connection = connect(this.#path, this.#lastId, this.parameters, {
      opened: () => this.#connection === connection && this.#opened(),
      event: (...event) => this.#connection === connection && this.#event(...event),
      closed: (status) => this.#connection === connection && this.#closed(status),
    });
    this.#connection = connection;
    this.#restartIdleTimer();
  }

  #restartIdleTimer() {
    clearTimeout(this.#idleTimer);
    this.#idleTimer = setTimeout(() => this.#reconnect(), IDLE_TIMEOUT);
  }

  /** Replace a connection that may be dead. No event is lost, so the listener is not notified. */
  #reconnect() {
    this.#disconnect();
    this.#connect();
  }

  #opened() {
    this.#restartIdleTimer();
    this.#listener.state("live");
    // The service is back: the others need not wait any longer, and say that it cannot be reached.
    for (const stream of [...waiting]) stream.retryNow();
  }

  #event(name, data, id) {
    this.#attempts = 0;
    this.#restartIdleTimer();
    if (id) this.#lastId = id;
    if (name) this.#listener.event(name, JSON.parse(data), id);
  }

  async #closed(status) {
    this.#disconnect();
    const placeholder = (this.#connection = {}); // replaced if the stream is opened or closed meanwhile
    const cause = status ?? (await this.#probe());
    if (this.#connection === placeholder && cause === TOKEN_REQUIRED) {
      clearTimeout(this.#idleTimer);
      this.#listener.state("signing-in");
      await requestToken(this.#sentToken);
      if (this.#connection === placeholder) this.#reconnect();
      return;
    }
    if (this.#connection !== placeholder) return;
    this.#connection = null;
    if (isTransient({ status: cause })) return this.#scheduleRetry(cause);
    this.close();
    this.#listener.failed(cause);
  }

  #scheduleRetry(cause) {
    clearTimeout(this.#idleTimer);
    const jitter = 0.8 + Math.random() * 0.4;
    const delay = Math.min(MAX_RETRY_DELAY, MIN_RETRY_DELAY * 2 ** this.#attempts) * jitter;
    this.#attempts += 1;
    this.#retryTimer = setTimeout(() => this.#connect(), delay);
    if (cause !== TOO_MANY_REQUESTS) waiting.add(this);
    this.#listener.state("waiting", cause);
  }

  /** Return the status of the probe, or 0 if it is worth another attempt. */
  async #probe() {
    try {
      // The status of a job that is done redirects (303) to its result, which proves that the service is up.
      const response = await send(this.#probePath, { redirect: "manual" });
      return requiresToken(response) ? TOKEN_REQUIRED : response.status;
    } catch {
      return 0;
    }
  }

  #disconnect() {
    this.#connection?.close?.();
    this.#connection = null;
  }
}

/* Both transports call back opened(), event(name, data, id), and closed(status), without a status if it is not known. */

function withQuery(path, parameters) {
  const query = String(new URLSearchParams(parameters));
  return query ? `${path}?${query}` : path;
}

function connectWithEventSource(path, lastId, parameters, callbacks) {
  const source = new EventSource(withQuery(path, lastId ? { ...parameters, last_event_id: lastId } : parameters));
  source.onopen = callbacks.opened;
  // EventSource reconnects after a cut, but never after a status other than 200; so it is always replaced.
  source.onerror = () => callbacks.closed();
  for (const name of EVENTS) source.addEventListener(name, (event) => callbacks.event(name, event.data, event.lastEventId));
  return source;
}

function connectWithFetch(path, lastId, parameters, callbacks) {
  const controller = new AbortController();
  const { signal } = controller;
  readEvents(withQuery(path, parameters), lastId, callbacks, signal).then(callbacks.closed, () => signal.aborted || callbacks.closed(0));
  return { close: () => controller.abort() };
}

async function readEvents(path, lastId, callbacks, signal) {
  const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
  const response = await send(path, { headers, signal });
  if (requiresToken(response)) return TOKEN_REQUIRED;
  if (response.status !== 200) return response.status === 204 ? 0 : response.status;
  callbacks.opened();
  const parser = new SseParser(lastId, callbacks.event);
  // The parser removes the byte order mark: a decoder that removed one too would take two.
  const reader = response.body.pipeThrough(new TextDecoderStream("utf-8", { ignoreBOM: true })).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return 0;
    parser.feed(value);
    // An id without data is no event, but moves the position; a comment shows that the connection is alive.
    callbacks.event("", "", parser.lastId);
  }
}
