/* Light or dark: as the system has it, until somebody says otherwise here. */

import { $ } from "./dom.js";

const system = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const KEY = "theme";

/** Let the button turn it; `changed` is told "light" or "dark", now and whenever it changes. */
export function wireTheme(changed) {
  const show = () => {
    const chosen = localStorage.getItem(KEY);
    const dark = chosen ? chosen === "dark" : system.matches;
    root.dataset.theme = dark ? "dark" : "light";
    $("theme").setAttribute("aria-pressed", String(dark));
    changed(root.dataset.theme);
  };
  $("theme").addEventListener("click", () => {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    // What the system says needs not be kept: then it goes on following it.
    if ((next === "dark") === system.matches) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
    show();
  });
  system.addEventListener("change", show);
  show();
}
