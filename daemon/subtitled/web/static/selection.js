// Selection of several jobs: shift-click selects a range; actions run without leaving the page.
import { afterUpdate, refresh } from "./live_update.js";
import { errorText, message } from "./messages.js";

const form = document.getElementById("bulk");
const status = document.getElementById("bulk-status");
const chosen = new Set(); // ids of the selected jobs, of which some may not be in the list
let filter = ""; // the filter of "all matching", in words
let last = ""; // the job that was clicked last

// Scripts that are loaded only where they are needed.
const awaitScroll = () => addEventListener("scroll", loadMoreJobs, { once: true, passive: true });
const loadMoreJobs = () => import("./more_jobs.js").catch(awaitScroll);
awaitScroll();
const loadQueueOrder = () => document.querySelector("[data-queued]") && import("./queue_order.js");
afterUpdate(loadQueueOrder);
loadQueueOrder();

const BATCH = 200; // jobs of one request
/** Return the ids of the jobs in the list, in order: also of parts far out of sight, which have no rows. */
const listed = () => {
  const parts = [...document.querySelectorAll("#jobs, #more-jobs > ul")];
  return [...new Set(parts.flatMap((part) => part.jobs ?? [...part.querySelectorAll("input[name=job]")].map((box) => box.value)))];
};
const boxes = () => [...document.querySelectorAll(":is(#jobs, #more-jobs) input[name=job]")];

document.addEventListener("click", (event) => {
  const box = event.target;
  if (!box.matches?.(":is(#jobs, #more-jobs) input[name=job]")) return;
  const all = listed();
  const clicked = all.indexOf(box.value);
  const from = event.shiftKey ? all.indexOf(last) : -1;
  const [first, end] = [from < 0 ? clicked : from, clicked].sort((a, b) => a - b);
  for (const other of all.slice(first, end + 1)) chosen[box.checked ? "add" : "delete"](other);
  last = box.value;
  showSelection("");
});
document.getElementById("select-page").addEventListener("click", () => select(listed()));
document.getElementById("select-matching").addEventListener("click", async () => {
  const query = location.search;
  const name = filterName();
  const answer = await request(`/bulk/matching${query}`);
  if (answer && query === location.search) select(answer.jobs, name);
});
form.addEventListener("submit", (event) => {
  if (event.submitter?.id === "bulk-download") addHidden();
  else act(event);
});
// The jobs of another filter are not those that were selected.
document.addEventListener("filterchange", () => select([]));
afterUpdate(checkBoxes);
document.addEventListener("rowsadded", checkBoxes);

function select(jobs, name = "") {
  chosen.clear();
  for (const job of jobs) chosen.add(job);
  showSelection(name);
}

function showSelection(name) {
  filter = name;
  checkBoxes();
  form.classList.toggle("has-selection", chosen.size > 0);
  status.textContent = chosen.size ? message("selected", { n: chosen.size }) : "";
}

/** Check the boxes of the selected jobs, also of rows that were added. */
function checkBoxes() {
  for (const box of boxes()) box.checked = chosen.has(box.value);
}

/** Return the filter of the list in words: its tab, then the fields of its form. */
function filterName() {
  const tab = document.querySelector(".tabs [aria-current]").firstChild.textContent.trim();
  const fields = [...document.querySelectorAll("form.search :is(input:not([type=hidden]), select)")].filter((field) => field.value);
  return [tab, ...fields.map((field) => field.selectedOptions?.[0].textContent ?? field.value)].join(" · ");
}

/** Add the selected jobs that have no box to the form. */
function addHidden() {
  for (const field of form.querySelectorAll("input[type=hidden]")) field.remove();
  const shown = new Set(boxes().map((box) => box.value));
  for (const value of chosen) {
    if (!shown.has(value)) form.append(Object.assign(document.createElement("input"), { type: "hidden", name: "job", value }));
  }
}

async function act(event) {
  event.preventDefault();
  const action = event.submitter.value;
  if (action === "delete" && chosen.size && !confirm(deleteQuestion())) return;
  const fields = [...new FormData(form)].filter(([name]) => name !== "job");
  const jobs = [...chosen];
  const total = jobs.length;
  const errors = [];
  const buttons = form.querySelectorAll(".actions button");
  let done = 0;
  for (const button of buttons) button.disabled = true;
  // Without a job, the server's message is shown.
  do {
    const batch = jobs.splice(0, BATCH);
    const body = new URLSearchParams([...fields, ["action", action], ...batch.map((job) => ["job", job])]);
    const answer = await request("/bulk", { method: "POST", body });
    if (!answer) {
      if (done) status.textContent = message("bulk_failed", { done, total, cause: status.textContent });
      break;
    }
    done += answer.done;
    errors.push(...answer.errors);
    for (const job of batch) chosen.delete(job);
    showSelection(filter);
    status.textContent = errors.length ? message("bulk_failed", { done, total, cause: errors[0] }) : message("bulk_done", { done, total });
  } while (jobs.length);
  for (const button of buttons) button.disabled = false;
  refresh();
}

function deleteQuestion() {
  const question = message("confirm_delete", { n: chosen.size });
  return filter ? `${question}\n${message("selected_by", { filter })}` : question;
}

/** Return the body of a response, or null after its error was shown. */
async function request(address, options = {}) {
  const response = await fetch(address, { ...options, headers: { Accept: "application/json" } }).catch(() => null);
  const body = await response?.json().catch(() => null);
  if (response?.ok && body) return body;
  status.textContent = body ? errorText(body) : message("away");
  return null;
}
