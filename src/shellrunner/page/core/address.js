/* What is shown, kept in the page's address, so that it can be linked to, reloaded and gone back to. It is the part
   after #, which no server and no log gets to see. Knows nothing of what the names mean. */

const watchers = [];

function parse() {
  const text = location.hash.slice(1);
  // A label may come several times.
  return new URLSearchParams(text);
}

/** The value of a name, or nothing. */
export const at = (name) => parse().get(name) ?? "";

/** All values of a name. */
export const allAt = (name) => parse().getAll(name);

/** The address with these names changed: empty values and lists are left out. */
export function changed(values) {
  const place = parse();
  for (const [name, value] of Object.entries(values)) {
    place.delete(name);
    for (const each of [value].flat()) if (each) place.append(name, each);
  }
  return `#${place}`;
}

/** Go there; `quietly` leaves no step to go back to. */
export function go(values, { quietly = false } = {}) {
  const next = changed(values);
  if (next === (location.hash || "#")) return;
  history[quietly ? "replaceState" : "pushState"](null, "", next);
  announce();
}

/** What makes an element a link there, from wherever the page is by then. */
export function link(values) {
  const onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(values);
  };
  return { href: changed(values), onclick };
}

/** Call this whenever the address has changed. */
export function watch(watcher) {
  watchers.push(watcher);
}

function announce() {
  for (const watcher of watchers) watcher();
}

addEventListener("popstate", announce);
