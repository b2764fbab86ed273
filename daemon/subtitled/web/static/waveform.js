// How loud the audio is, with the cues in it: a window of it that goes along, or the whole.

const PIXELS_PER_S = 20;
const BAR = { wide: 2, apart: 1 };

export class Wave {
  #canvas;
  #context;
  #goesAlong;
  #peaks = null;
  #loudest = 1;
  #cues = [];
  #missing = [];
  #marks = [];
  #current = -1;
  #from_ms = 0;
  #at_ms = 0;
  #colours = {};
  #isHeld = false;
  #ground = document.createElement("canvas");
  #kept = ""; // what the picture of the ground, and the bars, are of
  #bars = [];

  /** `goesAlong`: shows a window around the place, else the whole; `onSeek` is told where somebody points. */
  constructor(canvas, length_ms, { goesAlong, onSeek }) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.length_ms = Math.max(1, length_ms);
    this.#goesAlong = goesAlong;
    canvas.hidden = false;
    new ResizeObserver(() => this.#resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      onSeek(this.#from_ms + ((event.clientX - box.left) / box.width) * this.#span_ms);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.#isHeld = true;
      point(event);
    });
    canvas.addEventListener("pointermove", (event) => this.#isHeld && point(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (this.#isHeld = false));
  }

  /** Whether a window of it holds all there is. */
  get isWhole() {
    return this.#span_ms >= this.length_ms;
  }

  /** `peaks`: a byte for each `interval_ms` from `offset_ms` on. */
  hear({ peaks, interval_ms, offset_ms }) {
    this.#peaks = { values: peaks, interval_ms, offset_ms };
    this.#loudest = peaks.reduce((most, value) => Math.max(most, value), 1);
    this.#redraw();
  }

  /** `marks`: times to be seen below. */
  read(cues, missing, marks) {
    this.#cues = cues;
    this.#missing = missing;
    this.#marks = marks;
    this.#redraw();
  }

  /** Show a place, and the cue that is shown there. */
  move(at_ms, current) {
    this.#at_ms = at_ms;
    this.#current = current;
    if (!this.#isHeld) this.#follow();
    this.draw();
  }

  get #span_ms() {
    const span = (this.#canvas.clientWidth / PIXELS_PER_S) * 1000;
    // What is hardly longer than the window is shown whole: a second strip for it would say nothing.
    return this.#goesAlong && span * 1.5 < this.length_ms ? Math.max(1, span) : this.length_ms;
  }

  #follow() {
    const span = this.#span_ms;
    if (this.#at_ms < this.#from_ms || this.#at_ms > this.#from_ms + span * 0.95) this.#from_ms = this.#at_ms - span * 0.1;
    this.#from_ms = Math.max(0, Math.min(this.#from_ms, this.length_ms - span));
  }

  #resize() {
    const scale = devicePixelRatio || 1;
    this.#canvas.width = this.#canvas.clientWidth * scale;
    this.#canvas.height = this.#canvas.clientHeight * scale;
    this.#context.setTransform(scale, 0, 0, scale, 0, 0);
    this.#follow();
    this.#paint();
  }

  #paint() {
    const style = getComputedStyle(this.#canvas);
    for (const name of ["accent", "soft", "line", "sunk", "text", "bad", "warn", "cue", "cue-now"]) {
      this.#colours[name] = style.getPropertyValue(`--${name}`);
    }
    this.#redraw();
  }

  /** Show it as it is now. What only changes with the window is kept as a picture: this is called for each frame. */
  draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width || !this.#colours.text) return;
    const context = this.#context;
    const span = this.#span_ms;
    const x = (ms) => ((ms - this.#from_ms) / span) * width;
    const floor = this.#goesAlong ? height - 16 : height;
    const kept = `${this.#from_ms} ${span} ${width} ${height}`;
    if (this.#kept !== kept) {
      this.#kept = kept;
      this.#drawGround(x, span, width, height, floor);
      this.#bars = this.#measure(span / width, width, floor - 12);
    }
    context.clearRect(0, 0, width, height);
    context.drawImage(this.#ground, 0, 0, width, height);
    const cue = this.#cues[this.#current];
    if (cue) this.#block(context, x(cue.start_ms), x(cue.end_ms), floor, "cue-now");
    const played = x(this.#at_ms);
    this.#bars.forEach((tall, index) => {
      const left = index * (BAR.wide + BAR.apart);
      context.fillStyle = left < played ? this.#colours.accent : this.#colours.soft;
      context.fillRect(left, (floor - tall) / 2, BAR.wide, tall);
    });
    context.fillStyle = this.#colours.text;
    context.fillRect(Math.min(Math.max(0, played - 1), width - 2), 0, 2, floor);
  }

  /** Draw what lies under the bars: cues, speech without text, marks, times. */
  #drawGround(x, span, width, height, floor) {
    this.#ground.width = this.#canvas.width;
    this.#ground.height = this.#canvas.height;
    const context = this.#ground.getContext("2d");
    context.setTransform(this.#canvas.width / width, 0, 0, this.#canvas.height / height, 0, 0);
    const isSeen = (one) => x(one.end_ms) >= 0 && x(one.start_ms) <= width;
    const seen = this.#cues.filter(isSeen);
    // Where they are narrower than their gaps can be drawn, they would be one grey field.
    if (seen.length * 4 < width) for (const cue of seen) this.#block(context, x(cue.start_ms), x(cue.end_ms), floor, "cue");
    context.globalAlpha = 0.35;
    for (const gap of this.#missing.filter(isSeen)) this.#block(context, x(gap.start_ms), x(gap.end_ms), floor, "bad");
    context.globalAlpha = 1;
    context.fillStyle = this.#colours.warn;
    const places = new Set(this.#marks.map((ms) => Math.round(x(ms))));
    for (const place of places) if (place >= 0 && place < width) context.fillRect(place, floor - 3, this.#goesAlong ? 5 : 2, 3);
    if (this.#goesAlong) this.#drawTimes(context, x, span, width, height);
  }

  #block(context, left, right, floor, colour) {
    context.fillStyle = this.#colours[colour];
    context.beginPath();
    context.roundRect(left, 0, Math.max(1, right - left), floor, this.#goesAlong ? 4 : 0);
    context.fill();
  }

  /** Return how tall each bar is. */
  #measure(ms_per_px, width, most) {
    if (!this.#peaks) return [];
    const { values, interval_ms, offset_ms } = this.#peaks;
    const step = BAR.wide + BAR.apart;
    const place = (px) => Math.floor((this.#from_ms + px * ms_per_px - offset_ms) / interval_ms);
    const bars = [];
    for (let left = 0; left < width; left += step) {
      const [begin, end] = [place(left), Math.max(place(left) + 1, place(left + step))];
      let loudest = 0;
      for (let index = Math.max(0, begin); index < Math.min(end, values.length); index++) loudest = Math.max(loudest, values[index]);
      bars.push(Math.max(1.5, (loudest / this.#loudest) * most));
    }
    return bars;
  }

  #drawTimes(context, x, span, width, height) {
    const apart = [1, 2, 5, 10, 15, 30, 60, 120, 300].find((s) => (s * 1000 * width) / span >= 70) ?? 600;
    context.fillStyle = this.#colours.soft;
    context.font = `11px ${getComputedStyle(this.#canvas).fontFamily}`;
    for (let s = Math.ceil(this.#from_ms / 1000 / apart) * apart; s * 1000 < this.#from_ms + span; s += apart) {
      if (x(s * 1000) + 30 < width) context.fillText(clock(s * 1000), x(s * 1000), height - 3);
    }
  }

  /** Forget the kept picture: something in it has changed. */
  #redraw() {
    this.#kept = "";
    this.draw();
  }
}

/** Return a place in a file, as players show it: 1:05, 1:00:05. */
export function clock(ms) {
  const s = Math.floor(ms / 1000);
  const two = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(s / 60);
  return minutes < 60 ? `${minutes}:${two(s % 60)}` : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(s % 60)}`;
}
