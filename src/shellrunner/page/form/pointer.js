/* JSON pointers as URI fragments (RFC 6901), which the service's errors have. Pure functions. */

/** The names in a pointer: ["limits", "memory_bytes"] for "#/limits/memory_bytes"; none for the whole document. */
export function parsePointer(pointer) {
  const names = pointer.replace(/^#/, "").split("/").slice(1);
  return names.map((name) => decodeURIComponent(name).replaceAll("~1", "/").replaceAll("~0", "~"));
}
