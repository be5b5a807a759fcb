/* Output as text for the terminal: stderr has a colour of its own, the colours that each stream sets do not affect the
   other, and lines begin with their time if that is wanted. Text in, text out. */

import { formatTimestamp } from "../core/format.js";
import { noticeMark } from "./notice-mark.js";

const TOKENS = /(\x1b\[[\d;:]*m|[\r\n]+)/;
const SGR = /^\x1b\[([\d;:]*)m$/;
const RESET = "\x1b[0m";
const DIM = "\x1b[0;90m";
const BASE_COLORS = { stdout: "", stderr: "\x1b[38;5;173m" };
const LINE_END = /\n(?:\x1b\[[\d;:]*m)*$/;
const MAX_LINE_END = 200; // characters that are searched for it
// Undoes what a command has left changed: saves the cursor, leaves the alternate screen, restores it, and resets colours,
// modes and scrolling (DECSTR). In the normal screen the cursor stays where it is.
const FRESH = "\x1b7\x1b[?1049l\x1b[!p";
const MAX_STYLE = 256; // characters of SGR sequences that are remembered

/** The style that one stream has set, on top of the stream's base colour. */
class StreamStyle {
  #baseColor;
  #sequences = "";

  constructor(baseColor) {
    this.#baseColor = baseColor;
  }

  /** The sequence that switches the terminal to this style. */
  get sequence() {
    return RESET + this.#baseColor + this.#sequences;
  }

  /** Forget what the stream has set. */
  reset() {
    this.#sequences = "";
  }

  /** Apply an SGR sequence of the stream; returns the sequence for the terminal. */
  apply(sequence, parameters) {
    const reset = /^0*(?:;(.*))?$/.exec(parameters);
    if (reset) {
      this.#sequences = reset[1] ? `\x1b[${reset[1]}m` : "";
      return this.sequence;
    }
    this.#sequences = (this.#sequences + sequence).slice(-MAX_STYLE).replace(/^[^\x1b]+/, "");
    // SGR 39 selects the default colour, which is the base colour here.
    return parameters === "39" ? sequence + this.#baseColor : sequence;
  }
}

export class AnsiPainter {
  #only;
  #showTimes;
  #styles = { stdout: new StreamStyle(BASE_COLORS.stdout), stderr: new StreamStyle(BASE_COLORS.stderr) };
  #lastStream = "stdout";
  #atLineStart = true; // for the times
  #endsLine = true; // whether what was painted last ends its line

  /** `only` is the one stream to show, or "" for both. */
  constructor({ only, showTimes }) {
    this.#only = only;
    this.#showTimes = showTimes;
  }

  /** Return a chunk of output as text for the terminal. */
  paint({ stream, text, time }) {
    if (this.#only && stream !== this.#only) return "";
    const style = this.#styles[stream];
    const styleSwitch = stream === this.#lastStream ? "" : style.sequence;
    this.#lastStream = stream;
    if (text) this.#endsLine = LINE_END.test(text.slice(-MAX_LINE_END));
    if (!this.#showTimes && !text.includes("\x1b[")) return styleSwitch + text;
    return styleSwitch + text.split(TOKENS).map((token) => this.#paintToken(token, style, time)).join("");
  }

  /** Return a line of the page's own, set apart from the output; behind it the terminal is as new if it `isFresh`. */
  paintNotice(text, isFresh = false) {
    const start = (isFresh ? FRESH : "") + (this.#endsLine ? "" : "\r\n") + noticeMark(!this.#endsLine);
    this.#atLineStart = this.#endsLine = true;
    if (isFresh) for (const style of Object.values(this.#styles)) style.reset();
    return `${start}${DIM}${text}${RESET}\r\n${this.#styles[this.#lastStream].sequence}`;
  }

  #paintToken(token, style, time) {
    if (token === "") return "";
    const sgr = SGR.exec(token);
    if (sgr) return style.apply(token, sgr[1]);
    if (!this.#showTimes) return token;
    const beginsLine = this.#atLineStart && !/^[\r\n]/.test(token);
    this.#atLineStart = /[\r\n]$/.test(token);
    return beginsLine ? `${DIM}${formatTimestamp(time)} ${style.sequence}${token}` : token;
  }
}
