/* A notification of the browser when the job that is followed ends while the tab is hidden. */

import { sharedStorage } from "../core/storage.js";
import { $ } from "./dom.js";

const KEY = "notify";
const isPossible = () => "Notification" in window;
const isWanted = () => isPossible() && Notification.permission === "granted" && sharedStorage.get(KEY) === "on";

/** Wire the button that turns notifications on and off. */
export function wireNotifications() {
  $("job-notify").hidden = !isPossible();
  $("job-notify").addEventListener("click", async () => {
    if (isWanted()) sharedStorage.remove(KEY);
    else if ((await Notification.requestPermission()) === "granted") sharedStorage.set(KEY, "on");
    show();
  });
  show();
}

/** Notify of something, if it is wanted and the tab is hidden; a click shows the tab. */
export function notifyIfHidden(title, body, tag) {
  if (!document.hidden || !isWanted()) return;
  const notification = new Notification(title, { body, tag });
  notification.onclick = () => {
    window.focus();
    notification.close();
  };
}

function show() {
  $("job-notify").setAttribute("aria-pressed", String(isWanted()));
  const isDenied = isPossible() && Notification.permission === "denied";
  $("job-notify").title = isDenied ? "The browser does not allow notifications" : "Notify me when this job ends in a hidden tab";
}
