/* Making and finding elements. What is put into them is always text: nothing on this page reads HTML. */

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** Make an element: `on…` are listeners, true and false set or leave out an attribute, children are text or elements. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Set an element's text, if it is another one: what has not changed is not laid out anew. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show these words in an element that is hidden while there are none. */
export function tell(element, words) {
  element.hidden = !words;
  write(element, words || "");
}

/** Give an element other children; the focus stays with the link that had it, or with the one at its place. */
export function refill(element, ...children) {
  const links = () => [...element.querySelectorAll("a, button")];
  const focused = document.activeElement;
  const place = links().indexOf(focused);
  element.replaceChildren(...children);
  if (place < 0) return;
  const same = links().find((link) => link.href === focused.href);
  (same || links().at(Math.min(place, links().length - 1)))?.focus({ preventScroll: true });
}

/** Call `work` at the next frame, once, however often it was asked for until then. */
export function soon(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    const next = document.hidden ? setTimeout : requestAnimationFrame; // in a tab that is not seen there are no frames
    next(() => {
      asked = false;
      work();
    });
  };
}

/** Call `work` at most once in `gap` milliseconds, and never twice at the same time; what is asked for meanwhile follows. */
export function seldom(gap, work) {
  let timer = null;
  let busy = false;
  let again = false;
  async function run() {
    timer = null;
    busy = true;
    again = false;
    try {
      await work();
    } finally {
      busy = false;
      if (again) ask();
    }
  }
  function ask() {
    if (busy) again = true;
    else timer ??= setTimeout(run, gap);
  }
  return ask;
}
