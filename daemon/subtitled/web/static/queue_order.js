// The order of the queue: drag a waiting file, or move it with the arrow keys on its handle.
import { refresh } from "./live_update.js";
import { errorText, message } from "./messages.js";

let dragged = null;
const rowOf = (event) => event.target.closest?.("[data-queued]");

document.addEventListener("dragstart", (event) => {
  dragged = rowOf(event);
  if (!dragged) return;
  event.dataTransfer.effectAllowed = "move";
  event.dataTransfer.setData("text/plain", dragged.dataset.queued);
});
document.addEventListener("dragend", () => (dragged = null));
document.addEventListener("dragover", (event) => placeAt(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!dragged) return;
  event.preventDefault();
  placeAt(event); // an update may have put the rows in their former order
  const next = dragged.nextElementSibling;
  const previous = dragged.previousElementSibling;
  if (next?.dataset.queued) move(dragged, "before", next);
  else if (previous?.dataset.queued) move(dragged, "after", previous);
});
document.addEventListener("keydown", (event) => {
  if (!event.target.matches?.(".move") || !["ArrowUp", "ArrowDown"].includes(event.key)) return;
  event.preventDefault();
  const row = rowOf(event);
  const isUp = event.key === "ArrowUp";
  const other = isUp ? row.previousElementSibling : row.nextElementSibling;
  if (!other?.dataset.queued) return;
  other[isUp ? "before" : "after"](row);
  event.target.focus();
  move(row, isUp ? "before" : "after", other);
});

/** Put the dragged row at the row under the pointer; return whether there is one. */
function placeAt(event) {
  const row = dragged && rowOf(event);
  if (!row || row.parentElement !== dragged.parentElement) return false;
  if (row !== dragged) row[isBelowMiddle(event, row) ? "after" : "before"](dragged);
  return true;
}

function isBelowMiddle(event, row) {
  const { top, height } = row.getBoundingClientRect();
  return event.clientY > top + height / 2;
}

async function move(row, place, other) {
  const body = new URLSearchParams({ [place]: other.dataset.queued });
  const headers = { Accept: "application/json" };
  const response = await fetch(`/jobs/${row.dataset.queued}/move`, { method: "POST", headers, body }).catch(() => null);
  const status = document.getElementById("bulk-status");
  if (response?.ok) status.textContent = message("moved");
  else status.textContent = response ? errorText(await response.json().catch(() => ({ message: message("away") }))) : message("away");
  refresh();
}
