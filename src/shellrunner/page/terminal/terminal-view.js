/* The terminal that displays output: xterm.js with its addons, fitted to its container, with search, scrolling and
   copying, and keys for who types. It must not know about jobs or the network. */

import { installCspStyles } from "./csp-styles.js";
import { readNoticeMarks } from "./notice-mark.js";
import { guardTerminal } from "./terminal-guard.js";
import { FitAddon } from "../vendor/addon-fit.mjs";
import { SearchAddon } from "../vendor/addon-search.mjs";
import { Unicode11Addon } from "../vendor/addon-unicode11.mjs";
import { Terminal } from "../vendor/xterm.mjs";

const MAX_CELLS = 4_000_000; // of scrollback; a cell takes 12 bytes
const MAX_COLUMNS = 1000; // of an unwrapped line
const MIN_DRAWN_COLUMNS = 80; // what programs that draw over their lines expect, if nothing says how wide a terminal is
const LABEL = "Output of the command";
const THEMES = {
  light: {
    background: "#ffffff", foreground: "#1c2127", cursor: "#1c2127", selectionBackground: "#b6d4fe",
    black: "#1c2127", red: "#b42028", green: "#1a7036", yellow: "#7d5a00", blue: "#1759c4", magenta: "#8136a8",
    cyan: "#0b6a77", white: "#6b7480", brightBlack: "#5f6974", brightRed: "#c93038", brightGreen: "#1a7f45",
    brightYellow: "#8f6700", brightBlue: "#1f6feb", brightMagenta: "#9645c0", brightCyan: "#107c8c", brightWhite: "#3a424c",
    overviewRulerBorder: "#00000000", scrollbarSliderBackground: "#00000026", scrollbarSliderHoverBackground: "#00000040", scrollbarSliderActiveBackground: "#00000055",
  },
  dark: {
    background: "#0d1014", foreground: "#dde3ea", cursor: "#dde3ea", selectionBackground: "#29507f",
    black: "#39424d", red: "#ff7b78", green: "#5dc780", yellow: "#dfb44f", blue: "#6aa9ff", magenta: "#cf94f2",
    cyan: "#56c7d6", white: "#c3ccd6", brightBlack: "#8a95a3", brightRed: "#ff9b96", brightGreen: "#83dca0",
    brightYellow: "#f0cd7a", brightBlue: "#94c2ff", brightMagenta: "#e0b4fa", brightCyan: "#85dce8", brightWhite: "#ffffff",
    overviewRulerBorder: "#00000000", scrollbarSliderBackground: "#ffffff26", scrollbarSliderHoverBackground: "#ffffff40", scrollbarSliderActiveBackground: "#ffffff55",
  },
};
const MATCH_COLORS = {
  light: { matchBackground: "#ffe08a", activeMatchBackground: "#ffa940", matchOverviewRuler: "#c99a00", activeMatchColorOverviewRuler: "#d06000" },
  dark: { matchBackground: "#5c4a10", activeMatchBackground: "#a56a00", matchOverviewRuler: "#c99a00", activeMatchColorOverviewRuler: "#ffb040" },
};

export class TerminalView {
  #container;
  #terminal;
  #fit = new FitAddon();
  #search = new SearchAddon({ highlightLimit: 2000 });
  #wrapped = true;
  #longestLine = 80;
  #theme = "light";
  #size = null; // of the terminal on which the output was written, if it was one
  #isDrawn = false;
  #isReplay = false;
  #notices = []; // rows of the page's own: {marker, divides}
  #typing = null; // while keys are typed: what is called with them

