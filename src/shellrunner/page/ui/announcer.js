/* Announcements to screen readers, of changes that others see. */

import { $, setText } from "./dom.js";

export function announce(text) {
  setText($("announcement"), text);
}
