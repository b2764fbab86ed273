// A job's page: comes to its player as soon as the job is done, and says times and languages as the reader does.
import { beginPlayer } from "./player.js";

const live = document.getElementById("live");
if (live) {
  new MutationObserver(() => {
    const { state } = live.querySelector("header.job").dataset;
    if (["done", "failed", "cancelled"].includes(state)) location.reload();
    nameAll(live);
  }).observe(live, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-state", "data-language"] });
}
nameAll(document);
if (document.getElementById("player")) beginPlayer();

function nameAll(part) {
  const names = new Intl.DisplayNames([document.documentElement.lang], { type: "language", fallback: "none" });
  for (const element of part.querySelectorAll("[data-language]")) {
    const name = nameOf(names, element.dataset.language);
    if (name && element.textContent !== name) element.textContent = name;
  }
  const times = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "medium" });
  for (const element of part.querySelectorAll("[data-at]")) {
    const at = new Date(Number(element.dataset.at));
    element.dateTime = at.toISOString();
    element.title = times.format(at);
  }
}

function nameOf(names, code) {
  try {
    return names.of(code);
  } catch {
    return undefined; // none of BCP 47
  }
}