  /** `listener` has rendered() for each change of what is displayed, matched(index, count) for a change of the matches,
      resized() for another size of the container, and stopped() for the key that ends typing. */
  constructor(container, listener) {
    installCspStyles();
    this.#container = container;
    this.#terminal = new Terminal({
      allowProposedApi: true, convertEol: true, disableStdin: true, cursorInactiveStyle: "none", logLevel: "off",
      fontFamily: getComputedStyle(container).fontFamily, fontSize: parseFloat(getComputedStyle(container).fontSize), lineHeight: 1.15,
      minimumContrastRatio: 4.5, scrollback: MAX_CELLS / 200, theme: THEMES.light,
      overviewRuler: { width: 10 },
    });
    guardTerminal(this.#terminal.parser, () => this.#isReplay);
    readNoticeMarks(this.#terminal.parser, (divides) => this.#notices.push({ marker: this.#terminal.registerMarker(0), divides }));
    this.#terminal.parser.registerEscHandler({ final: "c" }, () => { // RIS, which xterm.js then handles
      this.#notices = [];
      return false;
    });
    for (const addon of [this.#fit, this.#search, new Unicode11Addon()]) this.#terminal.loadAddon(addon);
    this.#terminal.unicode.activeVersion = "11";
    this.#terminal.open(container);
    this.#terminal.textarea.setAttribute("aria-label", LABEL);
    this.#terminal.attachCustomKeyEventHandler((event) => (this.#typing ? this.#typeKey(event, listener.stopped) : this.#scrollByKey(event)));
    this.#terminal.onData((text) => this.#typing?.(text));
    this.#terminal.onRender(listener.rendered);
    this.#search.onDidChangeResults(({ resultIndex, resultCount }) => listener.matched(resultIndex, resultCount));
    new ResizeObserver(() => {
      this.fit();
      listener.resized();
    }).observe(container);
    container.addEventListener("scroll", () => this.#keepScrollbarInView());
  }

  /** Write text; `onParsed` is called when xterm.js has processed it. What a replay asks the terminal is not answered. */
  write(text, onParsed, isReplay) {
    this.#isReplay = isReplay;
    this.#terminal.write(text, onParsed);
  }

  /** Clear the terminal, of text that has not been processed yet too. */
  clear() {
    this.#search.clearDecorations();
    this.#terminal.write("\x1bc"); // RIS, which takes effect after all that was written before
  }

  /** The rows and columns that the container has room for, or null if it is not displayed. */
  get room() {
    const size = this.#fit.proposeDimensions();
    if (!size || Number.isNaN(size.cols) || !this.#container.offsetParent) return null;
    return { rows: size.rows, columns: size.cols };
  }

  /** Resize the terminal: to the size of the terminal on which the output was written, or to its container. */
  fit() {
    const room = this.room;
    if (!room) return;
    const { rows, columns } = this.#size ?? { rows: room.rows, columns: Math.max(room.columns, this.#minColumns) };
    this.#terminal.options.scrollback = Math.floor(MAX_CELLS / Math.max(columns, 100));
    this.#container.classList.toggle("wide", columns > room.columns);
    this.#container.classList.toggle("tall", rows > room.rows);
    this.#container.classList.toggle("sized", this.#size !== null);
    this.#keepScrollbarInView();
    if (columns !== this.#terminal.cols || rows !== this.#terminal.rows) this.#terminal.resize(columns, rows);
  }

  get #minColumns() {
    if (!this.#wrapped) return this.#longestLine;
    return this.#isDrawn ? MIN_DRAWN_COLUMNS : 0;
  }

  /** Set the size of the terminal on which the output was written, or null if it was none. The kernel ends the lines of
      such output with CR LF; where a program has switched that off, LF alone moves straight down. */
  setSize(size) {
    this.#size = size;
    this.#terminal.options.convertEol = size === null;
    this.fit();
  }

  /** Set whether the output draws over its own lines, which then must not be narrower than it expects. Returns whether
      the width of the terminal has changed. */
  setDrawn(isDrawn) {
    if (isDrawn === this.#isDrawn) return false;
    const before = this.#terminal.cols;
    this.#isDrawn = isDrawn;
    this.fit();
    return this.#terminal.cols !== before;
  }

  /** Call `onKeys(text)` for what is typed from now on; for null, keys scroll again. */
  setTyping(onKeys) {
    this.#typing = onKeys;
    this.#terminal.options.disableStdin = onKeys === null;
    this.#container.classList.toggle("typing", onKeys !== null);
    this.#terminal.textarea.setAttribute("aria-label", onKeys ? "Terminal of the command: Ctrl+\\ stops typing" : LABEL);
    if (onKeys) this.focus();
  }

  /** Wrap long lines, or make the terminal as wide as the longest, which has `longestLine` characters. */
  setWrap(wrapped, longestLine = 0) {
    this.#wrapped = wrapped;
    this.#longestLine = Math.min(MAX_COLUMNS, longestLine);
    this.fit();
  }

  /** The number of lines below those that are visible. */
  get linesBelow() {
    const { baseY, viewportY } = this.#terminal.buffer.active;
    return baseY - viewportY;
  }

  /** Whether the terminal has dropped the first lines that were written. */
  get #isTrimmed() {
    return this.#terminal.buffer.active.length >= this.#terminal.rows + this.#terminal.options.scrollback;
  }

  /** The number of the line in which the selection begins, counted from the first one written; 0 if it is not known. Rows
      of the page's own are counted as the line before them. */
  get selectedLine() {
    const start = this.#terminal.getSelectionPosition()?.start;
    if (!start || this.#isTrimmed) return 0;
    const rows = this.#firstRows();
    return rows.findLastIndex((row) => row <= start.y) + 1;
  }

  /** Scroll to a line, counted from the first one written, and select this text in it, from this column on, or all of it.
      Returns whether the line is there. */
  reveal(number, text = "", from = 0) {
    const rows = this.#firstRows();
    const row = rows[number - 1];
    if (row === undefined || this.#isTrimmed) return false;
    const line = this.#textBetween(row, rows[number] ?? row + 1);
    const found = text ? Math.max(0, line.toLowerCase().indexOf(text.toLowerCase(), from)) : 0;
    this.#terminal.select(found % this.#terminal.cols, row + Math.floor(found / this.#terminal.cols), (text || line.trimEnd()).length || 1);
    this.#terminal.scrollToLine(Math.max(0, row - Math.floor(this.#terminal.rows / 3)));
    return true;
  }

  /** The row in which each line begins. Rows of the page's own begin none, nor does the rest of a line that they divide. */
  #firstRows() {
    const buffer = this.#terminal.buffer.active;
    const end = buffer.baseY + buffer.cursorY;
    const notices = new Map(this.#notices.map(({ marker, divides }) => [marker.line, divides]));
    const rows = [];
    let isDivided = false;
    for (let row = 0; row <= end; row += 1) {
      if (buffer.getLine(row).isWrapped) continue;
      if (notices.has(row)) {
        isDivided ||= notices.get(row);
        continue;
      }
      if (!isDivided) rows.push(row);
      isDivided = false;
    }
    return rows;
  }

  #textBetween(row, end) {
    let text = "";
    for (let each = row; each < end; each += 1) text += this.#terminal.buffer.active.getLine(each).translateToString();
    return text;
  }

  scrollToEnd() {
    this.#terminal.scrollToBottom();
  }

  /** Select the next match (1) or the previous one (-1); an empty text ends the search. */
  find(text, direction, { incremental = false } = {}) {
    if (!text) return this.#search.clearDecorations();
    const options = { decorations: MATCH_COLORS[this.#theme], incremental };
    return direction < 0 ? this.#search.findPrevious(text, options) : this.#search.findNext(text, options);
  }

  /** The selected text, or all text if none is selected. */
  getText() {
    if (this.#terminal.hasSelection()) return this.#terminal.getSelection();
    this.#terminal.selectAll();
    const all = this.#terminal.getSelection();
    this.#terminal.clearSelection();
    return `${all.trimEnd()}\n`;
  }

  /** Make the output accessible to screen readers, which slows the terminal down. */
  setScreenReaderMode(enabled) {
    this.#terminal.options.screenReaderMode = enabled;
  }

  setTheme(name) {
    this.#theme = name;
    this.#terminal.options.theme = THEMES[name];
  }

  focus() {
    this.#terminal.focus();
  }

  /** In a terminal that is wider than its container the vertical scrollbar would be at the end of the longest line. */
  #keepScrollbarInView() {
    const { scrollLeft, clientWidth } = this.#container;
    this.#container.style.setProperty("--scrollbar-left", `${scrollLeft + clientWidth - 12}px`);
  }

  /** Let xterm.js handle all keys but the one that ends typing. */
  #typeKey(event, stop) {
    const isStop = event.ctrlKey && !event.altKey && !event.metaKey && (event.key === "\\" || event.key === "\x1c");
    if (!isStop) return true;
    event.preventDefault();
    if (event.type === "keydown") stop();
    return false;
  }

  /** Scroll by key. All other keys are left to the page and the browser, so that Tab leaves the terminal. */
  #scrollByKey(event) {
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
