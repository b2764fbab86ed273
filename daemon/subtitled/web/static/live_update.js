// Keeps parts of a page (`data-live`: the address of what they consist of) as they are on the server, and says so when
// it cannot. Asks while somebody looks; one request at a time, so that no tab holds a connection that others need.
import { morph } from "./morph.js";
import { say } from "./messages.js";

const EVERY_MS = 1500;
const AWAY_MS = 2000;
const PATIENCE_MS = 8000;

let wake = () => {};
let isWanted = false;

/** Ask now, or once more: something has been done that shows. */
export function refresh() {
  isWanted = true;
  wake();
}

/** Begin to keep this page up to date. */
export function beginLive() {
  const parts = [...document.querySelectorAll("[data-live]")];
  if (parts.length) keep(() => Promise.all(parts.map(update)));
  else if (document.querySelector("[data-return]")) keep(comeBack);
  document.addEventListener("submit", submitted);
  document.addEventListener("click", clicked);
  addEventListener("popstate", look);
}

async function keep(ask) {
  for (;;) {
    const isThere = await ask().then(() => true, () => false);
    tell(isThere);
    await pause(isThere ? EVERY_MS : AWAY_MS);
  }
}

/** Wait, and on while nobody looks. */
function pause(ms) {
  return new Promise((resolve) => {
    const done = () => {
      if (document.hidden) return;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", done);
      resolve();
    };
    const timer = setTimeout(() => {
      if (!document.hidden) done();
      else document.addEventListener("visibilitychange", done);
    }, isWanted ? 0 : ms);
    isWanted = false;
    wake = done;
  });
}

const tags = new WeakMap();

async function update(part) {
  const headers = tags.has(part) ? { "If-None-Match": tags.get(part) } : {};
  const address = part.dataset.live;
  const answer = await get(address, headers);
  // The page of the frame asks for a token; this cannot.
  if (answer.status === 401) location.reload();
  if (answer.status === 304 || address !== part.dataset.live) return;
  if (!answer.ok) throw new Error(answer.status);
  const wanted = new DOMParser().parseFromString(await answer.text(), "text/html").body;
  tags.set(part, answer.headers.get("ETag"));
  morph(part, wanted);
}

async function comeBack() {
  const answer = await get(location.href, {});
  if (answer.status === 503) throw new Error(answer.status);
  location.reload();
}

function get(address, headers) {
  // `no-store`: the ETag is ours to send, so that a 304 is seen.
  return fetch(address, { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
}

/** Say that the daemon is away, once; that it is back, for a while. */
function tell(isThere) {
  document.body.classList.toggle("is-away", !isThere);
  const away = document.getElementById("away");
  if (!isThere && away.dataset.is !== "away") {
    away.dataset.is = "away";
    away.textContent = say("away");
  } else if (isThere && away.dataset.is === "away") {
    away.dataset.is = "back";
    away.textContent = say("back");
    setTimeout(() => away.dataset.is === "back" && (away.textContent = ""), 4000);
  }
}

/** Show other jobs without leaving the page: uploads go on. */
function look() {
  for (const part of document.querySelectorAll("[data-live]")) {
    part.dataset.live = part.dataset.live.split("?")[0] + location.search;
    tags.delete(part);
  }
  const query = new URLSearchParams(location.search);
  for (const input of document.querySelectorAll("form[data-look] input[type=search]")) {
    input.value = query.get(input.name) ?? "";
  }
  refresh();
}

function clicked(event) {
  const link = event.target.closest("a[data-look]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  look();
}

function submitted(event) {
  const form = event.target;
  if ("quiet" in form.dataset) send(event, form);
  if (!("look" in form.dataset)) return;
  event.preventDefault();
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  history.pushState(null, "", `${form.action.split("?")[0]}?${query}`);
  look();
}

/** Send a form that only does something to a job without leaving the page. */
async function send(event, form) {
  event.preventDefault();
  const button = event.submitter ?? form.querySelector("button");
  button.disabled = true;
  // The answer sends a browser back to this page, which is shown already: `manual` leaves that alone.
  const answer = await fetch(form.action, { method: "POST", redirect: "manual" }).catch(() => null);
  button.disabled = false;
  if (answer && answer.type !== "opaqueredirect" && !answer.ok) form.submit();
  refresh();
}
