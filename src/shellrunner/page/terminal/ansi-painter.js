/* Output as a terminal is to have it: stderr in a colour of its own, each stream's own colours kept apart, times before
   lines if they are wanted. Text in, text out; knows no terminal. */

const TOKENS = /(\x1b\[[\d;:]*m|[\r\n]+)/;
const SGR = /^\x1b\[([\d;:]*)m$/;
const RESET = "\x1b[0m";
const DIM = "\x1b[0;90m";
const TINTS = { stdout: "", stderr: "\x1b[38;5;173m" };
const LONGEST = 256; // of the colours in force that are remembered

/** What one stream writes with: its tint, and the colours that it has set itself. */
class Pen {
  #tint;
  #set = "";

  constructor(tint) {
    this.#tint = tint;
  }

  /** What makes the terminal write like this pen. */
  get stroke() {
    return RESET + this.#tint + this.#set;
  }

  /** Take a sequence that the stream wrote; returns what the terminal is to get. */
  take(sequence, parameters) {
    const rest = /^0*(?:;(.*))?$/.exec(parameters);
    if (rest) {
      this.#set = rest[1] ? `\x1b[${rest[1]}m` : "";
      return this.stroke;
    }
    this.#set = (this.#set + sequence).slice(-LONGEST).replace(/^[^\x1b]+/, "");
    // The default colour is the tint.
    return parameters === "39" ? sequence + this.#tint : sequence;
  }
}

export class Painter {
  #only;
  #times;
  #pens = { stdout: new Pen(TINTS.stdout), stderr: new Pen(TINTS.stderr) };
  #last = "stdout";
  #fresh = true;
  #begun = false;

  /** `only` is the one stream that is wanted, or nothing; `times` is whether lines begin with their time. */
  constructor({ only, times }) {
    this.#only = only;
    this.#times = times;
  }

  /** The terminal's text of one piece: {stream, text, time}. */
  paint({ stream, text, time }) {
    if (this.#only && stream !== this.#only) return "";
    const pen = this.#pens[stream];
    const turn = stream === this.#last ? "" : pen.stroke;
    this.#last = stream;
    this.#begun = true;
    if (!this.#times && !text.includes("\x1b[")) return turn + text;
    return turn + text.split(TOKENS).map((token) => this.#token(token, pen, time)).join("");
  }

  /** A line of our own between the output. */
  remark(words) {
    const before = this.#begun ? "\r\n" : "";
    this.#fresh = this.#begun = true;
    return `${before}${DIM}${words}${RESET}\r\n${this.#pens[this.#last].stroke}`;
  }

  #token(token, pen, time) {
    if (token === "") return "";
    const sequence = SGR.exec(token);
    if (sequence) return pen.take(token, sequence[1]);
    if (!this.#times) return token;
    const begins = this.#fresh && !/^[\r\n]/.test(token);
    this.#fresh = /[\r\n]$/.test(token);
    return begins ? `${DIM}${clock(time)} ${pen.stroke}${token}` : token;
  }
}

/** The time of day to the millisecond, where the reader is. */
function clock(instant) {
  const then = new Date(instant);
  const pad = (number, digits = 2) => String(number).padStart(digits, "0");
  return `${pad(then.getHours())}:${pad(then.getMinutes())}:${pad(then.getSeconds())}.${pad(then.getMilliseconds(), 3)}`;
}
