/* The last of a job's output, so that it can be shown anew in another way. Bounded: what is older is left to the
   service, which has all of it. Pieces are numbered from the first that ever came. Knows no screen. */

const MOST = 8_000_000; // characters
const PIECES = 100_000;
const WIDE = 1000; // a longer line need not be measured

export class Record {
  /** The number of the first piece that is still here. */
  begin = 0;
  /** How many characters the longest line has. */
  longest = 0;
  #pieces = [];
  #gone = 0;
  #length = 0;
  #line = 0;

  /** The number that the next piece will have. */
  get end() {
    return this.#gone + this.#pieces.length;
  }

  at(number) {
    return this.#pieces[number - this.#gone];
  }

  /** Add a piece: {stream, text, time} of output, or {remark: words}. */
  add(piece) {
    this.#pieces.push(piece);
    this.#length += lengthOf(piece);
    if (piece.text) this.#measure(piece.text);
    while (this.#length > MOST || this.end - this.begin > PIECES) this.#shed();
  }

  #shed() {
    this.#length -= lengthOf(this.at(this.begin));
    this.begin += 1;
    if (this.begin - this.#gone < 10_000 && this.begin < this.end) return;
    this.#pieces = this.#pieces.slice(this.begin - this.#gone); // not one by one: that would copy all of them each time
    this.#gone = this.begin;
  }

  #measure(text) {
    if (this.longest >= WIDE) return;
    for (const [number, line] of text.split("\n").entries()) {
      this.#line = number ? line.length : this.#line + line.length;
      this.longest = Math.max(this.longest, this.#line);
    }
  }
}

/** How many characters a piece has. */
export function lengthOf(piece) {
  return piece.text?.length ?? 0;
}
