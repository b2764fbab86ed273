// What is heard: an <audio>; where its media is gone, only a place in it that can be moved.

export class Sound extends EventTarget {
  #audio;
  #wanted = 0; // of a place that was asked for before there was any audio
  #frame = 0;

  /** `length_ms`: of the whole; `isGone`: there is nothing to hear. Tells "move" when the place changes, "turn" when it begins or stops, "gone" when it cannot be heard. */
  constructor(audio, length_ms, isGone) {
    super();
    this.#audio = audio;
    this.length_ms = length_ms;
    this.isGone = isGone;
    audio.controls = false;
    audio.addEventListener("loadedmetadata", () => this.#arrive());
    audio.addEventListener("play", () => this.#turn());
    audio.addEventListener("pause", () => this.#turn());
    audio.addEventListener("ended", () => this.#turn());
    audio.addEventListener("seeked", () => this.#tell("move"));
    audio.addEventListener("error", () => this.#ask());
  }

  get at_ms() {
    // Rounded: a browser that was sent to a cue's first moment may say that it is some microseconds before it.
    return this.#wanted ?? Math.min(Math.round(this.#audio.currentTime * 1000), this.length_ms);
  }

  get isPlaying() {
    return !this.#audio.paused && !this.#audio.ended;
  }

  seek(ms) {
    const at = Math.max(0, Math.min(ms, this.length_ms));
    if (this.#audio.readyState) this.#audio.currentTime = at / 1000;
    else this.#wanted = at;
    this.#tell("move");
  }

  play() {
    if (this.isGone) return;
    if (this.at_ms >= this.length_ms - 20) this.seek(0);
    if (this.#audio.error) {
      this.#wanted = this.at_ms;
      this.#audio.load();
    }
    this.#audio.play().catch(() => {}); // what went wrong is told by "error"
  }

  toggle() {
    if (this.isPlaying) this.#audio.pause();
    else this.play();
  }

  set rate(times) {
    this.#audio.defaultPlaybackRate = this.#audio.playbackRate = times;
  }

  #arrive() {
    if (this.#wanted === null) return;
    if (this.#wanted) this.#audio.currentTime = this.#wanted / 1000;
    this.#wanted = null;
  }

  #turn() {
    this.#tell("turn");
    cancelAnimationFrame(this.#frame);
    const move = () => {
      this.#tell("move");
      if (this.isPlaying) this.#frame = requestAnimationFrame(move);
    };
    move();
  }

  /** Find out whether what could not be had is gone for good. */
  async #ask() {
    const answer = await fetch(this.#audio.src, { method: "HEAD" }).catch(() => null);
    this.isGone = answer?.status === 404;
    this.#tell("gone");
  }

  #tell(name) {
    this.dispatchEvent(new Event(name));
  }
}
