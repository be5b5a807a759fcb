/* The indicator of a connection's state. */

import { setText } from "./dom.js";

const LABELS = {
  connecting: "Connecting",
  live: "Live",
  waiting: "Reconnecting",
  ended: "Ended",
  failed: "Unavailable",
};

/** Show a connection's state in its indicator. */
export function showConnection(element, state) {
  element.dataset.state = state;
  setText(element.lastElementChild, LABELS[state]);
}
