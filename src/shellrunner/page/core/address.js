/* The page's state in the address, so that it can be linked to, reloaded and gone back to. It is stored in the fragment,
   which browsers send to no server. It must not know what the parameters mean. */

const listeners = [];

function parse() {
  return new URLSearchParams(location.hash.slice(1));
}

/** The value of a parameter, or "". */
export const param = (name) => parse().get(name) ?? "";

/** All values of a parameter that may be repeated. */
export const params = (name) => parse().getAll(name);

/** The current fragment with these parameters replaced; empty values and lists are left out. */
export function hashWith(values) {
  const current = parse();
  for (const [name, value] of Object.entries(values)) {
    current.delete(name);
    for (const each of [value].flat()) if (each) current.append(name, each);
  }
  return `#${current}`;
}

/** Change these parameters; with `replace`, without a history entry. */
export function navigate(values, { replace = false } = {}) {
  const next = hashWith(values);
  if (next === (location.hash || "#")) return;
  history[replace ? "replaceState" : "pushState"](null, "", next);
  notify();
}

/** Attributes for a link that changes these parameters. What a click changes is the address at that time, not the one
    at the time the link was made. */
export function linkTo(values) {
  const onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    navigate(values);
  };
  return { href: hashWith(values), onclick };
}

/** Call `listener` whenever the address has changed. */
export function onNavigate(listener) {
  listeners.push(listener);
}

function notify() {
  for (const listener of listeners) listener();
}

addEventListener("popstate", notify);
