/* The indicator of a connection's state. */

import { setText } from "./dom.js";

const LABELS = {
  connecting: "Connecting",
  live: "Live",
  waiting: "Reconnecting",
  "signing-in": "Signed out",
  ended: "Ended",
  failed: "Unavailable",
};

/** Why a stream has to wait before it is opened again: the status of the response, or 0 if there was none. */
export function describeOutage(status) {
  if (status === 0) return "Cannot reach the service; retrying. The data shown may be out of date.";
  if (status === 429) return "The service refuses requests for now: too many wrong tokens, or too many open streams. Retrying.";
  return `The service, or a proxy before it, answers with status ${status}; retrying. The data shown may be out of date.`;
}

/** Show a connection's state in its indicator. */
export function showConnection(element, state) {
  element.dataset.state = state;
  setText(element.lastElementChild, LABELS[state]);
}
