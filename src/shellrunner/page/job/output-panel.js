/* A job's output with its controls: stream, times, wrapping, search, following, copying, downloading, and the state of
   the connection. */

import { getBlob } from "../core/api.js";
import { formatCount, formatSize } from "../core/format.js";
import { oncePerFrame } from "../core/scheduling.js";
import { currentToken } from "../core/token.js";
import { OutputPump } from "../terminal/output-pump.js";
import { TerminalView } from "../terminal/terminal-view.js";
import { wireCopyButton } from "../ui/clipboard.js";
import { showConnection } from "../ui/connection-status.js";
import { $, setText, setTextOrHide } from "../ui/dom.js";
import { TerminalInput } from "./terminal-input.js";

const TIME_COLUMNS = 14; // characters before a line whose time is shown
const BLOB_LIFETIME = 60_000; // milliseconds: the browser may begin to read it late

export class OutputPanel {
  #listener;
  #terminal;
  #input;
  #pump = null;
  #view = { only: "", showTimes: false };
  #wrapped = true;
  #status = null; // until the stream has delivered it
  #ended = false;
  #downloadError = "";
  #scheduleRender = oncePerFrame(() => this.#render());

  /** `listener` has status(document), done(document) and failed(status), called from the job's event stream. */
  constructor(listener) {
    this.#listener = listener;
    this.#terminal = new TerminalView($("terminal"), {
      rendered: this.#scheduleRender,
      matched: (index, count) => this.#showMatches(index, count),
      resized: () => this.#input.fit(),
      stopped: () => this.#input.stop(),
    });
    this.#input = new TerminalInput(this.#terminal);
    for (const button of document.querySelectorAll("[data-only]")) button.addEventListener("click", () => this.showOnly(button.dataset.only));
    $("wrap").addEventListener("click", () => this.toggleWrap());
    $("times").addEventListener("click", () => this.toggleTimes());
    $("screen-reader").addEventListener("click", () => this.#toggleScreenReader());
    $("scroll-to-end").addEventListener("click", () => this.scrollToEnd());
    wireCopyButton($("copy"), "Output", () => this.#terminal.getText());
    this.#wireFind();
    this.#wireDownload();
  }

  /** Show this job's output and follow it. */
  open(job) {
    this.close();
    this.#pump = new OutputPump(job.job_id, this.#terminal, this.#view, {
      ...this.#listener,
      status: (status) => {
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
    this.#pump?.close();
    this.#pump = null;
    this.#status = null;
    this.#ended = false;
    this.#downloadError = "";
    $("find-text").value = "";
    this.showFind(false);
    this.#showMatches(0, 0);
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
  }

  /** Show or hide the find box. */
  showFind(visible = true) {
    $("find-box").hidden = !visible;
    $("find-open").setAttribute("aria-expanded", String(visible));
    if (visible) $("find-text").select();
    else this.#terminal.find("", 1);
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

  #toggleScreenReader() {
    const enabled = $("screen-reader").getAttribute("aria-pressed") !== "true";
    setPressed($("screen-reader"), enabled);
    this.#terminal.setScreenReaderMode(enabled);
  }

  #repaint() {
    this.#terminal.setWrap(this.#wrapped, (this.#pump?.longestLine ?? 0) + (this.#view.showTimes ? TIME_COLUMNS : 0));
    this.#pump?.setView(this.#view);
  }

  #done(document) {
    this.#ended = true;
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
    $("scroll-to-end").hidden = linesBelow <= 0;
    const action = this.#ended ? "scroll to the end" : "follow";
    if (linesBelow > 0) setText($("scroll-to-end"), `↓ ${formatCount(linesBelow, "line")} below: ${action}`);
    $("output-empty").hidden = !this.#pump?.isEmpty;
    if (this.#pump?.isEmpty) setText($("output-empty"), this.#describeEmpty());
    setTextOrHide($("output-note"), this.#downloadError || (this.#pump ? describeGaps(this.#pump) : ""));
  }

  #describeEmpty() {
    if (this.#ended) return "The job wrote no output";
    if (!this.#status || this.#status.done) return "Loading…"; // the output of a job that is done is on its way
    return this.#status.started ? "No output yet" : "The job has not started yet";
  }

  #showMatches(index, count) {
    setText($("find-count"), $("find-text").value ? describeMatches(index, count) : "");
  }

  #wireFind() {
    const find = (direction, options) => this.#terminal.find($("find-text").value, direction, options);
    $("find-text").addEventListener("input", () => {
      find(1, { incremental: true });
      if (!$("find-text").value) this.#showMatches(0, 0);
    });
    $("find-text").addEventListener("keydown", (event) => event.key === "Enter" && find(event.shiftKey ? -1 : 1));
    $("find-box").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      this.showFind(false);
      $("find-open").focus();
    });
    $("find-open").addEventListener("click", () => this.showFind($("find-box").hidden));
    $("find-close").addEventListener("click", () => this.showFind(false));
    $("find-next").addEventListener("click", () => find(1));
    $("find-previous").addEventListener("click", () => find(-1));
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

function describeMatches(index, count) {
  if (count === 0) return "No match";
  return index < 0 ? `${count}+` : `${index + 1} of ${count}`; // beyond its limit the search addon has no index
}

function describeGaps({ skipped, dropped }) {
  const notStored = dropped.stdout + dropped.stderr;
  const sentences = [
    skipped && `${formatSize(skipped)} of output skipped here; download it to see all of it.`,
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
