/* Creating and updating elements. Content is always set as text: nothing on this page parses HTML. */

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** Create an element. Attributes named `on…` are event listeners, true and false set or omit an attribute, children are
    text or elements; a null is skipped. */
export function createElement(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Set an element's text. Text that has not changed is left alone, which saves a layout. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an element's text, and hide the element if the text is empty. */
export function setTextOrHide(element, text) {
  element.hidden = !text;
  setText(element, text || "");
}

/** Replace an element's children. The focus stays on the same link, or moves to the link now at its position. */
export function replaceKeepingFocus(element, ...children) {
  const links = () => [...element.querySelectorAll("a, button")];
  const focused = document.activeElement;
  const index = links().indexOf(focused);
  element.replaceChildren(...children);
  if (index < 0) return;
  const same = links().find((link) => link.href === focused.href);
  (same || links().at(Math.min(index, links().length - 1)))?.focus({ preventScroll: true });
}
