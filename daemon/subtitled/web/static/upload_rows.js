// The uploads of this page, as rows with a bar each.
import { say } from "./messages.js";

const SPEED_MS = 3000;
const SHOWN_MS = 5000;
const FEW = 6;
const BRIEFLY_MS = 600;
const UNITS = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];

/** Return bytes in the unit that suits them. */
export function size(bytes) {
  for (const [unit, name] of UNITS) {
    if (bytes >= unit) return `${(bytes / unit).toFixed(bytes >= 9.95 * unit ? 0 : 1)} ${name}`;
  }
  return `${bytes} B`;
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** One file. */
export class Row {
  constructor(file, { cancel, retry }) {
    this.file = file;
    this.bytes = 0;
    this.outcome = "";
    this.changed = () => {};
    this.removed = () => {};
    this.seen = [];
    this.retry = retry;
    this.cancel = cancel;
    this.item = element("li", "upload");
    this.name = element("span", "cut", file.name);
    this.name.title = file.name;
    this.told = element("span", "told soft small");
    this.bar = document.createElement("progress");
    this.bar.setAttribute("aria-label", say("progress_of", { name: file.name }));
    this.button = element("button", "plain");
    this.button.type = "button";
    this.button.addEventListener("click", () => this.act());
    this.item.append(this.name, this.told, this.bar, this.button);
    this.wait();
  }

  wait() {
    this.outcome = "";
    this.bytes = 0;
    this.bar.value = 0;
    this.bar.hidden = false;
    this.item.classList.remove("bad");
    this.offer("cancel", () => this.cancel());
    this.say("waiting");
  }

  begin() {
    this.seen = [];
    this.bytes = 0;
    this.bar.value = 0;
    this.offer("cancel", () => this.cancel());
  }

  /** Note that so many bytes are sent. */
  sent(bytes, now) {
    this.bytes = Math.min(bytes, this.file.size);
    this.seen.push([now, this.bytes]);
    while (this.seen.length > 2 && now - this.seen[0][0] > SPEED_MS) this.seen.shift();
    const [began, before] = this.seen[0];
    const speed = now > began ? ((this.bytes - before) * 1000) / (now - began) : 0;
    this.bar.value = this.bytes / this.file.size;
    this.say("sending", { part: size(this.bytes), whole: size(this.file.size), speed: size(Math.round(speed)) });
  }

  done(job) {
    this.bytes = this.file.size;
    this.outcome = "done";
    this.bar.hidden = true;
    const link = element("a", "", say("sent"));
    link.href = `/jobs/${job}`;
    this.told.replaceChildren(link);
    this.button.hidden = true;
    this.changed();
    // Of many, those that are sent make room for those that are not.
    setTimeout(() => this.remove(), this.item.parentElement?.childElementCount > FEW ? BRIEFLY_MS : SHOWN_MS);
  }

  failed(key, values, canRetry = true) {
    this.outcome = "failed";
    this.bar.hidden = true;
    this.item.classList.add("bad");
    if (canRetry) this.offer("retry", () => this.retry());
    else this.offer("dismiss", () => this.remove());
    this.say(key, values);
  }

  cancelled() {
    this.outcome = "cancelled";
    this.remove();
  }

  say(key, values) {
    this.told.textContent = say(key, values);
    this.changed();
  }

  offer(key, act) {
    this.act = act;
    this.button.hidden = false;
    this.button.textContent = say(key);
    this.button.setAttribute("aria-label", `${say(key)}: ${this.file.name}`);
  }

  remove() {
    if (this.item.contains(document.activeElement)) document.getElementById("file").focus();
    this.item.remove();
    this.removed();
    this.changed();
  }
}

/** All of them together. */
export class Summary {
  constructor(cancelAll) {
    this.rows = new Set();
    this.section = document.getElementById("uploads");
    this.list = document.getElementById("uploads-list");
    this.bar = document.getElementById("uploads-progress");
    this.told = document.getElementById("uploads-summary");
    this.button = document.getElementById("uploads-cancel");
    this.button.textContent = say("cancel_all");
    this.button.addEventListener("click", cancelAll);
  }

  add(row) {
    this.rows.add(row);
    row.changed = () => this.show();
    row.removed = () => row.outcome !== "done" && this.rows.delete(row);
    this.list.append(row.item);
    return row;
  }

  /** Say how far all are; nothing when nothing is left to be told. */
  show() {
    const rows = [...this.rows];
    this.section.hidden = !this.list.childElementCount;
    if (this.section.hidden) this.rows.clear();
    const count = (outcome) => rows.filter((row) => row.outcome === outcome).length;
    const values = { done: count("done"), failed: count("failed"), whole: rows.length };
    const text = rows.length ? say(values.failed ? "summary_failed" : "summary", values) : "";
    if (this.told.textContent !== text) this.told.textContent = text;
    const bytes = rows.reduce((sum, row) => sum + row.file.size, 0);
    this.bar.value = bytes ? rows.reduce((sum, row) => sum + row.bytes, 0) / bytes : 0;
    this.button.hidden = !rows.some((row) => !row.outcome);
  }
}
