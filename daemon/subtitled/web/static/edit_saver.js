// Saves an edit as it changes: to this browser at once, to the server after a pause. A conflict stops it; nothing is overwritten.
import { store, stored } from "./storage.js";
import { backupKey, trackQuery } from "./tracks.js";

const PAUSE_MS = 1500;
const RETRY_MS = 5000;
const BACKUP_PAUSE_MS = 300;

/** Return the edit of a track that this browser has and the server may lack: `version` and `cues`; null if there is none. */
export function unsavedEdit(job, track) {
  try {
    return JSON.parse(stored(backupKey(job, track)));
  } catch {
    return null;
  }
}

/** Dispatches "state" when `state` changes: "saved", "unsaved", "saving", "offline", "rejected" or "conflict". */
export class EditSaver extends EventTarget {
  state = "saved";
  cause = "";
  conflict = null; // the newer version of the server: `version`, `author` and `saved_ms`
  versions = [];
  #job;
  #track;
  #getCues;
  #getAuthor;
  #isChanged = false;
  #isDraft = false; // the server has the edit as a draft
  #timer = 0;
  #backupTimer = 0;
  #request = null;
  #session = crypto.getRandomValues(new Uint32Array(4)).join("-"); // a draft replaces only those of this page

  /** `version`: that of the cues; `getCues` and `getAuthor` return what to save. */
  constructor(job, track, version, getCues, getAuthor) {
    super();
    this.#job = job;
    this.#track = track;
    this.version = version;
    this.#getCues = getCues;
    this.#getAuthor = getAuthor;
    addEventListener("pagehide", () => this.#backup());
    addEventListener("online", () => this.#isChanged && this.save());
  }

  /** Save the edit soon. */
  changed() {
    this.#isChanged = true;
    clearTimeout(this.#backupTimer);
    this.#backupTimer = setTimeout(() => this.#backup(), BACKUP_PAUSE_MS);
    if (this.conflict) return;
    if (this.state !== "saving") this.#setState("unsaved");
    this.#saveAfter(PAUSE_MS);
  }

  /** Save the edit now, as a version of its own unless it is a draft; return whether everything is saved. */
  async save({ isDraft = true } = {}) {
    clearTimeout(this.#timer);
    await this.#request;
    if (this.conflict || !(this.#isChanged || (this.#isDraft && !isDraft))) return !this.conflict;
    this.#backup();
    this.#isChanged = false;
    this.#request = this.#put({ cues: saved(this.#getCues()), draft_session: isDraft ? this.#session : "" });
    return this.#request;
  }

  /** Save the edit on top of the newer version, which stays in the list of versions. */
  async keepMine() {
    this.version = this.conflict.version;
    this.conflict = null;
    this.#isChanged = true;
    return this.save({ isDraft: false });
  }

  /** Discard the edit that was not saved. */
  discard() {
    this.conflict = null;
    this.#isChanged = false;
    clearTimeout(this.#timer);
    clearTimeout(this.#backupTimer);
    store(backupKey(this.#job, this.#track), null);
    this.#setState("saved");
  }

  /** Save an earlier version again; return whether that was possible. */
  async restore(version) {
    if (!(await this.save())) return false;
    this.#request = this.#put({ restore: version });
    return this.#request;
  }

  /** Report a conflict with a newer version of the server; nothing is saved until the user has decided. */
  setConflict(newer) {
    this.conflict = newer;
    this.#setState("conflict");
  }

  async loadVersions() {
    const response = await fetch(`/api/jobs/${this.#job}/cues/versions${trackQuery(this.#track)}`);
    const body = await response.json();
    if (!response.ok) throw new Error(body.text ?? body.message);
    this.versions = body.versions;
  }

  async #put(edit) {
    this.#setState("saving");
    let [response, body] = [null, {}];
    try {
      response = await fetch(`/api/jobs/${this.#job}/cues${trackQuery(this.#track)}`, {
        method: "PUT",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ version: this.version, author: this.#getAuthor(), ...edit }),
      });
      body = await response.json();
    } catch {
      // offline, or the gateway restarts
    }
    if (response?.ok) {
      this.version = body.version;
      this.versions = body.versions;
      this.#isDraft = Boolean(edit.draft_session);
      if (!this.#isChanged) store(backupKey(this.#job, this.#track), null);
      this.#setState(this.#isChanged ? "unsaved" : "saved");
      return !this.#isChanged;
    }
    if ("cues" in edit) this.#isChanged = true;
    this.cause = body.text ?? body.message ?? "";
    if (body.code === "conflict") {
      this.versions = body.versions;
      this.setConflict(body.versions[0] ?? { version: 0, author: "", saved_ms: 0 });
    } else if (response && response.status < 500 && response.status !== 429) {
      this.#setState("rejected");
    } else {
      this.#setState("offline");
      this.#saveAfter(RETRY_MS);
    }
    return false;
  }

  #saveAfter(pause_ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.save(), pause_ms);
  }

  #backup() {
    clearTimeout(this.#backupTimer);
    if (!this.#isChanged) return;
    // Without room for it, the server saves it soon.
    store(backupKey(this.#job, this.#track), JSON.stringify({ version: this.version, cues: saved(this.#getCues()) }));
  }

  #setState(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

/** Return whether the server saves equal cues for both. */
export function areSameCues(one, other) {
  const [first, second] = [one, other].map((cues) =>
    JSON.stringify(saved(cues).map((cue) => [{ ...cue, lines: null }, cue.lines.map((line) => line.trim().replace(/\s+/g, " ")).filter(Boolean)])),
  );
  return first === second;
}

/** Return cues as the server saves them; those without text are left out. */
function saved(cues) {
  return cues
    .filter((cue) => cue.lines.some((line) => line.trim()))
    .map(({ start_ms, end_ms, lines, channel, is_accepted }) => ({ start_ms, end_ms, lines, channel, is_accepted }));
}
