/* Suspension of hidden tabs. Over HTTP/1.1 a browser opens at most six connections to a service for all of its tabs
   together, and a seventh request waits forever; so a hidden tab must hold none. */

const SUSPEND_DELAY = 10_000; // milliseconds: a short look at another tab costs no reconnection

/** Call `suspend` once the tab has been hidden for a while, and `resume` when it is visible again after that. */
export function onHidden({ suspend, resume }) {
  let timer = null;
  let suspended = false;
  const start = () => {
    suspended = true;
    suspend();
  };
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(start, SUSPEND_DELAY);
    else if (suspended) resume();
    suspended &&= document.hidden;
  });
}
