// The waveform with its cues: a window that follows playback, or the whole file.

const PIXELS_PER_S = 20;
const MAX_PIXELS_PER_S = 320;
const EDGE_PX = 8; // distance at which an edge of a cue is grabbed
const MOVE_PX = 4; // a pointer that moves less has clicked
const BAR = { width: 2, gap: 1 };

export class Waveform {
  #canvas;
  #context;
  #isWindow;
  #peaks = null;
  #maxPeak = 1;
  #cues = [];
  #withoutText = [];
  #markers = [];
  #current = -1;
  #start_ms = 0;
  #position_ms = 0;
  #colours = {};
  #isDragging = false;
  #selected = -1;
  #edge = null; // the edge that is dragged
  #body = null; // the selected cue, while the pointer is down on it
  #pixelsPerS = PIXELS_PER_S;
  drag = null; // `onMove` and `onEnd` of an edge, while cues are edited
  #background = document.createElement("canvas");
  #cacheKey = ""; // what the cached background and bars show
  #bars = [];

  /** `isWindow`: show a window around the position, else the whole file; `onSeek` receives a position that the user selects. */
  constructor(canvas, length_ms, { isWindow, onSeek }) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.length_ms = Math.max(1, length_ms);
    this.#isWindow = isWindow;
    canvas.hidden = false;
    new ResizeObserver(() => this.#resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#readColours());
    canvas.addEventListener("wheel", (event) => this.#zoomByWheel(event), { passive: false });
    const timeOf = (event) => {
      const box = canvas.getBoundingClientRect();
      return this.#start_ms + ((event.clientX - box.left) / box.width) * this.#span_ms;
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.#isDragging = true;
      const ms = timeOf(event);
      this.#edge = this.#edgeAt(ms);
      const selected = this.#cues[this.#selected];
      const isBody = this.drag && !this.#edge && selected && ms > selected.start_ms && ms < selected.end_ms;
      this.#body = isBody ? { x: event.clientX, offset: ms - selected.start_ms, isMoved: false } : null;
      if (!this.#edge && !this.#body) onSeek(ms);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.drag) canvas.dataset.edge = (this.#edge ?? this.#edgeAt(timeOf(event))) ? "1" : "";
      if (!this.#isDragging) return;
      if (this.#body) {
        this.#body.isMoved ||= Math.abs(event.clientX - this.#body.x) > MOVE_PX;
        if (this.#body.isMoved) this.drag?.onMove(this.#selected, "both", timeOf(event) - this.#body.offset);
      } else if (this.#edge) this.drag?.onMove(this.#edge.index, this.#edge.name, Math.max(0, timeOf(event)));
      else onSeek(timeOf(event));
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        if (this.#edge || this.#body?.isMoved) this.drag?.onEnd();
        else if (this.drag && this.#isDragging && name === "pointerup") {
          if (this.#body) onSeek(timeOf(event));
          const index = this.#cues.findLastIndex((cue) => cue.start_ms <= timeOf(event) && timeOf(event) < cue.end_ms);
          if (index >= 0 && index !== this.#selected) this.drag.onSelect(index);
        }
        [this.#isDragging, this.#edge, this.#body] = [false, null, null];
      });
    }
  }

  /** Zoom with the wheel and Ctrl, as a pinch on a touchpad does. */
  #zoomByWheel(event) {
    if (!event.ctrlKey || !this.#isWindow) return;
    event.preventDefault();
    this.zoom(event.deltaY < 0 ? 1.25 : 0.8);
  }

  /** Highlight the cue that is edited, and show it; -1 for none. */
  setSelected(index) {
    this.#selected = index;
    this.#redraw();
  }

  /** Multiply the scale; 0 resets it. */
  zoom(factor) {
    this.#pixelsPerS = factor ? Math.max(PIXELS_PER_S / 2, Math.min(this.#pixelsPerS * factor, MAX_PIXELS_PER_S)) : PIXELS_PER_S;
    this.#start_ms = this.#position_ms - this.#span_ms / 2;
    this.#follow();
    this.#redraw();
  }

  /** Return the edge of a cue near a time, of the selected one first; null if there is none, or no cues are edited. */
  #edgeAt(ms) {
    if (!this.drag) return null;
    const reach_ms = (EDGE_PX / this.#canvas.clientWidth) * this.#span_ms;
    let nearest = null;
    this.#cues.forEach((cue, index) => {
      if (cue.end_ms < ms - reach_ms || cue.start_ms > ms + reach_ms) return;
      for (const name of ["start", "end"]) {
        const distance = Math.abs(cue[`${name}_ms`] - ms) - (index === this.#selected ? reach_ms : 0);
        if (Math.abs(cue[`${name}_ms`] - ms) <= reach_ms && (!nearest || distance < nearest.distance)) nearest = { index, name, distance };
      }
    });
    return nearest;
  }

  /** Whether the window shows the whole file. */
  get isWhole() {
    return this.#span_ms >= this.length_ms;
  }

  /** `peaks`: one byte for each `interval_ms`, starting at `offset_ms`. */
  setPeaks({ peaks, interval_ms, offset_ms }) {
    this.#peaks = { values: peaks, interval_ms, offset_ms };
    this.#maxPeak = peaks.reduce((most, value) => Math.max(most, value), 1);
    this.#redraw();
  }

  /** `withoutText`: stretches of speech that no cue covers; `markers`: times marked below the waveform. */
  setCues(cues, withoutText, markers) {
    this.#cues = cues;
    this.#withoutText = withoutText;
    this.#markers = markers;
    this.#redraw();
  }

  /** Show a position and the cue at it. */
  moveTo(position_ms, current) {
    this.#position_ms = position_ms;
    this.#current = current;
    if (!this.#isDragging) this.#follow();
    this.draw();
  }

  get #span_ms() {
    const span = (this.#canvas.clientWidth / this.#pixelsPerS) * 1000;
    // A file slightly longer than the window is shown whole: the second waveform would be the same.
    return this.#isWindow && span * 1.5 < this.length_ms ? Math.max(1, span) : this.length_ms;
  }

  #follow() {
    const span = this.#span_ms;
    if (this.#position_ms < this.#start_ms || this.#position_ms > this.#start_ms + span * 0.95) this.#start_ms = this.#position_ms - span * 0.1;
    this.#start_ms = Math.max(0, Math.min(this.#start_ms, this.length_ms - span));
  }

  #resize() {
    const scale = devicePixelRatio || 1;
    this.#canvas.width = this.#canvas.clientWidth * scale;
    this.#canvas.height = this.#canvas.clientHeight * scale;
    this.#context.setTransform(scale, 0, 0, scale, 0, 0);
    this.#follow();
    this.#readColours();
  }

  #readColours() {
    const style = getComputedStyle(this.#canvas);
    for (const name of ["accent", "soft", "line", "sunk", "text", "bad", "warn", "cue", "cue-now"]) {
      this.#colours[name] = style.getPropertyValue(`--${name}`);
    }
    this.#redraw();
  }

  /** Draw one frame. The parts that change only with the window are cached. */
  draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width || !this.#canvas.width || !this.#colours.text) return; // hidden, or shown just now
    const context = this.#context;
    const span = this.#span_ms;
    const x = (ms) => ((ms - this.#start_ms) / span) * width;
    const floor = this.#isWindow ? height - 16 : height;
    const cacheKey = `${this.#start_ms} ${span} ${width} ${height}`;
    if (this.#cacheKey !== cacheKey) {
      this.#cacheKey = cacheKey;
      this.#drawBackground(x, span, width, height, floor);
      this.#bars = this.#barHeights(span / width, width, floor - 12);
    }
    context.clearRect(0, 0, width, height);
    context.drawImage(this.#background, 0, 0, width, height);
    const cue = this.#cues[this.#current];
    if (cue) this.#block(context, x(cue.start_ms), x(cue.end_ms), floor, "cue-now");
    const selected = this.#cues[this.#selected];
    if (selected) {
      context.fillStyle = this.#colours.accent;
      for (const ms of [selected.start_ms, selected.end_ms]) context.fillRect(x(ms) - 1.5, 0, 3, floor);
    }
    const played = x(this.#position_ms);
    this.#bars.forEach((barHeight, index) => {
      const left = index * (BAR.width + BAR.gap);
      context.fillStyle = left < played ? this.#colours.accent : this.#colours.soft;
      context.fillRect(left, (floor - barHeight) / 2, BAR.width, barHeight);
    });
    context.fillStyle = this.#colours.text;
    context.fillRect(Math.min(Math.max(0, played - 1), width - 2), 0, 2, floor);
  }

  /** Draw what is below the bars: cues, speech without text, markers, times. */
  #drawBackground(x, span, width, height, floor) {
    this.#background.width = this.#canvas.width;
    this.#background.height = this.#canvas.height;
    const context = this.#background.getContext("2d");
    context.setTransform(this.#canvas.width / width, 0, 0, this.#canvas.height / height, 0, 0);
    const isVisible = (span) => x(span.end_ms) >= 0 && x(span.start_ms) <= width;
    const visible = this.#cues.filter(isVisible);
    // Cues narrower than this would merge into one grey area.
    if (visible.length * 4 < width) for (const cue of visible) this.#block(context, x(cue.start_ms), x(cue.end_ms), floor, "cue");
    context.globalAlpha = 0.35;
    for (const gap of this.#withoutText.filter(isVisible)) this.#block(context, x(gap.start_ms), x(gap.end_ms), floor, "bad");
    context.globalAlpha = 1;
    context.fillStyle = this.#colours.warn;
    const positions = new Set(this.#markers.map((ms) => Math.round(x(ms))));
    for (const position of positions) if (position >= 0 && position < width) context.fillRect(position, floor - 3, this.#isWindow ? 5 : 2, 3);
    if (this.#isWindow) this.#drawTimes(context, x, span, width, height);
  }

  #block(context, left, right, floor, colour) {
    context.fillStyle = this.#colours[colour];
    context.beginPath();
    context.roundRect(left, 0, Math.max(1, right - left), floor, this.#isWindow ? 4 : 0);
    context.fill();
  }

  /** Return the height of each bar. */
  #barHeights(ms_per_px, width, maxHeight) {
    if (!this.#peaks) return [];
    const { values, interval_ms, offset_ms } = this.#peaks;
    const step = BAR.width + BAR.gap;
    const peakIndex = (px) => Math.floor((this.#start_ms + px * ms_per_px - offset_ms) / interval_ms);
    const bars = [];
    for (let left = 0; left < width; left += step) {
      const [begin, end] = [peakIndex(left), Math.max(peakIndex(left) + 1, peakIndex(left + step))];
      let peak = 0;
      for (let index = Math.max(0, begin); index < Math.min(end, values.length); index++) peak = Math.max(peak, values[index]);
      bars.push(Math.max(1.5, (peak / this.#maxPeak) * maxHeight));
    }
    return bars;
  }

  #drawTimes(context, x, span, width, height) {
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300].find((s) => (s * 1000 * width) / span >= 70) ?? 600;
    context.fillStyle = this.#colours.soft;
    context.font = `11px ${getComputedStyle(this.#canvas).fontFamily}`;
    for (let s = Math.ceil(this.#start_ms / 1000 / step) * step; s * 1000 < this.#start_ms + span; s += step) {
      if (x(s * 1000) + 30 < width) context.fillText(clock(s * 1000), x(s * 1000), height - 3);
    }
  }

  /** Discard the cached parts and draw. */
  #redraw() {
    this.#cacheKey = "";
    this.draw();
  }
}

/** Format a position in a file: 1:05, 1:00:05. */
export function clock(ms) {
  const s = Math.floor(ms / 1000);
  const pad = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(s / 60);
  return minutes < 60 ? `${minutes}:${pad(s % 60)}` : `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${pad(s % 60)}`;
}
