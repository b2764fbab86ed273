// Selection of several jobs: shift-click selects a range; actions run without leaving the page.
import { refresh } from "./live_update.js";
import { message } from "./messages.js";

const form = document.getElementById("bulk");
const status = document.getElementById("bulk-status");
let isMatching = false; // all jobs of the filter, not only those on this page
let last = null;

addEventListener("scroll", () => import("./more_jobs.js"), { once: true, passive: true });

const boxes = () => [...document.querySelectorAll(":is(#jobs, #more-jobs) input[name=job]")];
const selected = () => boxes().filter((box) => box.checked);

document.addEventListener("click", (event) => {
  const box = event.target;
  if (!box.matches?.(":is(#jobs, #more-jobs) input[name=job]")) return;
  if (event.shiftKey && last?.isConnected) {
    const all = boxes();
    const [first, end] = [all.indexOf(last), all.indexOf(box)].sort((a, b) => a - b);
    for (const other of all.slice(first, end + 1)) other.checked = box.checked;
  }
  last = box;
  select(false);
});
document.getElementById("select-page").addEventListener("click", () => {
  for (const box of boxes()) box.checked = true;
  select(false);
});
document.getElementById("select-matching").addEventListener("click", () => {
  for (const box of boxes()) box.checked = true;
  select(true);
});
form.addEventListener("submit", (event) => {
  if (event.submitter?.id === "bulk-download") addFilter();
  else act(event);
});

function select(matching) {
  isMatching = matching;
  form.classList.toggle("has-selection", matching || selected().length > 0);
  const n = selected().length;
  status.textContent = matching ? message("selected_matching") : n ? message("selected", { n }) : "";
}

/** Send the filter in place of the selected jobs, if all matching jobs are selected. */
function addFilter() {
  for (const field of form.querySelectorAll("input[type=hidden]")) field.remove();
  if (!isMatching) return;
  const fields = [["scope", "matching"], ...new URLSearchParams(location.search)];
  for (const [name, value] of fields) form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
}

async function act(event) {
  event.preventDefault();
  const { value: action } = event.submitter;
  if (action === "delete" && !confirm(message("confirm_delete"))) return;
  addFilter();
  const body = new URLSearchParams([...new FormData(form), ["action", action]]);
  event.submitter.disabled = true;
  const response = await fetch("/bulk", { method: "POST", headers: { Accept: "application/json" }, body }).catch(() => null);
  event.submitter.disabled = false;
  if (!response?.ok) {
    status.textContent = message("away");
    return;
  }
  const { done, total, errors } = await response.json();
  for (const box of selected()) box.checked = false;
  select(false);
  status.textContent = errors.length ? message("bulk_failed", { done, total, cause: errors[0] }) : message("bulk_done", { done, total });
  refresh();
}
