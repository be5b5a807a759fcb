/* The terminal on the screen: xterm.js with its addons, sized to its place, searched, followed, copied from. What a
   command writes is drawn by it and nothing else. Knows no job and no network. */

import { keepStylesStrict } from "./csp-styles.js";
import { tame } from "./terminal-guard.js";
import { FitAddon } from "../vendor/addon-fit.mjs";
import { SearchAddon } from "../vendor/addon-search.mjs";
import { Unicode11Addon } from "../vendor/addon-unicode11.mjs";
import { Terminal } from "../vendor/xterm.mjs";

const CELLS = 4_000_000; // of scrollback: each takes 12 bytes
const WIDEST = 1000; // columns of an unwrapped line
const THEMES = {
  light: {
    background: "#ffffff", foreground: "#1c2127", cursor: "#ffffff", selectionBackground: "#b6d4fe",
    black: "#1c2127", red: "#b42028", green: "#1a7036", yellow: "#7d5a00", blue: "#1759c4", magenta: "#8136a8",
    cyan: "#0b6a77", white: "#6b7480", brightBlack: "#5f6974", brightRed: "#c93038", brightGreen: "#1a7f45",
    brightYellow: "#8f6700", brightBlue: "#1f6feb", brightMagenta: "#9645c0", brightCyan: "#107c8c", brightWhite: "#3a424c",
    overviewRulerBorder: "#00000000", scrollbarSliderBackground: "#00000026", scrollbarSliderHoverBackground: "#00000040", scrollbarSliderActiveBackground: "#00000055",
  },
  dark: {
    background: "#0d1014", foreground: "#dde3ea", cursor: "#0d1014", selectionBackground: "#29507f",
    black: "#39424d", red: "#ff7b78", green: "#5dc780", yellow: "#dfb44f", blue: "#6aa9ff", magenta: "#cf94f2",
    cyan: "#56c7d6", white: "#c3ccd6", brightBlack: "#8a95a3", brightRed: "#ff9b96", brightGreen: "#83dca0",
    brightYellow: "#f0cd7a", brightBlue: "#94c2ff", brightMagenta: "#e0b4fa", brightCyan: "#85dce8", brightWhite: "#ffffff",
    overviewRulerBorder: "#00000000", scrollbarSliderBackground: "#ffffff26", scrollbarSliderHoverBackground: "#ffffff40", scrollbarSliderActiveBackground: "#ffffff55",
  },
};
const MATCHES = {
  light: { matchBackground: "#ffe08a", activeMatchBackground: "#ffa940", matchOverviewRuler: "#c99a00", activeMatchColorOverviewRuler: "#d06000" },
  dark: { matchBackground: "#5c4a10", activeMatchBackground: "#a56a00", matchOverviewRuler: "#c99a00", activeMatchColorOverviewRuler: "#ffb040" },
};

export class Screen {
  #place;
  #terminal;
  #fit = new FitAddon();
  #search = new SearchAddon({ highlightLimit: 2000 });
  #wrapped = true;
  #columns = 80;
  #theme = "light";

  /** `moved` is called whenever what is seen has changed, `found(place, number)` when a search has. */
  constructor(place, moved, found) {
    keepStylesStrict();
    this.#place = place;
    this.#terminal = new Terminal({
      allowProposedApi: true, convertEol: true, disableStdin: true, cursorInactiveStyle: "none", logLevel: "off",
      fontFamily: getComputedStyle(place).fontFamily, fontSize: parseFloat(getComputedStyle(place).fontSize), lineHeight: 1.15,
      minimumContrastRatio: 4.5, scrollback: CELLS / 200, theme: THEMES.light,
      overviewRuler: { width: 10 },
    });
    tame(this.#terminal.parser);
    for (const addon of [this.#fit, this.#search, new Unicode11Addon()]) this.#terminal.loadAddon(addon);
    this.#terminal.unicode.activeVersion = "11";
    this.#terminal.open(place);
    this.#terminal.textarea.setAttribute("aria-label", "Output of the command");
    this.#terminal.attachCustomKeyEventHandler((event) => this.#key(event));
    this.#terminal.onRender(moved);
    this.#search.onDidChangeResults(({ resultIndex, resultCount }) => found(resultIndex, resultCount));
    new ResizeObserver(() => this.fit()).observe(place);
    place.addEventListener("scroll", () => this.#keepBarInView());
  }

  /** Write text; `done` is called when it has been taken. */
  write(text, done) {
    this.#terminal.write(text, done);
  }

  /** Forget everything that was written until now, also what has not been taken yet. */
  clear() {
    this.#search.clearDecorations();
    this.#terminal.write("\x1bc"); // RIS: in its turn, after what was written before
  }

  /** Take the size of the place. */
  fit() {
    const size = this.#fit.proposeDimensions();
    if (!size || Number.isNaN(size.cols) || !this.#place.offsetParent) return;
    const columns = this.#wrapped ? size.cols : Math.max(size.cols, this.#columns);
    this.#terminal.options.scrollback = Math.floor(CELLS / Math.max(columns, 100));
    this.#keepBarInView();
    if (columns !== this.#terminal.cols || size.rows !== this.#terminal.rows) this.#terminal.resize(columns, size.rows);
  }

  /** Break long lines, or let them run on; `longest` is how long the longest is. */
  wrap(on, longest = 0) {
    this.#wrapped = on;
    this.#columns = Math.min(WIDEST, longest);
    this.#place.classList.toggle("unwrapped", !on);
    this.fit();
  }

  /** How many lines there are below what is seen. */
  get below() {
    const { baseY, viewportY } = this.#terminal.buffer.active;
    return baseY - viewportY;
  }

  toEnd() {
    this.#terminal.scrollToBottom();
  }

  /** Search forwards (1) or backwards (-1) from the last match; nothing clears it. */
  find(text, by, { incremental = false } = {}) {
    if (!text) return this.#search.clearDecorations();
    const options = { decorations: MATCHES[this.#theme], incremental };
    return by < 0 ? this.#search.findPrevious(text, options) : this.#search.findNext(text, options);
  }

  /** What is selected, else everything. */
  text() {
    if (this.#terminal.hasSelection()) return this.#terminal.getSelection();
    this.#terminal.selectAll();
    const all = this.#terminal.getSelection();
    this.#terminal.clearSelection();
    return `${all.trimEnd()}\n`;
  }

  /** Let screen readers have the output; it costs time, so they ask for it. */
  aloud(on) {
    this.#terminal.options.screenReaderMode = on;
  }

  theme(name) {
    this.#theme = name;
    this.#terminal.options.theme = THEMES[name];
  }

  focus() {
    this.#terminal.focus();
  }

  #keepBarInView() {
    const { scrollLeft, clientWidth } = this.#place;
    this.#place.style.setProperty("--edge-of-view", `${scrollLeft + clientWidth - 12}px`);
  }

  /** Keys scroll; all others are the page's and the browser's, so that Tab leads out again. */
  #key(event) {
    const { rows } = this.#terminal;
    const lines = { ArrowUp: -1, ArrowDown: 1, PageUp: 1 - rows, PageDown: rows - 1, Home: -Infinity, End: Infinity }[event.key];
    if (event.type !== "keydown" || lines === undefined || event.ctrlKey || event.altKey || event.metaKey) return false;
    event.preventDefault();
    if (Number.isFinite(lines)) this.#terminal.scrollLines(lines);
    else if (lines < 0) this.#terminal.scrollToTop();
    else this.#terminal.scrollToBottom();
    return false;
  }
}
