/* The terminal that displays output: xterm.js with its addons, fitted to its container, with search, scrolling and
   copying. It must not know about jobs or the network. */

import { installCspStyles } from "./csp-styles.js";
import { guardTerminal } from "./terminal-guard.js";
import { FitAddon } from "../vendor/addon-fit.mjs";
import { SearchAddon } from "../vendor/addon-search.mjs";
import { Unicode11Addon } from "../vendor/addon-unicode11.mjs";
import { Terminal } from "../vendor/xterm.mjs";

const MAX_CELLS = 4_000_000; // of scrollback; a cell takes 12 bytes
const MAX_COLUMNS = 1000; // of an unwrapped line
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

  /** `onRender()` is called after each change of what is displayed, `onSearch(index, count)` when the matches change. */
  constructor(container, onRender, onSearch) {
    installCspStyles();
    this.#container = container;
    this.#terminal = new Terminal({
      allowProposedApi: true, convertEol: true, disableStdin: true, cursorInactiveStyle: "none", logLevel: "off",
      fontFamily: getComputedStyle(container).fontFamily, fontSize: parseFloat(getComputedStyle(container).fontSize), lineHeight: 1.15,
      minimumContrastRatio: 4.5, scrollback: MAX_CELLS / 200, theme: THEMES.light,
      overviewRuler: { width: 10 },
    });
    guardTerminal(this.#terminal.parser);
    for (const addon of [this.#fit, this.#search, new Unicode11Addon()]) this.#terminal.loadAddon(addon);
    this.#terminal.unicode.activeVersion = "11";
    this.#terminal.open(container);
    this.#terminal.textarea.setAttribute("aria-label", "Output of the command");
    this.#terminal.attachCustomKeyEventHandler((event) => this.#scrollByKey(event));
    this.#terminal.onRender(onRender);
    this.#search.onDidChangeResults(({ resultIndex, resultCount }) => onSearch(resultIndex, resultCount));
    new ResizeObserver(() => this.fit()).observe(container);
    container.addEventListener("scroll", () => this.#keepScrollbarInView());
  }

  /** Write text; `onParsed` is called when xterm.js has processed it. */
  write(text, onParsed) {
    this.#terminal.write(text, onParsed);
  }

  /** Clear the terminal, of text that has not been processed yet too. */
  clear() {
    this.#search.clearDecorations();
    this.#terminal.write("\x1bc"); // RIS, which takes effect after all that was written before
  }

  /** Resize the terminal to its container. */
  fit() {
    const size = this.#fit.proposeDimensions();
    if (!size || Number.isNaN(size.cols) || !this.#container.offsetParent) return;
    const columns = this.#wrapped ? size.cols : Math.max(size.cols, this.#longestLine);
    this.#terminal.options.scrollback = Math.floor(MAX_CELLS / Math.max(columns, 100));
    this.#keepScrollbarInView();
    if (columns !== this.#terminal.cols || size.rows !== this.#terminal.rows) this.#terminal.resize(columns, size.rows);
  }

  /** Wrap long lines, or make the terminal as wide as the longest, which has `longestLine` characters. */
  setWrap(wrapped, longestLine = 0) {
    this.#wrapped = wrapped;
    this.#longestLine = Math.min(MAX_COLUMNS, longestLine);
    this.#container.classList.toggle("unwrapped", !wrapped);
    this.fit();
  }

  /** The number of lines below those that are visible. */
  get linesBelow() {
    const { baseY, viewportY } = this.#terminal.buffer.active;
    return baseY - viewportY;
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

  /** In an unwrapped terminal the vertical scrollbar would be at the end of the longest line. */
  #keepScrollbarInView() {
    const { scrollLeft, clientWidth } = this.#container;
    this.#container.style.setProperty("--scrollbar-left", `${scrollLeft + clientWidth - 12}px`);
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
