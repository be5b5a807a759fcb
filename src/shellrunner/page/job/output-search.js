/* The find box: searches what is displayed, if that is all of the output, and otherwise has the service search all of it. */

import { get } from "../core/api.js";
import { $, setText } from "../ui/dom.js";

const TYPING_DELAY = 150; // milliseconds

export class OutputSearch {
  #terminal;
  #output;
  #timer = null;
  #search = null; // in the service: {text, matches, next, index, fetching, controller}

  /** `output` has isComplete(), jobId(), and reveal(match) to show a match that the service has found. */
  constructor(terminal, output) {
    this.#terminal = terminal;
    this.#output = output;
    $("find-text").addEventListener("input", () => {
      clearTimeout(this.#timer);
      if (this.#output.isComplete()) this.#begin();
      else this.#timer = setTimeout(() => this.#begin(), TYPING_DELAY);
    });
    $("find-text").addEventListener("keydown", (event) => event.key === "Enter" && this.#step(event.shiftKey ? -1 : 1));
    $("find-box").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      this.show(false);
      $("find-open").focus();
    });
    $("find-open").addEventListener("click", () => this.show($("find-box").hidden));
    $("find-close").addEventListener("click", () => this.show(false));
    $("find-next").addEventListener("click", () => this.#step(1));
    $("find-previous").addEventListener("click", () => this.#step(-1));
  }

  /** Show or hide the box. */
  show(visible) {
    $("find-box").hidden = !visible;
    $("find-open").setAttribute("aria-expanded", String(visible));
    if (visible) return $("find-text").select();
    this.#end();
    this.#terminal.find("", 1);
  }

  /** Hide the box and forget what was searched. */
  clear() {
    $("find-text").value = "";
    this.show(false);
    setText($("find-count"), "");
  }

  /** Show how many matches are displayed, while these are what is searched. */
  showMatches(index, count) {
    if (!this.#search) setText($("find-count"), $("find-text").value ? describeMatches(index, count) : "");
  }

  #begin() {
    this.#end();
    const text = $("find-text").value;
    if (!text) {
      this.#terminal.find("", 1);
      return setText($("find-count"), "");
    }
    if (this.#output.isComplete()) return this.#terminal.find(text, 1, { incremental: true });
    const next = `/api/statuses/${this.#output.jobId()}/output?${new URLSearchParams({ find: text })}`;
    this.#search = { text, matches: [], next, index: -1, fetching: null, controller: new AbortController() };
    setText($("find-count"), "Searching");
    return this.#step(1);
  }

  #end() {
    clearTimeout(this.#timer);
    this.#search?.controller.abort();
    this.#search = null;
  }

  #step(direction) {
    const text = $("find-text").value;
    if (text && this.#search?.text === text) return this.#stepInService(this.#search, direction);
    if (text && !this.#output.isComplete()) return this.#begin();
    return this.#terminal.find(text, direction);
  }

  async #stepInService(search, direction) {
    const wanted = Math.max(0, search.index + direction);
    try {
      while (wanted >= search.matches.length && search.next) await this.#fetchMore(search);
    } catch (error) {
      if (this.#search === search) setText($("find-count"), error.message);
      return;
    }
    if (this.#search !== search) return;
    search.index = Math.min(wanted, search.matches.length - 1);
    setText($("find-count"), describeFound(search));
    if (search.index >= 0) this.#output.reveal(search.matches[search.index]);
  }

  async #fetchMore(search) {
    const { next } = search;
    search.fetching ??= get(next, search.controller.signal); // a second step waits for the same page
    const page = await search.fetching;
    if (search.next !== next) return;
    search.fetching = null;
    search.next = page.next;
    search.matches.push(...page.matches);
    if (page.next && this.#search === search) setText($("find-count"), `Searching ${Math.floor((100 * page.searched) / page.size)} %`);
  }
}

function describeMatches(index, count) {
  if (count === 0) return "No match";
  return index < 0 ? `${count}+` : `${index + 1} of ${count}`; // beyond its limit the search addon has no index
}

function describeFound({ matches, next, index }) {
  if (matches.length === 0) return "No match";
  return `${index + 1} of ${matches.length}${next ? "+" : ""}`;
}
