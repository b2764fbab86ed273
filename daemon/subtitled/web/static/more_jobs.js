// Older jobs are added to the list as it is scrolled to its end.
const list = () => document.getElementById("more-jobs");
let shown = null; // the filter whose jobs are in the list
let next = "";
let isLoading = false;
const known = new Set();

function addressOfFirstPage() {
  return document.getElementById("older")?.getAttribute("href") ?? "";
}

async function load() {
  const more = list();
  if (!more || isLoading) return;
  if (shown !== location.search) {
    shown = location.search;
    next = addressOfFirstPage();
    more.replaceChildren();
    known.clear();
  }
  if (!next || !isNearEnd()) return;
  isLoading = true;
  const address = next;
  const response = await fetch(`/fragments/overview${address.slice(1)}`).catch(() => null);
  isLoading = false;
  if (!response?.ok || address !== next || shown !== location.search) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const row of document.querySelectorAll("#jobs > li")) known.add(row.id);
  const rows = [...page.querySelectorAll("#jobs > li")].filter((row) => !known.has(row.id));
  for (const row of rows) known.add(row.id);
  // One list for each page: the browser skips the layout of those that are out of sight.
  const part = document.createElement("ul");
  part.className = "panel jobs";
  part.append(...rows.map((row) => document.importNode(row, true)));
  if (rows.length) more.append(part);
  next = page.getElementById("older")?.getAttribute("href") ?? "";
  load();
}

const isNearEnd = () => scrollY > 0 && document.documentElement.scrollHeight - scrollY < 3 * innerHeight;
let isScheduled = false;
addEventListener("scroll", () => {
  if (isScheduled) return;
  isScheduled = true;
  setTimeout(() => {
    isScheduled = false;
    load();
  }, 100);
}, { passive: true });
document.addEventListener("click", (event) => event.target.closest("a[data-filter]") && setTimeout(load));
load();
