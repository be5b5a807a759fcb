/* Search, filters and sort: the controls, the address, and the query that they mean, always saying the same. */

import { $, make } from "../ui/dom.js";
import { allAt, at, go } from "../core/address.js";
import { choose } from "./queues.js";
import { door } from "../core/api.js";
import { plain } from "../core/escape.js";

const NAMES = { find: "q", state: "state", ending: "ending", queue: "queue", since: "since", sort: "sort" };
const BAD = Array.from({ length: 255 }, (_, number) => number + 1).join();
const TYPING = 200;

/** The filters that the address asks for, as parameters of a list; with `sort` its order too. */
export function query({ sort = true } = {}) {
  const found = new URLSearchParams();
  const give = (name, value) => value && found.set(name, value);
  give("q", at("q"));
  give("state", at("state"));
  give("queue", at("queue"));
  for (const label of allAt("label")) found.append("label", label);
  const ending = at("ending");
  if (ending === "ok" || ending === "bad") give("exit_code", ending === "ok" ? "0" : BAD);
  else give("ending", ending);
  // To the minute, so that the list stays the same list while it is read on.
  const hours = Number(at("since"));
  if (hours > 0 && hours < 1e6) give("created_after", new Date(Math.floor((door.now() - hours * 3_600_000) / 60_000) * 60_000).toISOString());
  if (sort) give("sort", at("sort"));
  return found;
}

/** Whether any filter is set. */
export const filtered = () => [...query({ sort: false }).keys()].length > 0;

/** Have the controls say what the address says. */
export function showFilters() {
  for (const [id, name] of Object.entries(NAMES)) {
    if (id === "queue") choose(at(name));
    else if ($(id) !== document.activeElement || $(id).tagName === "SELECT") $(id).value = at(name);
  }
  $("labels").replaceChildren(...allAt("label").map(chip));
  $("clear").hidden = !filtered();
  for (const head of document.querySelectorAll("[data-sort]")) showOrder(head);
}

function chip(label) {
  const rest = () => allAt("label").filter((each) => each !== label);
  const words = plain(label.replace(":", "="), 60);
  return make("button", { type: "button", class: "chip", "aria-label": `Not only ${words}`, onclick: () => go({ label: rest() }) }, `${words} ✕`);
}

function showOrder(head) {
  const [key, sort] = [head.dataset.sort.replace("-", ""), at("sort") || "-created"];
  const order = sort === key ? "ascending" : sort === `-${key}` ? "descending" : "none";
  head.setAttribute("aria-sort", order);
  head.querySelector("i").textContent = { ascending: "↑", descending: "↓", none: "" }[order];
}

/** Have the address say what the controls say, as soon as they do. */
export function wireFilters() {
  let timer = null;
  $("find").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => go({ q: $("find").value.trim() }, { quietly: true }), TYPING);
  });
  for (const [id, name] of Object.entries(NAMES))
    if (id !== "find") $(id).addEventListener("change", () => go({ [name]: $(id).value }));
  $("clear").addEventListener("click", () => {
    $("find").value = "";
    go({ q: "", state: "", ending: "", queue: "", since: "", label: "" });
  });
  for (const head of document.querySelectorAll("[data-sort]")) wireHead(head);
}

function wireHead(head) {
  const words = { queue: "Queue", created: "Accepted", duration: "Time", ending: "State" };
  const first = head.dataset.sort;
  const key = first.replace("-", "");
  const other = first === key ? `-${key}` : key;
  const turn = () => {
    const sort = (at("sort") || "-created") === first ? other : first;
    go({ sort: sort === "-created" ? "" : sort });
  };
  head.append(make("button", { type: "button", class: "sort", onclick: turn }, words[key], make("i", { "aria-hidden": "true" })));
}
