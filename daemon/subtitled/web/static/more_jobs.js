// Older jobs are added to the list as it is scrolled to its end, one part for each page of them. A part begins after the
// last job of the one before: when jobs are added above, the parts that are in sight move with them. Parts far out of
// sight have no rows, so that the page stays small however many jobs there are.
import { afterUpdate, get } from "./live_update.js";
import { morph } from "./morph.js";

const list = () => document.getElementById("more-jobs");
const parts = () => [...(list()?.children ?? [])];
const isNearEnd = () => scrollY > 0 && document.documentElement.scrollHeight - scrollY < 3 * innerHeight;
const KEPT_SCREENS = 4; // above and below the window
const etags = new WeakMap();
let filterChanges = 0;
let isBusy = false;

/** Run a task unless another one runs or the list of another filter is still shown. */
async function alone(task) {
  if (isBusy || !list() || list().closest("[aria-busy]")) return;
  isBusy = true;
  try {
    await task();
  } finally {
    isBusy = false;
  }
}

/** Return the address of the page after a part; of the first one without a part; "" at the end. */
function addressAfter(part) {
  return part ? part.dataset.older : (document.getElementById("older")?.getAttribute("href") ?? "");
}

/** Add pages until the end of the list is out of sight. */
async function load() {
  while (isNearEnd()) {
    const address = addressAfter(parts().at(-1));
    if (!address) return;
    const part = document.createElement("ul");
    part.className = "panel jobs";
    if (!(await show(part, address))) return;
  }
}

/** Remove the rows of parts far out of sight: `jobs` of such a part are the ids of its jobs, and its height stays. */
function unload() {
  for (const part of parts()) {
    const { top, bottom, height } = part.getBoundingClientRect();
    const isNear = bottom > -KEPT_SCREENS * innerHeight && top < (1 + KEPT_SCREENS) * innerHeight;
    if (part.jobs || isNear || part.contains(document.activeElement)) continue;
    part.jobs = [...part.querySelectorAll("input[name=job]")].map((box) => box.value);
    part.style.blockSize = `${height}px`;
    part.replaceChildren();
    etags.delete(part);
  }
}

/** Load the rows of parts that come into sight again. */
async function reload() {
  const all = parts();
  for (const part of all.filter((one) => one.jobs && isInSight(one))) await updatePart(all, all.indexOf(part));
}

/** Update the parts in sight; return without the others, which are updated when they come into sight. */
async function updateParts() {
  const before = filterChanges;
  const all = parts();
  const visible = all.filter(isInSight);
  let at = all.indexOf(visible[0]);
  const end = at + visible.length;
  // A page is empty if the job before it is deleted: that part has to be updated too.
  while (at >= 0 && before === filterChanges && !(await updatePart(all, at))) at -= 1;
  for (at += 1; at < end && before === filterChanges; at++) await updatePart(all, at);
  await load();
  unload();
}

/** Return whether the part is up to date; false if its page has no jobs. */
async function updatePart(all, at) {
  const address = addressAfter(all[at - 1]);
  if (!address) {
    for (const part of all.slice(at)) part.remove();
    return true;
  }
  return show(all[at], address);
}

/** Show a page in a part; return whether it has jobs. */
async function show(part, address) {
  const before = filterChanges;
  const { address: known, etag } = etags.get(part) ?? {};
  const response = await get(`/fragments/overview${address.slice(1)}`, known === address ? { "If-None-Match": etag } : {});
  if (response.status === 304) return true;
  if (!response.ok) throw new Error(response.status);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const rows = page.getElementById("jobs");
  if (before !== filterChanges || !list() || !rows) return false;
  etags.set(part, { address, etag: response.headers.get("ETag") });
  part.dataset.older = page.getElementById("older")?.getAttribute("href") ?? "";
  if (!part.isConnected) list().append(part);
  for (const row of [...rows.children]) {
    const other = document.getElementById(row.id);
    if (!other || part.contains(other)) continue;
    if (list().contains(other)) part.append(other);
    else row.remove(); // it is above the list, or on its first page
  }
  morph(part, rows);
  delete part.jobs;
  part.style.blockSize = "";
  document.dispatchEvent(new Event("rowsadded"));
  return true;
}

function isInSight(part) {
  const { top, bottom } = part.getBoundingClientRect();
  return bottom > -innerHeight && top < 2 * innerHeight;
}

let isScheduled = false;
function onScroll() {
  if (isScheduled) return;
  isScheduled = true;
  setTimeout(() => {
    isScheduled = false;
    alone(async () => {
      await reload();
      await load();
      unload();
    }).catch(() => {}); // the next update of the page shows that the server does not respond
  }, 100);
}

addEventListener("scroll", onScroll, { passive: true });
document.addEventListener("filterchange", () => {
  filterChanges += 1;
  list()?.replaceChildren();
});
afterUpdate(() => alone(updateParts));
onScroll();
