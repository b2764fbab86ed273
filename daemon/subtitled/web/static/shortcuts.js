// The player's keyboard shortcuts. They do not act while text is typed, with a modifier key, or where a button or link
// uses the key itself.

import { store, stored } from "./storage.js";

const STORAGE_KEY = "subtitled.keys-off";

/** `actions`: a function for each key; `help` is shown; `checkbox` enables the shortcuts. */
export function enableShortcuts(actions, { help, checkbox }) {
  help.hidden = false;
  checkbox.checked = stored(STORAGE_KEY) === null;
  checkbox.addEventListener("change", () => store(STORAGE_KEY, checkbox.checked ? null : "1"));
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !checkbox.checked) return;
    if (target.closest("input, select, textarea, [contenteditable]")) return;
    // Space does nothing on a link: on a cue it plays.
    if (key === " " && target.closest("button, summary")) return;
    const action = actions[key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
