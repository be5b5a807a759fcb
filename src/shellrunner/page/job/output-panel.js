/* A job's output with its controls: stream, times, wrapping, search, following, copying, downloading, and the state of
   the connection. */

import { getBlob } from "../core/api.js";
import { formatCount, formatSize } from "../core/format.js";
import { oncePerFrame } from "../core/scheduling.js";
import { currentToken } from "../core/token.js";
import { OutputPump } from "../terminal/output-pump.js";
import { stateLabel } from "../core/labels.js";
import { TerminalView } from "../terminal/terminal-view.js";
import { wireCopyButton } from "../ui/clipboard.js";
import { showConnection } from "../ui/connection-status.js";
import { $, setText, setTextOrHide } from "../ui/dom.js";
import { Excerpt } from "./excerpt.js";
import { wireLineBox } from "./line-box.js";
import { OutputSearch } from "./output-search.js";
import { TerminalInput } from "./terminal-input.js";

const TIME_COLUMNS = 14; // characters before a line whose time is shown
const BLOB_LIFETIME = 60_000; // milliseconds: the browser may begin to read it late

export class OutputPanel {
  #listener;
  #terminal;
  #input;
  #excerpt;
  #search;
  #lineBox;
  #jobId = null;
  #pump = null;
  #view = { only: "", showTimes: false };
  #wrapped = true;
  #status = null; // until the stream has delivered it
  #ended = false;
  #downloadError = "";
  #scheduleRender = oncePerFrame(() => this.#render());

