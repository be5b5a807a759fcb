/* A job's output with its controls: which stream, times, wrapping, finding, following, copying, downloading, and the
   state of the connection in words. */

import { $, soon, tell, write } from "../ui/dom.js";
import { showLine } from "../ui/badge.js";
import { copies } from "../ui/clipboard.js";
import { bytes, door } from "../core/api.js";
import { Screen } from "../terminal/terminal-view.js";
import { Tap } from "../terminal/output-pump.js";
import { count, size } from "../core/labels.js";

const LINES = { connecting: "connecting", live: "live", waiting: "reconnecting", ended: "ended", gone: "gone" };

export class Output {
  #told;
  #screen;
  #tap = null;
  #job = null;
  #view = { only: "", times: false };
  #wrapped = true;
  #started = false;
  #ended = false;
  #failure = "";
  #look = soon(() => this.#show());

  /** `told` has status(document), done(document), over(status): what the job's stream says of the job. */
  constructor(told) {
    this.#told = told;
    this.#screen = new Screen($("screen"), this.#look, (place, number) => this.#found(place, number));
    for (const button of document.querySelectorAll("[data-only]")) button.addEventListener("click", () => this.only(button.dataset.only));
    $("wrap").addEventListener("click", () => this.wrap());
    $("times").addEventListener("click", () => this.times());
    $("aloud").addEventListener("click", () => this.#aloud());
    $("to-end").addEventListener("click", () => this.toEnd());
    copies($("copy"), "output", () => this.#screen.text());
    this.#wireSeek();
    this.#wireDownload();
  }

  /** Follow this job. */
  open(job) {
    this.close();
    this.#job = job;
    this.#tap = new Tap(job, this.#screen, this.#view, {
      ...this.#told,
      status: (status) => {
        this.#started = Boolean(status.started);
        this.#told.status(status);
      },
      done: (document) => this.#end(document),
      line: (state) => showLine($("job-line"), state, LINES[state]),
      over: (status) => this.#over(status),
      moved: this.#look,
    });
    showLine($("job-line"), "connecting", LINES.connecting);
    this.#screen.fit();
    this.#tap.open();
    this.#name(job);
  }

  close() {
    this.#tap?.close();
    this.#tap = null;
    this.#started = this.#ended = false;
    this.#failure = "";
    $("seek").value = "";
    this.seek(false);
    this.#found(0, 0);
    tell($("note"), "");
  }

  /** There is no such job, or it cannot be read now: the line says which. */
  none(line) {
    this.#screen.clear();
    showLine($("job-line"), line, LINES[line]);
  }

  /** Connect at once, if it is waiting to. */
  hurry() {
    this.#tap?.hurry();
  }

  /** Hold no connection until `wake`. */
  rest() {
    this.#tap?.rest();
  }

  wake() {
    this.#tap?.wake();
  }

  theme(name) {
    this.#screen.theme(name);
  }

  focus() {
    this.#screen.focus();
  }

  /** Show the box to find with, or put it away. */
  seek(open = true) {
    $("seek-box").hidden = !open;
    $("seek-open").setAttribute("aria-expanded", String(open));
    if (open) $("seek").select();
    else this.#screen.find("", 1);
  }

  toEnd() {
    this.#screen.toEnd();
    this.#look();
  }

  /** Show one stream, or both. */
  only(stream) {
    this.#view = { ...this.#view, only: stream };
    for (const button of document.querySelectorAll("[data-only]")) press(button, button.dataset.only === stream);
    this.#anew();
  }

  times() {
    this.#view = { ...this.#view, times: !this.#view.times };
    press($("times"), this.#view.times);
    this.#anew();
  }

  wrap() {
    this.#wrapped = !this.#wrapped;
    press($("wrap"), this.#wrapped);
    this.#anew();
  }

  #aloud() {
    const on = $("aloud").getAttribute("aria-pressed") !== "true";
    press($("aloud"), on);
    this.#screen.aloud(on);
  }

  #anew() {
    this.#screen.wrap(this.#wrapped, (this.#tap?.longest ?? 0) + (this.#view.times ? 14 : 0));
    this.#tap?.show(this.#view);
  }

  #end(document) {
    this.#ended = true;
    showLine($("job-line"), "ended", LINES.ended);
    this.#told.done(document);
    this.#look();
  }

  #over(status) {
    showLine($("job-line"), "gone", LINES.gone);
    this.#told.over(status);
  }

  #show() {
    const { below } = this.#screen;
    $("to-end").hidden = below <= 0;
    if (below > 0) write($("to-end"), `↓ ${count(below, "line")} below: ${this.#ended ? "to the end" : "follow"}`);
    $("silent").hidden = !this.#tap?.silent;
    if (this.#tap?.silent) write($("silent"), this.#silence());
    tell($("note"), this.#failure || (this.#tap ? noteOf(this.#tap) : ""));
  }

  #silence() {
    if (this.#ended) return "It wrote nothing.";
    return this.#started ? "It has written nothing yet." : "It has not started yet.";
  }

  #found(place, number) {
    const text = $("seek").value;
    write($("seek-count"), !text ? "" : number === 0 ? "none" : place < 0 ? `${number}+` : `${place + 1} of ${number}`);
  }

  #wireSeek() {
    const find = (by, options) => this.#screen.find($("seek").value, by, options);
    $("seek").addEventListener("input", () => {
      find(1, { incremental: true });
      if (!$("seek").value) this.#found(0, 0);
    });
    $("seek").addEventListener("keydown", (event) => event.key === "Enter" && find(event.shiftKey ? -1 : 1));
    $("seek-box").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      this.seek(false);
      $("seek-open").focus();
    });
    $("seek-open").addEventListener("click", () => this.seek($("seek-box").hidden));
    $("seek-close").addEventListener("click", () => this.seek(false));
    $("seek-down").addEventListener("click", () => find(1));
    $("seek-up").addEventListener("click", () => find(-1));
  }

  #name(job) {
    for (const link of document.querySelectorAll("[data-stream]")) {
      const { stream } = link.dataset;
      link.href = `/api/statuses/${job}/output${stream && `?stream=${stream}`}`;
      link.download = `job-${job}${stream && `-${stream}`}.txt`;
    }
  }

  #wireDownload() {
    const menu = $("download");
    menu.addEventListener("click", async (event) => {
      const link = event.target.closest("a");
      if (!link) return;
      menu.open = false;
      if (!door.locked) return;
      // A link cannot send a token.
      event.preventDefault();
      this.#failure = "";
      await save(link.getAttribute("href"), link.download).catch((error) => {
        this.#failure = `It could not be downloaded: ${error.message}`;
        this.#look();
      });
    });
    document.addEventListener("click", (event) => !menu.contains(event.target) && (menu.open = false));
    menu.addEventListener("keydown", (event) => event.key === "Escape" && ((menu.open = false), menu.firstElementChild.focus()));
  }
}

function press(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

function noteOf({ skipped, dropped }) {
  const lost = dropped.stdout + dropped.stderr;
  const words = [
    skipped && `${size(skipped)} of output are left out here; the download has all of it.`,
    lost && `${size(lost)} could not be stored by the service.`,
  ];
  return words.filter((each) => each).join(" ");
}

async function save(path, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await bytes(path));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
