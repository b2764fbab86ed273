// A job's page: comes to its player as soon as the job is done, and says when things were as the reader does.
import { beginPlayer } from "./player.js";

const live = document.getElementById("live");
if (live) {
  new MutationObserver(() => {
    const { state } = live.querySelector("[data-state]").dataset;
    if (["done", "failed", "cancelled"].includes(state)) location.reload();
    tellTimes(live);
  }).observe(live, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-state", "data-at", "title"] });
}
tellTimes(document);
if (document.getElementById("player")) beginPlayer();

function tellTimes(part) {
  const times = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "medium" });
  for (const element of part.querySelectorAll("[data-at]")) {
    const at = new Date(Number(element.dataset.at));
    element.dateTime = at.toISOString();
    if (element.title !== times.format(at)) element.title = times.format(at);
    // One after another within a minute: "just now" of all of them would say nothing.
    if (element.closest(".history")) element.textContent = at.toLocaleTimeString(document.documentElement.lang);
  }
}