  /** `listener` has status(document), done(document) and failed(status), called from the job's event stream, and
      line(number) for another line that is shown, or 0. */
  constructor(listener) {
    this.#listener = listener;
    this.#terminal = new TerminalView($("terminal"), {
      rendered: this.#scheduleRender,
      matched: (index, count) => this.#search.showMatches(index, count),
      resized: () => this.#input.fit(),
      stopped: () => this.#input.stop(),
    });
    this.#input = new TerminalInput(this.#terminal);
    for (const button of document.querySelectorAll("[data-only]")) button.addEventListener("click", () => this.showOnly(button.dataset.only));
    $("wrap").addEventListener("click", () => this.toggleWrap());
    $("times").addEventListener("click", () => this.toggleTimes());
    $("screen-reader").addEventListener("click", () => this.#toggleScreenReader());
    $("scroll-to-end").addEventListener("click", () => this.scrollToEnd());
    wireCopyButton($("copy"), "Output", () => (this.#excerpt.isOpen ? this.#excerpt : this.#terminal).getText());
    this.#excerpt = new Excerpt({ changed: this.#scheduleRender });
    this.#search = new OutputSearch(this.#terminal, {
      isComplete: () => this.#pump?.isComplete ?? true,
      jobId: () => this.#jobId,
      reveal: (match) => this.#showPlace(match),
    });
    this.#lineBox = wireLineBox({
      jobId: () => this.#jobId,
      selected: () => this.#excerpt.selectedLine || (this.#pump?.isComplete ? this.#terminal.selectedLine : 0),
      go: (line) => this.#showPlace({ line }),
    });
    this.#wireDownload();
  }

  /** Show this job's output and follow it. */
  open(job) {
    this.close();
    this.#jobId = job.job_id;
    this.#pump = new OutputPump(job.job_id, this.#terminal, this.#view, {
      ...this.#listener,
      status: (status) => {
        if (status.cancelling && this.#status?.cancelling === false) this.#divide("Cancel requested");
        this.#status = status;
        this.#input.update(status);
        this.#listener.status(status);
      },
      done: (document) => this.#done(document),
      connection: (state) => showConnection($("job-connection"), state),
      failed: (status) => this.#failed(status),
      changed: this.#scheduleRender,
    });
    showConnection($("job-connection"), "connecting");
    this.#input.open(job, this.#pump);
    this.#pump.open();
    this.#setDownloadLinks(job.job_id);
  }

  close() {
    this.#input.close();
    this.#terminal.setDrawn(false);
    this.#excerpt.close();
    this.#lineBox.show(false);
    this.#jobId = null;
    this.#pump?.close();
    this.#pump = null;
    this.#status = null;
    this.#ended = false;
    this.#downloadError = "";
    this.#search.clear();
    setTextOrHide($("output-note"), "");
  }

  /** Show no output, because the job cannot be fetched; `state` is that of the connection. */
  showUnavailable(state) {
    this.#terminal.clear();
    showConnection($("job-connection"), state);
  }

  /** Reconnect at once if a retry is scheduled. */
  retryNow() {
    this.#pump?.retryNow();
  }

  /** Disconnect until `resume`. */
  suspend() {
    this.#pump?.suspend();
  }

  resume() {
    this.#pump?.resume();
  }

  setTheme(name) {
    this.#terminal.setTheme(name);
    this.#excerpt.setTheme(name);
  }

  /** Show or hide the find box. */
  showFind(visible = true) {
    if (visible) this.#lineBox.show(false);
    this.#search.show(visible);
  }

  /** Show the box that goes to a line. */
  showLineBox() {
    this.#search.show(false);
    this.#lineBox.show(true);
  }

  /** Show this line of the output, wherever it is; for 0 what follows. */
  showLine(line) {
    if (line) this.#showPlace({ line });
    else this.#excerpt.close();
  }

  #showPlace(place) {
    this.#listener.line(place.line);
    this.#excerpt.show(this.#jobId, place, { showTimes: this.#view.showTimes, wrapped: this.#wrapped, size: this.#input.size });
  }

  /** Type into the terminal of the job, if it has one. */
  type() {
    this.#input.start();
  }

  /** Show again what this person may do. */
  refresh() {
    this.#input.render();
  }

  scrollToEnd() {
    this.#closeExcerpt();
    this.#terminal.scrollToEnd();
    this.#scheduleRender();
  }

  /** Show one stream, or both for "". */
  showOnly(stream) {
    this.#view = { ...this.#view, only: stream };
    for (const button of document.querySelectorAll("[data-only]")) setPressed(button, button.dataset.only === stream);
    this.#repaint();
  }

  toggleTimes() {
    this.#view = { ...this.#view, showTimes: !this.#view.showTimes };
    setPressed($("times"), this.#view.showTimes);
    this.#repaint();
  }

  toggleWrap() {
    this.#wrapped = !this.#wrapped;
    setPressed($("wrap"), this.#wrapped);
    this.#repaint();
  }

  #closeExcerpt() {
    if (!this.#excerpt.isOpen) return;
    this.#excerpt.close();
    this.#listener.line(0);
  }

  #toggleScreenReader() {
    const enabled = $("screen-reader").getAttribute("aria-pressed") !== "true";
    setPressed($("screen-reader"), enabled);
    this.#terminal.setScreenReaderMode(enabled);
  }

  #repaint() {
    this.#terminal.setWrap(this.#wrapped, (this.#pump?.longestLine ?? 0) + (this.#view.showTimes ? TIME_COLUMNS : 0));
    this.#pump?.setView(this.#view);
    this.#excerpt.setView({ ...this.#view, wrapped: this.#wrapped });
  }

  /** Mark a place in the output, unless it is the screen of a program. */
  #divide(text) {
    if (!this.#input.size) this.#pump.addDivider(text);
  }

  #done(document) {
    this.#ended = true;
    if (document.ending !== "exited") this.#divide(stateLabel({ ...document, state: "done" }));
    this.#input.end();
    showConnection($("job-connection"), "ended");
    this.#listener.done(document);
    this.#scheduleRender();
  }

  #failed(status) {
    showConnection($("job-connection"), "failed");
    this.#listener.failed(status);
  }

  #render() {
    if (this.#pump?.drawsInPlace && this.#terminal.setDrawn(true)) this.#repaint();
    const { linesBelow } = this.#terminal;
    $("scroll-to-end").hidden = linesBelow <= 0 && !this.#excerpt.isOpen;
    const action = this.#ended ? "scroll to the end" : "follow";
    if (this.#excerpt.isOpen) setText($("scroll-to-end"), `↓ Line ${this.#excerpt.line.toLocaleString()}: ${action}`);
    else if (linesBelow > 0) setText($("scroll-to-end"), `↓ ${formatCount(linesBelow, "line")} below: ${action}`);
    $("output-empty").hidden = !this.#pump?.isEmpty;
    if (this.#pump?.isEmpty) setText($("output-empty"), this.#describeEmpty());
    setTextOrHide($("output-note"), this.#downloadError || (this.#pump ? describeGaps(this.#pump) : ""));
  }

  #describeEmpty() {
    if (this.#ended) return "The job wrote no output";
    if (!this.#status || this.#status.done) return "Loading…"; // the output of a job that is done is on its way
    return this.#status.started ? "No output yet" : "The job has not started yet";
  }

  #setDownloadLinks(jobId) {
    for (const link of document.querySelectorAll("[data-stream]")) {
      const { stream } = link.dataset;
      link.href = `/api/statuses/${jobId}/output${stream && `?stream=${stream}`}`;
      link.download = `job-${jobId}${stream && `-${stream}`}.txt`;
    }
  }

  #wireDownload() {
    const menu = $("download");
    menu.addEventListener("click", async (event) => {
      const link = event.target.closest("a");
      if (!link) return;
      menu.open = false;
      if (currentToken() === null) return;
      // A link cannot send the token.
      event.preventDefault();
      this.#downloadError = "";
      await download(link.getAttribute("href"), link.download).catch((error) => {
        this.#downloadError = `The download failed: ${error.message}`;
        this.#scheduleRender();
      });
    });
  }
}

function setPressed(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed));
}

function describeGaps({ skipped, dropped }) {
  const notStored = dropped.stdout + dropped.stderr;
  const sentences = [
    skipped && `${formatSize(skipped)} of output skipped here: Find and Line show any part of it.`,
    notStored && `${formatSize(notStored)} of output not stored by the service.`,
  ];
  return sentences.filter((sentence) => sentence).join(" ");
}

async function download(path, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await getBlob(path));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), BLOB_LIFETIME);
}
