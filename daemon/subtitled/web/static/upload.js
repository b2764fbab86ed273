// Sends files, three at a time, the others in their line: each as the body of one request, straight from the disk.
// Without this the form sends one file.
import { refresh } from "./live_update.js";
import { walk } from "./dropped_files.js";
import { Row, Summary, size } from "./upload_rows.js";

const AT_ONCE = 3;
const TRIES = 8;
const PAUSE_S = 2;
const MOST_S = 60;
const AGAIN = new Set([429, 502, 503, 504, 507]);

const form = document.getElementById("send-form");
const chooser = document.getElementById("file");
const line = [];
const summary = new Summary(cancelAll);
const sending = new Set();

document.documentElement.classList.add("has-script");
chooser.multiple = true;
chooser.required = false;
chooser.addEventListener("change", () => {
  add([...chooser.files]);
  chooser.value = "";
});
form.addEventListener("submit", (event) => event.preventDefault());

const drop = document.getElementById("drop");
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  drop.hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.hidden = true;
});
document.addEventListener("drop", async (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  drop.hidden = true;
  add(await walk(event.dataTransfer));
});
addEventListener("beforeunload", (event) => {
  if (sending.size || line.length) event.preventDefault();
});

/** Put files into the line. */
function add(files) {
  const options = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (typeof value === "string" && value) options.append(name, value);
  }
  for (const file of files) {
    const upload = { file, options, tries: 0, row: null, request: null, timer: 0 };
    upload.row = summary.add(new Row(file, { cancel: () => cancel(upload), retry: () => again(upload) }));
    const limit = Number(form.dataset.maxBytes);
    if (file.size > limit) upload.row.failed("large", { size: size(limit) }, false);
    else if (!file.size) upload.row.failed("empty", {}, false);
    else line.push(upload);
  }
  next();
}

function next() {
  while (sending.size < AT_ONCE && line.length) {
    const upload = line.shift();
    sending.add(upload);
    send(upload);
  }
  summary.show();
}

function send(upload) {
  const request = new XMLHttpRequest();
  const query = new URLSearchParams(upload.options);
  query.set("name", upload.file.name);
  upload.request = request;
  upload.row.begin();
  request.upload.addEventListener("progress", (event) => upload.row.sent(event.loaded, performance.now()));
  request.upload.addEventListener("load", () => upload.row.say("ending"));
  request.addEventListener("load", () => answered(upload, request));
  request.addEventListener("error", () => broke(upload));
  request.open("POST", `/api/jobs?${query}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.send(upload.file);
}

function answered(upload, request) {
  if (request.status === 201) {
    const { id } = JSON.parse(request.responseText);
    end(upload);
    upload.row.done(id);
    refresh();
  } else if (AGAIN.has(request.status)) {
    const asked = Number(request.getResponseHeader("Retry-After"));
    later(upload, request.status === 507 ? "full" : "busy", asked);
  } else {
    fail(upload, "refused", { why: reason(request) });
  }
}

/** The connection broke: the file may be gone, or the server, or what lies between. */
async function broke(upload) {
  const isThere = await upload.file.slice(0, 1).arrayBuffer().then(() => true, () => false);
  if (!sending.has(upload)) return;
  if (isThere) later(upload, "again", 0);
  else fail(upload, "unreadable", {});
}

function later(upload, key, asked_s) {
  upload.tries += 1;
  const seconds = Math.max(asked_s, Math.min(MOST_S, PAUSE_S * 2 ** (upload.tries - 1)));
  if (upload.tries >= TRIES && key === "again") {
    fail(upload, "lost", {});
    return;
  }
  upload.row.say(key, { n: seconds });
  upload.timer = setTimeout(() => send(upload), seconds * 1000);
}

function fail(upload, key, values) {
  upload.row.failed(key, values);
  end(upload);
}

function again(upload) {
  upload.tries = 0;
  upload.row.wait();
  line.push(upload);
  next();
}

function cancel(upload) {
  const place = line.indexOf(upload);
  if (place >= 0) line.splice(place, 1);
  clearTimeout(upload.timer);
  upload.request?.abort();
  upload.row.cancelled();
  end(upload);
}

function cancelAll() {
  for (const upload of [...line, ...sending]) cancel(upload);
}

function end(upload) {
  sending.delete(upload);
  next();
}

function reason(request) {
  try {
    return JSON.parse(request.responseText).message;
  } catch {
    return `HTTP ${request.status}`;
  }
}
