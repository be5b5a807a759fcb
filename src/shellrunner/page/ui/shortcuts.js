/* Keys of the whole page: single letters, while nothing is being written. */

const doings = new Map();

/** Have a key do this. */
export function on(key, doing) {
  doings.set(key, doing);
}

function isWriting(element) {
  // The terminal has a textarea too, but takes no input.
  return element.matches("input, textarea:not(.xterm-helper-textarea), select") || element.isContentEditable;
}

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if (document.querySelector("dialog[open]")) return;
  if (isWriting(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const doing = doings.get(event.key);
  if (!doing) return;
  event.preventDefault();
  doing();
});
