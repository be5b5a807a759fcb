/* A stream of events that comes back by itself: after a cut, a restart of the service, a 502 of a proxy, a connection
   that died without a word. EventSource where nothing is asked of us, fetch where a token is. Knows no job. */

import { door, passes, send, unlock, wantsToken } from "./api.js";
import { SseParser } from "./sse.js";

const NAMES = ["status", "stdout", "stderr", "dropped", "done", "deleted", "reset"];
const SILENCE = 60_000; // EventSource does not show signs of life; a dead connection says nothing either
const LONGEST = 15_000; // milliseconds between two tries

export class Stream {
  #path;
  #probe;
  #told;
  #id = "";
  #source = null;
  #timer = null;
  #watch = null;
  #tries = 0;

  /** `path` is followed; `probe` is a path that says why it cannot be. `told` has
      event(name, document, id), state("connecting" | "live" | "waiting"), over(status) for what no retry mends. */
  constructor(path, probe, told) {
    this.#path = path;
    this.#probe = probe;
    this.#told = told;
  }

  /** The id of the last event: from it the stream goes on. */
  get id() {
    return this.#id;
  }

  /** Begin, after the event with this id; `quietly` if there is nothing in it that anybody needs to be told. */
  open(id = "", { quietly = false } = {}) {
    this.close();
    this.#id = id;
    this.#tries = 0;
    if (!quietly) this.#told.state("connecting");
    this.#connect();
  }

  /** Try at once instead of when it is due. */
  hurry() {
    if (this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#connect();
  }

  close() {
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    this.#timer = null;
    this.#drop();
  }

  #connect() {
    this.#timer = null;
    const via = door.locked ? viaFetch : viaEventSource;
    const source = via(this.#path, this.#id, {
      alive: () => this.#source === source && this.#alive(),
      event: (...event) => this.#source === source && this.#event(...event),
      lost: (status) => this.#source === source && this.#lost(status),
    });
    this.#source = source;
    this.#listen();
  }

  #listen() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.#renew(), SILENCE);
  }

  /** Leave a connection that may be dead; nothing is lost, and nobody needs to be told. */
  #renew() {
    this.#drop();
    this.#connect();
  }

  #alive() {
    this.#listen();
    this.#told.state("live");
  }

  #event(name, data, id) {
    this.#tries = 0;
    this.#listen();
    if (id) this.#id = id;
    if (name) this.#told.event(name, JSON.parse(data), id);
  }

  async #lost(status) {
    this.#drop();
    const source = (this.#source = {}); // whoever opens or closes it meanwhile takes this away
    const why = status ?? (await this.#why());
    if (this.#source !== source) return;
    this.#source = null;
    if (passes({ status: why })) return this.#wait();
    this.close();
    this.#told.over(why);
  }

  #wait() {
    clearTimeout(this.#watch);
    const pause = Math.min(LONGEST, 500 * 2 ** this.#tries) * (0.8 + Math.random() * 0.4);
    this.#tries += 1;
    this.#timer = setTimeout(() => this.#connect(), pause);
    this.#told.state("waiting");
  }

  async #why() {
    try {
      // 303 of a status that is done is an answer too.
      const response = await send(this.#probe, { redirect: "manual" });
      if (wantsToken(response)) return await unlock(), 0;
      return response.status;
    } catch {
      return 0;
    }
  }

  #drop() {
    this.#source?.close?.();
    this.#source = null;
  }
}

/* Both are given where to begin and whom to tell: alive(), event(name, data, id), lost(HTTP status or undefined). */

function viaEventSource(path, id, told) {
  const source = new EventSource(id ? `${path}?last_event_id=${encodeURIComponent(id)}` : path);
  source.onopen = told.alive;
  // It would come back by itself after a cut, but never after an answer that is not 200: here it is always made anew.
  source.onerror = () => told.lost();
  for (const name of NAMES) source.addEventListener(name, (event) => told.event(name, event.data, event.lastEventId));
  return source;
}

function viaFetch(path, id, told) {
  const cut = new AbortController();
  pump(path, id, told, cut.signal).then(told.lost, () => cut.signal.aborted || told.lost(0));
  return { close: () => cut.abort() };
}

async function pump(path, id, told, signal) {
  const headers = { Accept: "text/event-stream", ...(id && { "Last-Event-ID": id }) };
  const response = await send(path, { headers, signal });
  if (wantsToken(response)) return await unlock(), 0;
  if (response.status !== 200) return response.status === 204 ? 0 : response.status;
  told.alive();
  const parser = new SseParser(id, told.event);
  // The parser removes the byte order mark: a decoder that removed one too would take two.
  const reader = response.body.pipeThrough(new TextDecoderStream("utf-8", { ignoreBOM: true })).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return 0;
    parser.feed(value);
    told.event("", "", parser.lastId); // an id without data is no event, but counts; so does a comment as a sign of life
  }
}
