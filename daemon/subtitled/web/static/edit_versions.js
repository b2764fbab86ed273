// The dialog of a job's saved versions: who saved them when, what differs, and restoring one.
import { errorText, message } from "./messages.js";
import { trackQuery } from "./tracks.js";
import { clock } from "./waveform.js";

const byId = (id) => document.getElementById(id);

export class CueVersionsDialog {
  #job;
  #track;
  #saver;
  #onRestore;

  /** `onRestore` receives the number of a version. */
  constructor(job, track, saver, onRestore) {
    this.#job = job;
    this.#track = track;
    this.#saver = saver;
    this.#onRestore = onRestore;
  }

  /** Save the edit, and show all versions. */
  async open() {
    byId("edit-versions").showModal();
    byId("edit-diff").replaceChildren();
    if (this.#saver.state !== "saved") await this.#saver.save();
    try {
      await this.#saver.loadVersions();
    } catch (error) {
      byId("edit-diff").textContent = error.message;
    }
    const original = { version: 0, author: "", saved_ms: 0 };
    byId("edit-version-list").replaceChildren(...[...this.#saver.versions, original].map((version) => this.#row(version)));
  }

  /** Show what differs between two versions. */
  async compare(before, after) {
    if (!byId("edit-versions").open) byId("edit-versions").showModal();
    const get = (from) => fetch(`/api/jobs/${this.#job}/cues/diff${trackQuery(this.#track, { before: from, after })}`);
    let response = await get(before);
    // A draft may have been replaced meanwhile.
    if (response.status === 404) response = await get(0);
    const body = await response.json();
    const title = element("h3", "", response.ok ? message("diff_title", { before: versionName(body.before), after: versionName(body.after) }) : errorText(body));
    const rows = (body.changes ?? []).map(changeRow);
    byId("edit-diff").replaceChildren(title, ...(rows.length ? rows : response.ok ? [element("p", "soft", message("no_changes"))] : []));
    byId("edit-diff").scrollIntoView({ block: "nearest" });
  }

  #row({ version, author, saved_ms, cues, restored }) {
    const row = element("li");
    const at = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
    const about = [author, saved_ms ? at.format(saved_ms) : "", restored === null || restored === undefined ? (saved_ms ? message("cues", { n: cues }) : "") : message("restored", { name: versionName(restored) })];
    row.append(element("span", "version", versionName(version)), element("span", "soft small", about.filter(Boolean).join(" · ")));
    const newest = this.#saver.versions[0]?.version ?? 0;
    const actions = element("span", "actions");
    if (version !== newest) {
      actions.append(
        button(message("compare"), () => this.compare(version, newest)),
        button(message("restore"), () => {
          byId("edit-versions").close();
          this.#onRestore(version);
        }),
      );
    } else actions.append(element("span", "soft small", message("newest")));
    row.append(actions);
    return row;
  }
}

function versionName(version) {
  return version ? message("version", { n: version }) : message("version_original");
}

/** Return a change as a row: time, removed and added text. */
function changeRow({ before, after, parts }) {
  const row = element("p", "change");
  const cue = after ?? before;
  row.append(element("span", "time", clock(cue.start_ms)), " ");
  const text = element("span");
  for (const { kind, text: part } of parts) text.append(element({ removed: "del", added: "ins" }[kind] ?? "span", "", part));
  if (before && after && (before.start_ms !== after.start_ms || before.end_ms !== after.end_ms)) {
    text.append(" ", element("span", "soft small", `${seconds(before)} → ${seconds(after)}`));
  }
  row.append(text);
  return row;
}

function seconds({ start_ms, end_ms }) {
  return `${(start_ms / 1000).toFixed(2)}–${(end_ms / 1000).toFixed(2)}`;
}

function button(text, onClick) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

function element(name, className = "", text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}
