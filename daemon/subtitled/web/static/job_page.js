// A job's page: reloads when the job has ended, formats times, starts the player.
import { startLiveText } from "./live_text.js";
import { startPlayer } from "./player.js";

const live = document.getElementById("live");
if (live) {
  new MutationObserver(() => {
    const { state } = live.querySelector("[data-state]").dataset;
    if (["done", "failed", "cancelled"].includes(state)) location.reload();
    formatTimes(live);
  }).observe(live, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-state", "data-at", "title"] });
}
formatTimes(document);
if (document.getElementById("player")) startPlayer();
if (document.getElementById("live-text")) startLiveText();

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
