/* Merge patches (RFC 7396) of a specification. A patch merges objects, so what is to go must be named with null. Pure
   functions. */

const OBJECTS = ["env", "labels", "limits", "retries"];

/** A merge patch that gives the document of a job these values; `keys` are the keys that it changes. */
export function createPatch(job, spec, keys) {
  return Object.fromEntries([...keys].map((key) => [key, patchOf(key, spec[key] ?? null, job[key])]));
}

function patchOf(key, value, earlier) {
  const isRemoved = value === null && key !== "env"; // variables are left out one by one
  if (isRemoved || !OBJECTS.includes(key) || !earlier) return value;
  const names = Array.isArray(earlier) ? earlier : Object.keys(earlier).filter((name) => earlier[name] !== null);
  return { ...Object.fromEntries(names.map((name) => [name, null])), ...value };
}
