// A job's page: starts the player, formats times, and follows the job until it has ended.
import { startPlayer } from "./player.js";

const RETRY_MS = 3000;

const live = document.getElementById("live");
formatTimes(document);
const player = document.getElementById("player") ? startPlayer() : null;
if (live) followJob();

/** Update the player when the job's file is read, when its text is final, and when it has ended; else reload the page then. */
function followJob() {
  let { stage } = live.querySelector("[data-stage]").dataset;
  new MutationObserver(() => {
    const headline = live.querySelector("[data-stage]");
    formatTimes(live);
    if (headline.dataset.stage === stage) return;
    const isWaiting = stage === "waiting";
    stage = headline.dataset.stage;
    if (stage === "ended") delete live.dataset.live;
    if (isWaiting && Number(headline.dataset.length)) player.showMedia(Number(headline.dataset.length));
    if (stage === "text" || stage === "ended") showFinal();
  }).observe(live, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-stage", "data-at", "title"] });
}

async function showFinal() {
  try {
    const response = await fetch(location.href);
    // The job was deleted, or its token revoked: the server's page says so.
    if (response.status === 401 || response.status === 404) return location.reload();
    if (!response.ok) throw new Error(response.status);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const next = page.querySelector("#player:not([data-provisional])");
    if (!next) location.reload(); // without text
    else player.showFinal(next);
    formatTimes(document);
  } catch {
    setTimeout(showFinal, RETRY_MS);
  }
}

/** Show times in the reader's time zone. */
function formatTimes(root) {
  const format = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "medium" });
  for (const element of root.querySelectorAll("[data-at]")) {
    const at = new Date(Number(element.dataset.at));
    element.dateTime = at.toISOString();
    if (element.title !== format.format(at)) element.title = format.format(at);
    // History entries are seconds apart: relative times would all be the same.
    if (element.closest(".history")) element.textContent = at.toLocaleTimeString(document.documentElement.lang);
  }
}
