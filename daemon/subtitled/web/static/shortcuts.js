// The player's keys. They leave alone who types, who holds a modifier, and what a button or link does with its own.

const KEPT = "subtitled.keys-off";

/** `deeds`: what each key does, by its name. */
export function beginKeys(deeds, { help, isOn }) {
  help.hidden = false;
  isOn.checked = localStorage.getItem(KEPT) === null;
  isOn.addEventListener("change", () => (isOn.checked ? localStorage.removeItem(KEPT) : localStorage.setItem(KEPT, "1")));
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !isOn.checked) return;
    if (target.closest("input, select, textarea, [contenteditable]")) return;
    // A link does nothing with Space: on a cue it is the player's.
    if (key === " " && target.closest("button, summary")) return;
    const deed = deeds[key];
    if (!deed) return;
    event.preventDefault();
    deed();
  });
}
