// Playback of a job's audio; if its media is missing, only a position that can be moved.

/** Dispatches "move" when the position changes, "statechange" when playback starts or stops, "unavailable" on an error. */
export class AudioPlayer extends EventTarget {
  #audio;
  #pending_ms = 0; // position set before the audio has loaded
  #frame = 0;

  /** `isMissing`: there is no audio to play. */
  constructor(audio, length_ms, isMissing) {
    super();
    this.#audio = audio;
    this.length_ms = length_ms;
    this.isMissing = isMissing;
    audio.controls = false;
    audio.addEventListener("loadedmetadata", () => this.#onLoaded());
    for (const name of ["play", "pause", "ended"]) audio.addEventListener(name, () => this.#onStateChange());
    audio.addEventListener("seeked", () => this.#dispatch("move"));
    audio.addEventListener("error", () => this.#checkMissing(true));
  }

  /** Find out whether the audio is missing: the server checks too, but not for longer than a page may wait. */
  async check() {
    if (!this.isMissing) await this.#checkMissing(false);
  }

  get position_ms() {
    // Rounded: after a seek to the start of a cue, a browser may report some microseconds less.
    return this.#pending_ms ?? Math.min(Math.round(this.#audio.currentTime * 1000), this.length_ms);
  }

  get isPlaying() {
    return !this.#audio.paused && !this.#audio.ended;
  }

  seek(ms) {
    const position_ms = Math.max(0, Math.min(ms, this.length_ms));
    if (this.#audio.readyState) this.#audio.currentTime = position_ms / 1000;
    else this.#pending_ms = position_ms;
    this.#dispatch("move");
  }

  play() {
    if (this.isMissing || !this.length_ms) return; // gone, or not read yet
    if (this.position_ms >= this.length_ms - 20) this.seek(0);
    if (this.#audio.error) {
      this.#pending_ms = this.position_ms;
      this.#audio.load();
    }
    this.#audio.play().catch(() => {}); // reported by "error"
  }

  pause() {
    this.#audio.pause();
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  get rate() {
    return this.#audio.playbackRate;
  }

  set rate(factor) {
    this.#audio.defaultPlaybackRate = this.#audio.playbackRate = factor;
  }

  #onLoaded() {
    if (this.#pending_ms === null) return;
    if (this.#pending_ms) this.#audio.currentTime = this.#pending_ms / 1000;
    this.#pending_ms = null;
  }

  #onStateChange() {
    this.#dispatch("statechange");
    cancelAnimationFrame(this.#frame);
    const move = () => {
      this.#dispatch("move");
      if (this.isPlaying) this.#frame = requestAnimationFrame(move);
    };
    move();
  }

  /** Find out whether the audio is missing; after an error it may also be unavailable for the moment. */
  async #checkMissing(hasFailed) {
    const response = await fetch(this.#audio.src, { method: "HEAD" }).catch(() => null);
    this.isMissing = response?.status === 404;
    if (this.isMissing || hasFailed) this.#dispatch("unavailable");
  }

  #dispatch(name) {
    this.dispatchEvent(new Event(name));
  }
}
