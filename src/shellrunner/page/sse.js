/* Server-sent events out of a stream of text, as the HTML standard (9.2.6) reads them; for streams that are fetched,
   because EventSource cannot send a header. Knows no network. */

export class Parser {
  #rest = "";
  #event = "";
  #data = [];
  #id;
  #heard;

  /** `heard(name, data, id)` gets each event; `id` is the last event id, whenever it came. */
  constructor(id, heard) {
    this.#id = id;
    this.#heard = heard;
  }

  get id() {
    return this.#id;
  }

  /** Take what came, however it was cut. */
  take(text) {
    const all = this.#rest + text;
    // A CR at the very end may be half of a CRLF.
    const held = all.endsWith("\r") ? 1 : 0;
    const lines = all.slice(0, all.length - held).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() + all.slice(all.length - held);
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) return;
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#id = value;
  }

  #dispatch() {
    if (this.#data.length) this.#heard(this.#event || "message", this.#data.join("\n"), this.#id);
    this.#event = "";
    this.#data = [];
  }
}
