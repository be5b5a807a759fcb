/* Transfers a job's output from its event stream to the terminal, no faster than the terminal draws it (backpressure).
   Of a large output only the end is fetched: event ids are byte offsets, so the stream can be entered anywhere. */

import { send } from "../core/api.js";
import { limitMarks } from "../core/escape.js";
import { EventStream } from "../core/event-stream.js";
import { formatSize } from "../core/format.js";
import { attemptLabel } from "../core/labels.js";
import { afterFrame } from "../core/scheduling.js";
import { AnsiPainter } from "./ansi-painter.js";
import { OutputBuffer, lengthOf } from "./output-buffer.js";

const EXCERPT = 300_000; // bytes that are fetched at once from a place on
const MAX_BACKLOG = 8_000_000; // bytes: of a larger backlog only the end is fetched
const TAIL = 2_000_000; // bytes of the end
const MAX_QUEUED = 2_000_000; // characters that the terminal has not drawn yet; above this the stream is paused

// How much is written to the terminal between two frames, in characters. It adapts to the time that the terminal takes,
// because some escape sequences cost it thousands of times as much as a letter.
const MAX_BATCH = 150_000;
const FIRST_BATCH = 2000;
const MIN_BATCH = 250;
const MAX_WRITE_TIME = 60; // milliseconds

export class OutputPump {
  #terminal;
  #listener;
  #path;
  #stream;
  #painter;
  #buffer = new OutputBuffer();
  #nextChunk = 0; // the number of the chunk to paint next
  #painted = ""; // painted text that has not been written yet
  #batchSize = FIRST_BATCH;
  #queued = 0;
  #writing = false; // the terminal has not yet drawn the last batch
  #offset = 0; // bytes of output received or skipped
  #paused = false;
  #inMidLine = false;
  #closed = false;
  #suspended = false;
  #liveFrom = 0; // the number of the first chunk that is displayed for the first time
  #onLive = null;
  #start; // the event id where an excerpt begins, or null to show the end and what follows
  #limit = Infinity; // bytes of output up to which an excerpt is fetched

