/* Search, filters and sort order: keeps the controls and the address in step, and builds the query that they stand for. */

import { navigate, param, params } from "../core/address.js";
import { serverTime } from "../core/api.js";
import { escapeControls } from "../core/escape.js";
import { ENDINGS } from "../core/labels.js";
import { $, createElement, setText } from "../ui/dom.js";

// Controls by element id, and their parameters in the address.
const CONTROLS = { search: "q", state: "state", ending: "ending", accepted: "since", sort: "sort" };
const NO_FILTERS = { q: "", state: "", ending: "", since: "", label: "", name: "", host: "" };
const DEFAULT_SORT = "-created";
/** An exit with another code than 0, as a list's parameters. Commands that were cancelled may have such a code too. */
export const FAILED_EXIT = { ending: "exited", exit_code: Array.from({ length: 255 }, (_, number) => number + 1).join() };
const SUCCESS = { ending: "exited", exit_code: "0" };
const TYPING_DELAY = 200; // milliseconds
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/** The filters in the address as query parameters of a list; `sort` adds the sort order. */
export function buildQuery({ sort = true } = {}) {
  const query = new URLSearchParams();
  const setIfGiven = (name, value) => value && query.set(name, value);
  setIfGiven("q", param("q"));
  setIfGiven("state", param("state"));
  setIfGiven("queue", param("queue"));
  setIfGiven("name", param("name"));
  setIfGiven("host", param("host"));
  for (const label of params("label")) query.append("label", label);
  const ending = param("ending");
  const parameters = { ok: SUCCESS, bad: FAILED_EXIT }[ending] ?? { ending };
  for (const [name, value] of Object.entries(parameters)) setIfGiven(name, value);
  const hours = Number(param("since"));
  if (hours > 0 && hours < 1e6) setIfGiven("created_after", hoursAgo(hours));
  if (sort) setIfGiven("sort", param("sort"));
  return query;
}

/** Rounded to the minute, so that the query does not change while further pages are fetched. */
function hoursAgo(hours) {
  return new Date(Math.floor((serverTime() - hours * HOUR) / MINUTE) * MINUTE).toISOString();
}

/** How many filters are set; the queue does not count, because it has a tab. */
const countFilters = () => Object.keys(NO_FILTERS).reduce((sum, name) => sum + params(name).filter((value) => value).length, 0);

export const hasFilters = () => countFilters() > 0;

/** Update the controls from the address. */
export function showFilters() {
  for (const [id, name] of Object.entries(CONTROLS)) {
    // Text that is being typed is not overwritten.
    if ($(id) !== document.activeElement || $(id).tagName === "SELECT") $(id).value = param(name);
  }
  const names = params("name").map((name) => createFilter(`name ${name}`, { name: "" }));
  const hosts = params("host").map((host) => createFilter(`host ${host}`, { host: "" }));
  $("label-filters").replaceChildren(...names, ...hosts, ...params("label").map(createLabelFilter));
  $("clear-filters").hidden = !hasFilters();
  setText($("filters-toggle"), hasFilters() ? `Filters (${countFilters()})` : "Filters");
  for (const header of document.querySelectorAll("[data-sort]")) showSortOrder(header);
}

function createLabelFilter(label) {
  return createFilter(label.replace(":", "="), { label: params("label").filter((each) => each !== label) });
}

/** A button that removes a filter: `without` are the parameters that remain. */
function createFilter(name, without) {
  const text = escapeControls(name, 60);
  const attributes = { type: "button", class: "chip", "aria-label": `Remove filter ${text}` };
  return createElement("button", { ...attributes, onclick: () => navigate(without) }, `${text} ✕`);
}

function showSortOrder(header) {
  const key = header.dataset.sort.replace("-", "");
  const sort = param("sort") || DEFAULT_SORT;
  const order = sort === key ? "ascending" : sort === `-${key}` ? "descending" : "none";
  header.setAttribute("aria-sort", order);
  header.querySelector("i").textContent = { ascending: "↑", descending: "↓", none: "" }[order];
}

/** Offer every ending, and update the address whenever a control changes. To be called before `showFilters`. */
export function wireFilters() {
  const options = Object.entries(ENDINGS).map(([value, label]) => createElement("option", { value }, label));
  $("ending").append(...options);
  let timer = null;
  $("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => navigate({ q: $("search").value.trim() }, { replace: true }), TYPING_DELAY);
  });
  for (const [id, name] of Object.entries(CONTROLS))
    if (id !== "search") $(id).addEventListener("change", () => navigate({ [name]: $(id).value }));
  $("clear-filters").addEventListener("click", () => {
    $("search").value = "";
    navigate(NO_FILTERS);
  });
  $("filters-toggle").addEventListener("click", () => {
    const isOpen = $("filters").toggleAttribute("data-open");
    $("filters-toggle").setAttribute("aria-expanded", String(isOpen));
  });
  for (const header of document.querySelectorAll("[data-sort]")) wireSortHeader(header);
}

/** Add a button to a column header: its first click sorts by `data-sort`, the next ones reverse the order. */
function wireSortHeader(header) {
  const first = header.dataset.sort;
  const key = first.replace("-", "");
  const label = { queue: "Queue", created: "Accepted", duration: "Time", ending: "State" }[key];
  const reverse = first === key ? `-${key}` : key;
  const onclick = () => {
    const sort = (param("sort") || DEFAULT_SORT) === first ? reverse : first;
    navigate({ sort: sort === DEFAULT_SORT ? "" : sort });
  };
  header.append(createElement("button", { type: "button", class: "sort", onclick }, label, createElement("i", { "aria-hidden": "true" })));
}
