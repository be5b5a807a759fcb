/* Parser for server-sent events, as the HTML standard interprets an event stream (section 9.2.6). It serves streams that
   are read with fetch, because EventSource cannot send a header. It must not know about the network. */

export class SseParser {
  #atStart = true;
  #afterCr = false;
  #line = "";
  #event = "";
  #data = [];
  #id;
  #lastId;
  #onEvent;

  /** `lastId` is the last event id of an earlier connection; `onEvent(name, data, id)` is called for each event. */
  constructor(lastId, onEvent) {
    this.#id = this.#lastId = lastId;
    this.#onEvent = onEvent;
  }

  /** The id to reconnect from. An id counts once the blank line after it has been read, even if no event came with it. */
  get lastId() {
    return this.#lastId;
  }

  /** Parse the next chunk of decoded text; it may begin and end anywhere. */
  feed(chunk) {
    if (chunk === "") return;
    let text = this.#atStart && chunk.startsWith("\ufeff") ? chunk.slice(1) : chunk;
    this.#atStart = false;
    // A CR ends its line at once, since nothing may follow it for a long time. An LF that follows is the other half of
    // the same line end.
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const lines = (this.#line + text).split(/\r\n|\n|\r/);
    this.#line = lines.pop();
    for (const line of lines) this.#parseLine(line);
  }

  #parseLine(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon); // "" for a comment
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    // `retry` is ignored like an unknown field: the event stream has its own backoff.
  }

  #dispatch() {
    this.#lastId = this.#id;
    const [event, data] = [this.#event, this.#data];
    this.#event = "";
    this.#data = [];
    if (data.length) this.#onEvent(event || "message", data.join("\n"), this.#lastId);
  }
}