  /** `view` is {only, showTimes}; `listener` has status(document), done(document), connection(state), failed(status),
      and changed() for whatever else this object shows. `start` is the id of the event after which an excerpt begins. */
  constructor(jobId, terminal, view, listener, start = null) {
    this.#terminal = terminal;
    this.#listener = listener;
    this.#start = start;
    this.#painter = new AnsiPainter(view);
    this.#path = `/api/statuses/${jobId}`;
    this.#stream = new EventStream(`${this.#path}/events`, this.#path, {
      event: (name, document, id) => this.#event(name, document, id),
      state: (state) => {
        if (state === "live") this.#onLive?.();
        listener.connection(state);
      },
      failed: (status) => this.#failed(status),
    });
    terminal.clear();
  }

  /** How many bytes of output were skipped. */
  skipped = 0;
  /** How many bytes of output the service did not store. */
  dropped = { stdout: 0, stderr: 0 };

  get longestLine() {
    return this.#buffer.longestLine;
  }

  /** Whether all output so far is displayed. */
  get isComplete() {
    return this.skipped === 0 && this.#buffer.start === 0;
  }

  get drawsInPlace() {
    return this.#buffer.drawsInPlace;
  }

  /** Whether no output has been received yet. */
  get isEmpty() {
    return this.#buffer.end === 0;
  }

  /** Connect, or reconnect at the offset reached, skipping what is too far behind the end. */
  async open(options) {
    if (this.#start !== null) return this.#openExcerpt(options);
    const total = await this.#totalBytes();
    if (this.#closed || this.#suspended) return;
    if (total - this.#offset <= MAX_BACKLOG) return this.#stream.open(this.#stream.lastId, options);
    this.#skipTo(total - TAIL);
    this.#prepareJumps();
    this.#stream.open(String(this.#offset), options);
  }

  #openExcerpt(options) {
    if (this.#limit === Infinity) this.#limit = (this.#offset = parseInt(this.#start, 10)) + EXCERPT;
    this.#stream.open(this.#stream.lastId || this.#start, options);
  }

  /** Fetch more of an excerpt, if what was asked for has been displayed. */
  loadMore() {
    if (!this.#paused || this.#offset < this.#limit) return;
    this.#limit = this.#offset + EXCERPT;
    this.#pump();
  }

  /** Have the service count the lines, so that it knows where each of them begins when it is asked. */
  async #prepareJumps() {
    const response = await send(`${this.#path}/output/line`).catch(() => null);
    await response?.text();
  }

  /** Reconnect at once if a retry is scheduled. */
  retryNow() {
    this.#stream.retryNow();
  }

  /** Disconnect until `resume`. */
  suspend() {
    this.#suspended = true;
    this.#stream.close();
  }

  resume() {
    this.#suspended = this.#paused = false;
    this.open({ silent: true });
  }

  /** Show a line of the page's own after the output so far. */
  addDivider(text) {
    if (!this.isEmpty) this.#add({ notice: `── ${text} ──` });
  }

  /** Follow the job as one who types into it under this name, or under none for null; return once the service knows. */
  followAs(name) {
    this.#stream.parameters = name === null ? {} : { writer: name };
    this.#liveFrom = this.#buffer.end;
    if (this.#closed || this.#suspended || this.#paused) return Promise.resolve(); // the next connection is made with it
    const live = new Promise((resolve) => { this.#onLive = resolve; });
    this.#stream.open(this.#stream.lastId, { silent: true });
    return live;
  }

  close() {
    this.#closed = true;
    this.#stream.close();
  }

  /** Display the buffered output again with another view. */
  setView(view) {
    this.#painter = new AnsiPainter(view);
    this.#terminal.clear();
    this.#liveFrom = this.#buffer.end;
    this.#rewind();
    this.#pump();
  }

  #rewind() {
    this.#nextChunk = this.#buffer.start;
    this.#painted = "";
    this.#queued = 0;
    for (let number = this.#nextChunk; number < this.#buffer.end; number += 1) this.#queued += lengthOf(this.#buffer.at(number));
  }

  async #totalBytes() {
    const response = await send(`${this.#path}/output`, { method: "HEAD" }).catch(() => null);
    await response?.text(); // a response whose body is not read counts as an aborted request
    return response?.ok ? Number(response.headers.get("Content-Length")) : 0; // the stream will report the error
  }

  #event(name, document, id) {
    if (name === "stdout" || name === "stderr") this.#receive(name, document, id);
    else if (name === "status") this.#listener.status(document);
    else if (name === "attempt") this.#add({ notice: `── ${attemptLabel(document)} ──`, isFresh: true });
    else if (name === "dropped") this.#drop(document, id);
    else if (name === "done") this.#done(document);
    this.#listener.changed();
  }

  #drop({ stream, bytes }, id) {
    this.dropped[stream] = bytes;
    const missing = parseInt(id, 10) - this.#offset; // the id moves on where a stretch is missing
    if (!(missing > 0)) return;
    this.#offset += missing;
    this.#add({ notice: `⋯ ${formatSize(missing)} of output missing ⋯` });
  }

  #done(document) {
    this.#stream.close();
    this.#listener.done(document);
  }

  #receive(stream, { text, time }, id) {
    this.#offset = parseInt(id, 10);
    this.#add({ stream, text: this.#inMidLine ? dropPartialLine(text) : text, time });
    this.#inMidLine = false;
    if ((this.#queued > MAX_QUEUED || this.#offset >= this.#limit) && !this.#paused) {
      this.#paused = true;
      this.#stream.close();
    }
  }

  #skipTo(offset) {
    const skipped = offset - this.#offset;
    this.#offset = offset;
    this.#inMidLine = true;
    this.skipped += skipped;
    this.#add({ notice: `⋯ ${formatSize(skipped)} of output skipped; Find and Line show any part of it ⋯` });
  }

  #add(chunk) {
    this.#buffer.add(chunk);
    this.#queued += lengthOf(chunk);
    this.#pump();
  }

  #pump() {
    if (!this.#writing) this.#writeBatch();
    if (!this.#paused || this.#queued > MAX_QUEUED / 4 || this.#offset >= this.#limit) return;
    this.#paused = false;
    this.open({ silent: true });
  }

  #writeBatch() {
    if (this.#nextChunk < this.#buffer.start) this.#rewind();
    const isReplay = this.#nextChunk - (this.#painted ? 1 : 0) < this.#liveFrom;
    while (this.#painted.length < this.#batchSize && this.#nextChunk < this.#buffer.end) {
      this.#painted += this.#paint(this.#buffer.at(this.#nextChunk++));
    }
    const batch = this.#painted.slice(0, this.#batchSize);
    if (!batch) return;
    this.#painted = this.#painted.slice(batch.length);
    this.#writing = true;
    const start = performance.now();
    this.#terminal.write(batch, () => {
      this.#adaptBatchSize(performance.now() - start);
      afterFrame(() => {
        this.#writing = false;
        if (!this.#closed) this.#pump();
      });
    }, isReplay);
  }

  #adaptBatchSize(writeTime) {
    const factor = writeTime > MAX_WRITE_TIME ? 0.25 : 2;
    this.#batchSize = Math.min(MAX_BATCH, Math.max(MIN_BATCH, this.#batchSize * factor));
  }

  #paint(chunk) {
    this.#queued -= lengthOf(chunk);
    if (chunk.notice) return this.#painter.paintNotice(chunk.notice, chunk.isFresh);
    return this.#painter.paint({ ...chunk, text: limitMarks(chunk.text) });
  }

  #failed(status) {
    if (status !== 400) return this.#listener.failed(status);
    // The service now has another history, in which this offset is not valid.
    this.#offset = 0;
    this.#stream.open();
  }
}

/** The text after the first line end. Output that is entered anywhere may begin in the middle of a line, an escape
    sequence or a character. */
function dropPartialLine(text) {
  const end = text.indexOf("\n");
  return end < 0 ? text.replace(/^\ufffd+/, "") : text.slice(end + 1);
}
