// The provisional cues of a job in progress, received as its segments are transcribed.

const RETRY_MS = 5000;

/** Pass the cues so far and their language to `onCues` whenever they change, while the page is visible; return a function that ends it. */
export function followText(job, onCues) {
  const segments = new Map();
  let source = null;
  let language = "";

  function add(data) {
    language = data.language ?? language;
    for (const segment of data.segments) segments.delete(segment);
    for (const cue of data.cues) {
      const known = segments.get(cue.segment) ?? [];
      segments.set(cue.segment, [...known, { ...cue, words: [], confidence: 1 }]);
    }
    const cues = [...segments.values()].flat();
    onCues(cues.sort((one, other) => one.start_ms - other.start_ms), language);
  }

  function open() {
    const opened = (source = new EventSource(`/api/jobs/${job}/events?text=true`));
    opened.addEventListener("text", (event) => add(JSON.parse(event.data)));
    // A stream that ended would be opened again.
    opened.addEventListener("end", () => opened.close());
    // The browser opens an interrupted stream again, but not one that was answered with an error.
    opened.addEventListener("error", () => {
      if (opened.readyState !== EventSource.CLOSED) return;
      setTimeout(() => {
        if (source !== opened) return;
        source = null;
        update();
      }, RETRY_MS);
    });
  }

  function close() {
    source?.close();
    source = null;
  }

  function update() {
    if (document.hidden) close();
    else if (!source) open();
  }

  document.addEventListener("visibilitychange", update);
  addEventListener("pagehide", close);
  update();
  return () => {
    document.removeEventListener("visibilitychange", update);
    close();
  };
}
