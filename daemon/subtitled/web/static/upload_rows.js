// The list of uploads: a row with a progress bar for each file, and a summary.
import { message } from "./messages.js";

const SPEED_WINDOW_MS = 3000;
const DONE_SHOWN_MS = 5000;
const DONE_SHOWN_BRIEFLY_MS = 600;
const MANY_ROWS = 6;
const UNITS = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];

/** Format a number of bytes. */
export function formatSize(bytes) {
  for (const [unit, name] of UNITS) {
    if (bytes >= unit) return `${(bytes / unit).toFixed(bytes >= 9.95 * unit ? 0 : 1)} ${name}`;
  }
  return `${bytes} B`;
}

function createElement(name, className, text = "") {
  const element = document.createElement(name);
  element.className = className;
  element.textContent = text;
  return element;
}

/** The row of one file. */
export class UploadRow {
  constructor(file, { onCancel, onRetry }) {
    this.file = file;
    this.bytes = 0;
    this.outcome = "";
    this.onChange = () => {};
    this.onRemove = () => {};
    this.samples = [];
    this.onRetry = onRetry;
    this.onCancel = onCancel;
    this.item = createElement("li", "upload");
    this.name = createElement("span", "ellipsis", file.name);
    this.name.title = file.name;
    this.status = createElement("span", "upload-status soft small");
    this.bar = document.createElement("progress");
    this.bar.setAttribute("aria-label", message("progress_name", { name: file.name }));
    this.button = createElement("button", "plain");
    this.button.type = "button";
    this.button.addEventListener("click", () => this.onButton());
    this.item.append(this.name, this.status, this.bar, this.button);
    this.wait();
  }

  wait() {
    this.outcome = "";
    this.bytes = 0;
    this.bar.value = 0;
    this.bar.hidden = false;
    this.item.classList.remove("bad");
    this.setButton("cancel", () => this.onCancel());
    this.setStatus("waiting");
  }

  start() {
    this.samples = [];
    this.bytes = 0;
    this.bar.value = 0;
    this.setButton("cancel", () => this.onCancel());
  }

  /** Show that `bytes` are sent at the time `now`. */
  progress(bytes, now) {
    this.bytes = Math.min(bytes, this.file.size);
    this.samples.push([now, this.bytes]);
    while (this.samples.length > 2 && now - this.samples[0][0] > SPEED_WINDOW_MS) this.samples.shift();
    const [firstTime, firstBytes] = this.samples[0];
    const speed = now > firstTime ? ((this.bytes - firstBytes) * 1000) / (now - firstTime) : 0;
    this.bar.value = this.bytes / this.file.size;
    this.setStatus("sending", { part: formatSize(this.bytes), total: formatSize(this.file.size), speed: formatSize(Math.round(speed)) });
  }

  done(job) {
    this.bytes = this.file.size;
    this.outcome = "done";
    this.bar.hidden = true;
    const link = createElement("a", "", message("sent"));
    link.href = `/jobs/${job}`;
    this.status.replaceChildren(link);
    this.button.hidden = true;
    this.onChange();
    // In a long list, finished rows make room for the others.
    setTimeout(() => this.remove(), this.item.parentElement?.childElementCount > MANY_ROWS ? DONE_SHOWN_BRIEFLY_MS : DONE_SHOWN_MS);
  }

  failed(key, values, canRetry = true) {
    this.outcome = "failed";
    this.bar.hidden = true;
    this.item.classList.add("bad");
    if (canRetry) this.setButton("retry", () => this.onRetry());
    else this.setButton("dismiss", () => this.remove());
    this.setStatus(key, values);
  }

  cancelled() {
    this.outcome = "cancelled";
    this.remove();
  }

  setStatus(key, values) {
    this.status.textContent = message(key, values);
    this.onChange();
  }

  setButton(key, onButton) {
    this.onButton = onButton;
    this.button.hidden = false;
    this.button.textContent = message(key);
    this.button.setAttribute("aria-label", `${message(key)}: ${this.file.name}`);
  }

  remove() {
    if (this.item.contains(document.activeElement)) document.getElementById("file").focus();
    this.item.remove();
    this.onRemove();
    this.onChange();
  }
}

/** All rows and their summary. */
export class UploadList {
  constructor(onCancelAll) {
    this.rows = new Set();
    this.section = document.getElementById("uploads");
    this.list = document.getElementById("uploads-list");
    this.bar = document.getElementById("uploads-progress");
    this.status = document.getElementById("uploads-summary");
    this.button = document.getElementById("uploads-cancel");
    this.button.textContent = message("cancel_all");
    this.button.addEventListener("click", onCancelAll);
  }

  add(row) {
    this.rows.add(row);
    row.onChange = () => this.update();
    row.onRemove = () => row.outcome !== "done" && this.rows.delete(row);
    this.list.append(row.item);
    return row;
  }

  /** Update the summary; hide the section without rows. */
  update() {
    const rows = [...this.rows];
    this.section.hidden = !this.list.childElementCount;
    if (this.section.hidden) this.rows.clear();
    const count = (outcome) => rows.filter((row) => row.outcome === outcome).length;
    const values = { done: count("done"), failed: count("failed"), total: rows.length };
    const text = rows.length ? message(values.failed ? "summary_failed" : "summary", values) : "";
    if (this.status.textContent !== text) this.status.textContent = text;
    const bytes = rows.reduce((sum, row) => sum + row.file.size, 0);
    this.bar.value = bytes ? rows.reduce((sum, row) => sum + row.bytes, 0) / bytes : 0;
    this.button.hidden = !rows.some((row) => !row.outcome);
  }
}
