// Older jobs are added to the list as it is scrolled to its end.
const list = () => document.getElementById("more-jobs");
let shown = ""; // the filter whose jobs are in the list
let next = "";
let isLoading = false;

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
    more.hidden = true;
  }
  if (!next || more.getBoundingClientRect().bottom > 2 * innerHeight || !isNearEnd()) return;
  isLoading = true;
  const address = next;
  const response = await fetch(`/fragments/overview${address.slice(1)}`).catch(() => null);
  isLoading = false;
  if (!response?.ok || address !== next || shown !== location.search) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const known = new Set([...document.querySelectorAll("#jobs > li, #more-jobs > li")].map((row) => row.id));
  more.append(...[...page.querySelectorAll("#jobs > li")].filter((row) => !known.has(row.id)).map((row) => document.importNode(row, true)));
  more.hidden = !more.childElementCount;
  next = page.getElementById("older")?.getAttribute("href") ?? "";
  load();
}

const isNearEnd = () => scrollY > 0 && document.documentElement.scrollHeight - scrollY < 3 * innerHeight;
addEventListener("scroll", load, { passive: true });
document.addEventListener("click", (event) => event.target.closest("a[data-filter]") && setTimeout(load));
