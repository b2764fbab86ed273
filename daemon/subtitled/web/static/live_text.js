// The text of a job in progress: provisional cues, which appear as segments are transcribed.
import { clock } from "./waveform.js";

const part = document.getElementById("live-text");
const list = document.getElementById("live-cues");
const scroll = list?.parentElement;
const cues = new Map(); // by segment
const RETRY_MS = 5000;
let source = null;

/** Show provisional cues while the page is visible; the stream ends with the job. */
export function startLiveText() {
  document.addEventListener("visibilitychange", update);
  addEventListener("pagehide", close);
  update();
}

function update() {
  if (document.hidden) close();
  else if (!source) open();
}

function close() {
  source?.close();
  source = null;
}

function open() {
  source = new EventSource(`/api/jobs/${part.dataset.job}/events?text=true`);
  source.addEventListener("text", (event) => add(JSON.parse(event.data)));
  // The page reloads when the job has ended; a stream that ended would be opened again.
  source.addEventListener("end", () => source?.close());
  // The browser opens an interrupted stream again, but not one that was answered with an error.
  const failed = source;
  source.addEventListener("error", () => {
    if (failed.readyState !== EventSource.CLOSED) return;
    setTimeout(() => {
      if (source !== failed) return;
      source = null;
      update();
    }, RETRY_MS);
  });
}

function add({ segments, language, cues: added }) {
  const isAtEnd = scroll.scrollTop + scroll.clientHeight >= scroll.scrollHeight - 24;
  for (const segment of segments) {
    for (const item of cues.get(segment) ?? []) item.remove();
    cues.delete(segment);
  }
  if (language) list.lang = language;
  for (const cue of added) {
    const item = render(cue);
    cues.set(cue.segment, [...(cues.get(cue.segment) ?? []), item]);
    insert(item);
  }
  part.hidden = cues.size === 0;
  if (isAtEnd) scroll.scrollTop = scroll.scrollHeight;
}

/** Insert in order of time; most cues are later than all others. */
function insert(item) {
  let before = list.lastElementChild;
  while (before && Number(before.dataset.start) > Number(item.dataset.start)) before = before.previousElementSibling;
  if (before) before.after(item);
  else list.prepend(item);
}

function render({ start_ms, lines }) {
  const item = document.createElement("li");
  item.dataset.start = start_ms;
  const row = document.createElement("div");
  row.className = "cue";
  const text = document.createElement("span");
  text.className = "text";
  for (const line of lines) text.append(element("line", line));
  row.append(element("time", clock(start_ms)), text);
  item.append(row);
  return item;
}

function element(className, text) {
  const made = document.createElement("span");
  made.className = className;
  made.textContent = text;
  return made;
}
