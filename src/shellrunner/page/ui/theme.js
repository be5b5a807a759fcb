/* The light and the dark theme: the system's setting, unless the other one was chosen here. */

import { sharedStorage } from "../core/storage.js";
import { $ } from "./dom.js";

const KEY = "theme";
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

/** Apply the theme and wire its button; `onChange("light" | "dark")` is called now and after each change. */
export function initTheme(onChange) {
  const apply = () => {
    const chosen = sharedStorage.get(KEY);
    const isDark = chosen ? chosen === "dark" : systemIsDark.matches;
    root.dataset.theme = isDark ? "dark" : "light";
    $("theme").setAttribute("aria-pressed", String(isDark));
    onChange(root.dataset.theme);
  };
  $("theme").addEventListener("click", () => {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    // A choice that equals the system's setting is not stored, so that the page follows the system again.
    if ((next === "dark") === systemIsDark.matches) sharedStorage.remove(KEY);
    else sharedStorage.set(KEY, next);
    apply();
  });
  systemIsDark.addEventListener("change", apply);
  apply();
}
