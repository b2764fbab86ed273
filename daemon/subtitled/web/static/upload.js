// Uploads files, three at a time, each as the body of one request that the browser reads from the disk. Without this
// script the form sends one file.
import { droppedFiles } from "./dropped_files.js";
import { refresh } from "./live_update.js";
import { errorText } from "./messages.js";
import { rememberOptions } from "./presets.js";
import { UploadList, UploadRow, formatSize } from "./upload_rows.js";

const MAX_PARALLEL = 3;
const MAX_TRIES = 8;
const FIRST_DELAY_S = 2;
const MAX_DELAY_S = 60;
const RETRIED_STATUSES = new Set([429, 502, 503, 504, 507]);

const form = document.getElementById("upload-form");
const chooser = document.getElementById("file");
const queue = [];
const list = new UploadList(cancelAll);
const active = new Set();

document.documentElement.classList.add("has-script");
rememberOptions();
chooser.multiple = true;
chooser.required = false;
chooser.addEventListener("change", () => {
  add([...chooser.files]);
  chooser.value = "";
});
form.addEventListener("submit", (event) => {
  if (event.submitter?.id === "submit-url") return;
  event.preventDefault();
  // Enter in the field presses the form's first button.
  if (document.activeElement?.id === "url") form.requestSubmit(document.getElementById("submit-url"));
});

const dropHint = document.getElementById("drop");
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  dropHint.hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) dropHint.hidden = true;
});
document.addEventListener("drop", async (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  dropHint.hidden = true;
  add(await droppedFiles(event.dataTransfer));
});
addEventListener("beforeunload", (event) => {
  if (active.size || queue.length) event.preventDefault();
});

/** Queue files with the options in the form. */
function add(files) {
  const options = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (typeof value === "string" && value && name !== "url") options.append(name, value);
  }
  const maxBytes = Number(form.dataset.maxBytes);
  for (const file of files) {
    const upload = { file, options, tries: 0, row: null, request: null, timer: 0 };
    upload.row = list.add(new UploadRow(file, { onCancel: () => cancel(upload), onRetry: () => retry(upload) }));
    if (file.size > maxBytes) upload.row.failed("too_large", { size: formatSize(maxBytes) }, false);
    else if (!file.size) upload.row.failed("empty", {}, false);
    else queue.push(upload);
  }
  startNext();
}

function startNext() {
  while (active.size < MAX_PARALLEL && queue.length) {
    const upload = queue.shift();
    active.add(upload);
    send(upload);
  }
  list.update();
}

function send(upload) {
  const request = new XMLHttpRequest();
  const query = new URLSearchParams(upload.options);
  query.set("name", upload.file.name);
  if (upload.file.folder) query.set("tag", upload.file.folder);
  upload.request = request;
  upload.row.start();
  request.upload.addEventListener("progress", (event) => upload.row.progress(event.loaded, performance.now()));
  request.upload.addEventListener("load", () => upload.row.setStatus("finishing"));
  request.addEventListener("load", () => onResponse(upload, request));
  request.addEventListener("error", () => onConnectionError(upload));
  request.open("POST", `/api/jobs?${query}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.send(upload.file);
}

function onResponse(upload, request) {
  if (request.status === 201) {
    const { id } = JSON.parse(request.responseText);
    finish(upload);
    upload.row.done(id);
    refresh();
  } else if (RETRIED_STATUSES.has(request.status)) {
    retryLater(upload, request.status === 507 ? "disk_full" : "busy", Number(request.getResponseHeader("Retry-After")));
  } else {
    fail(upload, "rejected", { cause: errorMessage(request) });
  }
}

/** Tell a lost connection from a file that can no longer be read. */
async function onConnectionError(upload) {
  const isReadable = await upload.file.slice(0, 1).arrayBuffer().then(() => true, () => false);
  if (!active.has(upload)) return;
  if (isReadable) retryLater(upload, "reconnecting", 0);
  else fail(upload, "unreadable", {});
}

function retryLater(upload, key, retryAfter_s) {
  upload.tries += 1;
  const delay_s = Math.max(retryAfter_s, Math.min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (upload.tries - 1)));
  if (upload.tries >= MAX_TRIES && key === "reconnecting") {
    fail(upload, "disconnected", {});
    return;
  }
  upload.row.setStatus(key, { n: delay_s });
  upload.timer = setTimeout(() => send(upload), delay_s * 1000);
}

function fail(upload, key, values) {
  upload.row.failed(key, values);
  finish(upload);
}

function retry(upload) {
  upload.tries = 0;
  upload.row.wait();
  queue.push(upload);
  startNext();
}

function cancel(upload) {
  const index = queue.indexOf(upload);
  if (index >= 0) queue.splice(index, 1);
  clearTimeout(upload.timer);
  upload.request?.abort();
  upload.row.cancelled();
  finish(upload);
}

function cancelAll() {
  for (const upload of [...queue, ...active]) cancel(upload);
}

function finish(upload) {
  active.delete(upload);
  startNext();
}

function errorMessage(request) {
  try {
    return errorText(JSON.parse(request.responseText));
  } catch {
    return `HTTP ${request.status}`;
  }
}
