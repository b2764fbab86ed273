// Keeps parts of a page (`data-live`: the address of what they consist of) as they are on the server, and says so when
// it cannot. Asks while somebody looks; one request at a time, so that no tab holds a connection that others need.
import { morph } from "./morph.js";
import { say } from "./words.js";

const EVERY_MS = 1500;
const AWAY_MS = 2000;
const PATIENCE_MS = 8000;

let wake = () => {};

/** Ask now, not only when it is time: something has been done that shows. */
export function refresh() {
  wake();
}

/** Begin to keep this page up to date. */
export function beginLive() {
  const parts = [...document.querySelectorAll("[data-live]")];
  if (parts.length) keep(() => Promise.all(parts.map(update)));
  else if (document.querySelector("[data-return]")) keep(comeBack);
  document.addEventListener("submit", send);
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
    }, ms);
    wake = done;
  });
}

const tags = new WeakMap();

async function update(part) {
  const headers = tags.has(part) ? { "If-None-Match": tags.get(part) } : {};
  const answer = await get(part.dataset.live, headers);
  if (answer.status === 304) return;
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

/** Send a form that only does something to a job without leaving the page; else the browser sends it. */
async function send(event) {
  const form = event.target;
  if (!("quiet" in form.dataset)) return;
  event.preventDefault();
  const button = event.submitter ?? form.querySelector("button");
  button.disabled = true;
  // The answer sends a browser back to this page, which is shown already: `manual` leaves that alone.
  const answer = await fetch(form.action, { method: "POST", redirect: "manual" }).catch(() => null);
  button.disabled = false;
  if (answer && answer.type !== "opaqueredirect" && !answer.ok) form.submit();
  refresh();
}
