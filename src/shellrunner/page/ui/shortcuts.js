/* Keyboard shortcuts of the whole page: single keys, while no text field has the focus, and nothing is typed into a job. */

const actions = new Map();

/** Bind a key to an action. */
export function onKey(key, action) {
  actions.set(key, action);
}

function isTextField(element) {
  // xterm.js has a textarea of its own, which takes no input unless it is typed into.
  return element.matches("input, textarea:not(.xterm-helper-textarea), select") || element.isContentEditable;
}

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if (document.querySelector("dialog[open]")) return;
  if (event.target.closest(".typing")) return;
  if (isTextField(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const action = actions.get(event.key);
  if (!action) return;
  event.preventDefault();
  action();
});
