/* What a tab does while nobody looks at it. Over plain HTTP a browser has six connections to a service for all of its
   tabs together, and a seventh request waits for ever: so such a tab holds none. Knows no network. */

const AFTER = 10_000; // milliseconds: whoever only looks elsewhere for a moment finds all as it was

/** Call `leave` once the tab has not been seen for a while, and `back` when it is looked at again after that. */
export function whenUnseen({ leave, back }) {
  let timer = null;
  let left = false;
  const go = () => {
    left = true;
    leave();
  };
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(go, AFTER);
    else if (left) back();
    left &&= document.hidden;
  });
}
