/* What the browser stores for the page. A browser may forbid that, and then throws as soon as it is looked at, or be
   full: then it is stored until the page is closed. */

/** The storage of this tab. */
export const tabStorage = open("sessionStorage");

/** The storage of all tabs of this page. */
export const sharedStorage = open("localStorage");

function open(name) {
  const memory = new Map();
  const attempt = (action) => {
    try {
      return action(window[name]);
    } catch {
      return undefined;
    }
  };
  return {
    /** The text that is stored, or null. */
    get: (key) => memory.get(key) ?? attempt((area) => area.getItem(key)) ?? null,
    set(key, text) {
      memory.delete(key);
      if (attempt((area) => area.setItem(key, text) ?? true) === undefined) memory.set(key, text);
    },
    remove(key) {
      memory.delete(key);
      attempt((area) => area.removeItem(key));
    },
  };
}
