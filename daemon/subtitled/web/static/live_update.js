// Keeps parts of a page (`data-live`: the address of their fragment) up to date and shows when the server does not
// respond. Polls while the tab is visible, one request at a time, so that it uses no connection that others need.
import { message } from "./messages.js";
import { morph } from "./morph.js";

const INTERVAL_MS = 1500;
const RETRY_MS = 2000;
const TIMEOUT_MS = 8000;

let wake = () => {};
let isRefreshRequested = false;
const callbacks = [];

/** Update now, after a change that the page shows. */
export function refresh() {
  isRefreshRequested = true;
  wake();
}

/** Call a function after each update of the page, before the next one; it may return a promise. */
export function afterUpdate(callback) {
  callbacks.push(callback);
}

/** Start to keep this page up to date. */
export function startLiveUpdates() {
  const parts = [...document.querySelectorAll("[data-live]")];
  if (parts.length) poll(() => updateAll(parts));
  else if (document.querySelector("[data-reload-when-back]")) poll(reloadWhenBack);
  document.addEventListener("submit", onSubmit);
  document.addEventListener("click", onClick);
  addEventListener("popstate", applyFilter);
}

async function updateAll(parts) {
  await Promise.all(parts.map(update));
  for (const callback of callbacks) await callback();
}

async function poll(request) {
  for (;;) {
    const isAvailable = await request().then(() => true, () => false);
    showAvailability(isAvailable);
    await pause(isAvailable ? INTERVAL_MS : RETRY_MS);
  }
}

/** Wait for `ms` or until `refresh`, and longer while the tab is hidden. */
function pause(ms) {
  return new Promise((resolve) => {
    const finish = () => {
      if (document.hidden) return;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", finish);
      resolve();
    };
    const timer = setTimeout(() => {
      if (!document.hidden) finish();
      else document.addEventListener("visibilitychange", finish);
    }, isRefreshRequested ? 0 : ms);
    isRefreshRequested = false;
    wake = finish;
  });
}

const etags = new WeakMap();

async function update(part) {
  if (!part.dataset.live) return; // it does not change any more
  const headers = etags.has(part) ? { "If-None-Match": etags.get(part) } : {};
  const address = part.dataset.live;
  const response = await get(address, headers);
  // Only a page load makes the browser ask for a token.
  if (response.status === 401) location.reload();
  if (response.status === 304 || address !== part.dataset.live) return;
  if (!response.ok) throw new Error(response.status);
  const target = new DOMParser().parseFromString(await response.text(), "text/html").body;
  etags.set(part, response.headers.get("ETag"));
  morph(part, target);
  part.removeAttribute("aria-busy");
}

async function reloadWhenBack() {
  const response = await get(location.href, {});
  if (response.status === 503) throw new Error(response.status);
  location.reload();
}

/** Request a fragment. */
export function get(address, headers) {
  // `no-store`: the browser's cache would hide a 304.
  return fetch(address, { headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
}

/** Announce once that the daemon does not respond, and for some seconds that it responds again. */
function showAvailability(isAvailable) {
  document.body.classList.toggle("is-away", !isAvailable);
  const away = document.getElementById("away");
  if (!isAvailable && away.dataset.state !== "away") {
    away.dataset.state = "away";
    away.textContent = message("away");
  } else if (isAvailable && away.dataset.state === "away") {
    away.dataset.state = "back";
    away.textContent = message("back");
    setTimeout(() => away.dataset.state === "back" && (away.textContent = ""), 4000);
  }
}

/** Show the jobs that the address selects without leaving the page, so that uploads continue. */
function applyFilter() {
  for (const part of document.querySelectorAll("[data-live]")) {
    part.dataset.live = part.dataset.live.split("?")[0] + location.search;
    etags.delete(part);
    part.setAttribute("aria-busy", "true"); // until it shows these jobs
  }
  document.dispatchEvent(new Event("filterchange"));
  const query = new URLSearchParams(location.search);
  for (const input of document.querySelectorAll("form[data-filter] :is(input, select)")) {
    input.value = query.get(input.name) ?? "";
  }
  refresh();
}

function onClick(event) {
  const link = event.target.closest("a[data-filter]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  applyFilter();
}

function onSubmit(event) {
  const form = event.target;
  if ("background" in form.dataset) submitInBackground(event, form);
  if (!("filter" in form.dataset)) return;
  event.preventDefault();
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  history.pushState(null, "", `${form.action.split("?")[0]}?${query}`);
  applyFilter();
}

/** Send a form that acts on a job without leaving the page. */
async function submitInBackground(event, form) {
  event.preventDefault();
  const button = event.submitter ?? form.querySelector("button");
  button.disabled = true;
  // The response redirects to this page, which is shown already: `manual` does not follow it.
  const body = new URLSearchParams(new FormData(form));
  const response = await fetch(form.action, { method: "POST", body, redirect: "manual" }).catch(() => null);
  button.disabled = false;
  if (response && response.type !== "opaqueredirect" && !response.ok) form.submit();
  refresh();
}
