// The picture of a job's file, which follows the audio: the file itself where the browser plays it, else segments that the server encodes.
import { errorText, message } from "./messages.js";
import { store, stored } from "./storage.js";

const AHEAD_MS = 12_000; // loaded before the position while it plays
const BEHIND = 6; // segments that are kept before the position
const KEPT = 16; // and after it
const SEEK_S = 0.35; // a larger difference to the audio is a seek, a smaller one is made up for by the speed
const STILL_S = 0.02;
const RETRY_MS = [500, 2000, 5000];
const FORMS = { h264: 'video/mp4; codecs="avc1.42c01e"', vp8: 'video/webm; codecs="vp8"' };

const HIDDEN_KEY = "subtitled.picture-off";

const byId = (id) => document.getElementById(id);

/** Show the picture of a job on the player's page; `facts`: as `GET /api/jobs/ID/video`. */
export function connectPicture(job, audio, facts) {
  const [button, screen, video] = ["show-picture", "screen-frame", "video"].map(byId);
  const fail = (cause) => {
    video.hidden = true;
    screen.classList.remove("has-picture");
    byId("picture-note").textContent = message("no_picture");
    byId("picture-cause").textContent = cause;
  };
  if (!facts.width) return fail(facts.cause);
  const picture = new Picture(video, job, audio, facts, fail);
  const show = (isShown) => {
    button.setAttribute("aria-pressed", String(isShown));
    video.hidden = !isShown;
    screen.classList.toggle("has-picture", isShown);
    picture.isShown = isShown;
  };
  screen.style.setProperty("--ratio", facts.width / facts.height);
  button.hidden = false;
  button.addEventListener("click", () => {
    store(HIDDEN_KEY, video.hidden ? null : "1");
    show(video.hidden);
  });
  show(stored(HIDDEN_KEY) === null);
}

class Picture {
  #video;
  #job;
  #audio;
  #onFailure;
  #facts;
  #isShown = false;
  #isStarted = false;
  #form = "";
  #buffer = null;
  #loaded = new Set();
  #isLoading = false;
  #failures = 0;

  /** `audio`: the AudioPlayer that the picture follows; `onFailure` receives the cause when the picture cannot be shown. */
  constructor(video, job, audio, facts, onFailure) {
    this.#video = video;
    this.#job = job;
    this.#audio = audio;
    this.#facts = facts;
    this.#onFailure = onFailure;
  }

  /** Whether the picture is shown; one that is not loads nothing. */
  set isShown(isShown) {
    this.#isShown = isShown;
    if (!isShown) this.#video.pause();
    else if (!this.#isStarted) this.#start();
    this.#follow();
  }

  #start() {
    this.#isStarted = true;
    this.#video.muted = true; // the audio is what was transcribed: another track perhaps, and mixed otherwise
    for (const name of ["loadeddata", "seeked", "canplay"]) this.#video.addEventListener(name, () => this.#follow());
    for (const name of ["move", "statechange"]) this.#audio.addEventListener(name, () => this.#follow());
    const { media_type } = this.#facts;
    if (media_type && this.#video.canPlayType(media_type)) this.#playOriginal();
    else this.#playSegments();
  }

  #playOriginal() {
    this.#video.addEventListener("error", () => this.#playSegments(), { once: true });
    this.#video.preload = "auto";
    this.#video.src = `/api/jobs/${this.#job}/video/original`;
  }

  #playSegments() {
    const Source = window.ManagedMediaSource ?? window.MediaSource;
    this.#form = Object.keys(FORMS).find((form) => Source?.isTypeSupported(FORMS[form])) ?? "";
    if (!this.#form) return this.#onFailure("");
    const source = new Source();
    this.#video.disableRemotePlayback = true; // a ManagedMediaSource requires it
    this.#video.src = URL.createObjectURL(source);
    source.addEventListener("sourceopen", () => {
      URL.revokeObjectURL(this.#video.src);
      source.duration = this.#audio.length_ms / 1000;
      this.#buffer = source.addSourceBuffer(FORMS[this.#form]);
      this.#follow();
    }, { once: true });
  }

  /** Bring the video to the position of the audio. */
  #follow() {
    if (!this.#isShown) return;
    this.#load();
    const [video, audio] = [this.#video, this.#audio];
    if (!video.readyState || video.seeking) return;
    const at = Math.min(audio.position_ms / 1000, video.duration - 0.05);
    const drift = at - video.currentTime;
    if (!audio.isPlaying) {
      if (!video.paused) video.pause();
      if (Math.abs(drift) > STILL_S) video.currentTime = at;
      return;
    }
    if (video.paused && video.currentTime < at + SEEK_S) video.play().catch(() => {});
    if (Math.abs(drift) > SEEK_S) video.currentTime = at;
    else video.playbackRate = audio.rate * Math.max(0.75, Math.min(1 + drift, 1.25));
  }

  /** Load the next segment that is missing, then the following ones. */
  async #load() {
    if (!this.#buffer || this.#isLoading) return;
    const number = this.#missing();
    if (number < 0) return;
    this.#isLoading = true;
    try {
      const response = await fetch(`/api/jobs/${this.#job}/video/segments/${number}?form=${this.#form}`);
      if (!response.ok) throw new Error(errorText(await response.json()));
      await this.#append(number, await response.arrayBuffer());
      this.#failures = 0;
    } catch (error) {
      if (this.#failures === RETRY_MS.length) {
        this.#buffer = null;
        return this.#onFailure(error.message);
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS[this.#failures++]));
    } finally {
      this.#isLoading = false;
    }
    this.#follow();
  }

  #missing() {
    const { position_ms, length_ms, isPlaying } = this.#audio;
    const last = Math.min(length_ms - 1, position_ms + (isPlaying ? AHEAD_MS : 0));
    for (let number = Math.floor(Math.min(position_ms, length_ms - 1) / this.#facts.segment_ms); number * this.#facts.segment_ms <= last; number++) {
      if (!this.#loaded.has(number)) return number;
    }
    return -1;
  }

  async #append(number, data) {
    const current = Math.floor(this.#audio.position_ms / this.#facts.segment_ms);
    for (const other of this.#loaded) {
      if (other >= current - BEHIND && other <= current + KEPT) continue;
      this.#loaded.delete(other);
      await this.#change((buffer) => buffer.remove((other * this.#facts.segment_ms) / 1000, ((other + 1) * this.#facts.segment_ms) / 1000));
    }
    await this.#change((buffer) => {
      // Each segment is a file of its own, whose times begin at 0.
      buffer.timestampOffset = (number * this.#facts.segment_ms) / 1000;
      buffer.appendBuffer(data);
    });
    this.#loaded.add(number);
  }

  #change(change) {
    return new Promise((resolve, reject) => {
      this.#buffer.addEventListener("updateend", resolve, { once: true });
      this.#buffer.addEventListener("error", () => reject(new Error("SourceBuffer")), { once: true });
      change(this.#buffer);
    });
  }
}
