/* Elements that show an age or an elapsed time. One timer updates all of them every second. */

import { serverTime } from "../core/api.js";
import { formatAge, formatElapsed, formatInstant } from "../core/format.js";
import { createElement, setText } from "./dom.js";

/** Create an element that shows how long ago an instant was; its title is the instant. */
export function createAge(instant) {
  return create("age", instant, formatInstant(instant));
}

/** Create an element that shows the time elapsed since an instant. */
export function createElapsed(instant) {
  return create("elapsed", instant, `since ${formatInstant(instant)}`);
}

function create(kind, instant, title) {
  const element = createElement("time", { datetime: instant, title, "data-updates": kind });
  update(element);
  return element;
}

function update(element) {
  const seconds = Math.floor((serverTime() - Date.parse(element.dateTime)) / 1000);
  setText(element, element.dataset.updates === "age" ? formatAge(element.dateTime) : formatElapsed(Math.max(0, seconds)));
}

const updateAll = () => document.querySelectorAll("[data-updates]").forEach(update);

setInterval(() => document.hidden || updateAll(), 1000);
document.addEventListener("visibilitychange", updateAll);
