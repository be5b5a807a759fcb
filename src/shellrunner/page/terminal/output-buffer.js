/* The most recent output of a job, kept so that it can be displayed again with other options. It is bounded: older
   output is left to the service, which has all of it. Chunks are numbered from the first one ever added. */

const MAX_CHARACTERS = 8_000_000;
const MAX_CHUNKS = 100_000;
const MAX_LINE = 1000; // characters: the terminal is never wider, so longer lines need not be measured
// A carriage return that ends no line, or a sequence that moves the cursor or erases.
const DRAWING = /\r(?![\r\n]|$)|\x1b\[[\d;]*[A-HJKf]/;
const MIN_COMPACTION = 10_000; // chunks

export class OutputBuffer {
  /** The number of the first chunk that is still here. */
  start = 0;
  /** The length of the longest line in characters. */
  longestLine = 0;
  /** Whether output draws over what is there, as progress bars do, so that it needs lines of the width that it expects. */
  drawsInPlace = false;
  #chunks = [];
  #offset = 0; // the number of #chunks[0]; the chunks before `start` are dropped already, but not removed yet
  #characters = 0;
  #currentLine = 0;

  /** The number that the next chunk will have. */
  get end() {
    return this.#offset + this.#chunks.length;
  }

  at(number) {
    return this.#chunks[number - this.#offset];
  }

  /** Add a chunk: {stream, text, time} of output, or {notice, isFresh} of the page's own. */
  add(chunk) {
    this.#chunks.push(chunk);
    this.#characters += lengthOf(chunk);
    if (chunk.text) this.#measureLines(chunk.text);
    if (chunk.text) this.drawsInPlace ||= DRAWING.test(chunk.text);
    while (this.#characters > MAX_CHARACTERS || this.end - this.start > MAX_CHUNKS) this.#dropFirst();
  }

  #dropFirst() {
    this.#characters -= lengthOf(this.at(this.start));
    this.start += 1;
    if (this.start - this.#offset < MIN_COMPACTION && this.start < this.end) return;
    this.#chunks = this.#chunks.slice(this.start - this.#offset); // many at once, because it copies all that remain
    this.#offset = this.start;
  }

  #measureLines(text) {
    if (this.longestLine >= MAX_LINE) return;
    for (const [number, line] of text.split("\n").entries()) {
      this.#currentLine = number ? line.length : this.#currentLine + line.length;
      this.longestLine = Math.max(this.longestLine, this.#currentLine);
    }
  }
}

/** The length of a chunk's output in characters. */
export function lengthOf(chunk) {
  return chunk.text?.length ?? 0;
}
