/* A part of a job's output, from any place on: displayed over the output that is followed, until it is closed. */

import { get } from "../core/api.js";
import { OutputPump } from "../terminal/output-pump.js";
import { TerminalView } from "../terminal/terminal-view.js";
import { announce } from "../ui/announcer.js";
import { $ } from "../ui/dom.js";

const LINES_BEFORE = 50; // the one that is shown
const LINES_AHEAD = 200; // below those that are visible, when more is fetched
const NO_LISTENER = { status() {}, done() {}, connection() {}, failed() {}, changed() {} };

export class Excerpt {
  #listener;
  #terminal = null; // made when it is first needed
  #theme = "light";
  #pump = null;
  #jobId = null;
  #firstLine = 1; // the number of the first line that is displayed
  #place = null; // what is shown
  #isPending = false; // whether it is to be scrolled to when more is displayed
  #isCleared = false; // whether what was displayed before is gone

  /** `listener` has changed(), for when it is opened or closed. */
  constructor(listener) {
    this.#listener = listener;
    const settle = () => { this.#isPending = false; };
    for (const event of ["wheel", "keydown", "pointerdown"]) $("excerpt").addEventListener(event, settle);
  }

  get isOpen() {
    return this.#place !== null;
  }

  /** The number of the line that is shown. */
  get line() {
    return this.#place.line;
  }

  /** The number of the line in which the selection begins, or 0. */
  get selectedLine() {
    const selected = this.isOpen && this.#pump ? this.#terminal.selectedLine : 0;
    return selected && this.#firstLine + selected - 1;
  }

  setTheme(name) {
    this.#theme = name;
    this.#terminal?.setTheme(name);
  }

  /** Show the place in a job's output: its `line`, and of a match also its `text` and what is `before` it. */
  async show(jobId, place, { showTimes, wrapped, size }) {
    this.#place = place;
    if (this.#pump && this.#isCleared && this.#reveal()) return this.#listener.changed();
    let start;
    try {
      const line = Math.max(1, place.line - LINES_BEFORE);
      start = await get(`/api/statuses/${jobId}/output/line?number=${line}`);
    } catch (error) {
      if (this.#place === place) this.close();
      return announce(error.message);
    }
    if (this.#place !== place) return;
    this.#place = { ...place, line: Math.min(place.line, Math.max(1, start.lines)) };
    this.#pump?.close();
    this.#open();
    this.#terminal.setSize(size);
    this.#terminal.setWrap(wrapped, 0);
    this.#firstLine = start.line;
    this.#isPending = true;
    this.#isCleared = false;
    const pump = new OutputPump(jobId, this.#terminal, { only: "", showTimes }, NO_LISTENER, start.event_id ?? "0");
    this.#pump = pump;
    this.#terminal.write("", () => { this.#isCleared ||= this.#pump === pump; }); // after what clears it
    pump.open();
    this.#listener.changed();
  }

  /** Display it with another view. */
  setView({ showTimes, wrapped }) {
    if (!this.#pump) return;
    this.#terminal.setWrap(wrapped, this.#pump.longestLine);
    this.#pump.setView({ only: "", showTimes });
  }

  /** The selected text, or all text that is displayed if none is selected. */
  getText() {
    return this.#terminal.getText();
  }

  close() {
    this.#place = null;
    this.#isPending = false;
    this.#pump?.close();
    this.#pump = null;
    $("excerpt").hidden = true;
    $("terminal").inert = false;
    this.#listener.changed();
  }

  #open() {
    $("excerpt").hidden = false;
    $("terminal").inert = true;
    this.#terminal ??= new TerminalView($("excerpt"), {
      rendered: () => this.#rendered(),
      matched: () => {},
      resized: () => {},
      stopped: () => {},
    });
    this.#terminal.setTheme(this.#theme);
  }

  #rendered() {
    if (!this.#pump || !this.#isCleared) return;
    if (this.#isPending) this.#reveal();
    else if (this.#terminal.linesBelow < LINES_AHEAD) this.#pump.loadMore();
  }

  #reveal() {
    const { line, text, before } = this.#place;
    const number = line - this.#firstLine + 1;
    if (number < 1 || !this.#terminal.reveal(number, text, before?.length)) return false;
    this.#isPending = this.#terminal.linesBelow === 0; // a terminal at its end follows what is written next
    return true;
  }
}
