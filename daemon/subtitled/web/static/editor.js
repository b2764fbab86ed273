// The editor of a job's cues, in place of the player's list. Loaded when a user begins to edit.
import { renderCue } from "./cue_list.js";
import { EditModel, figures, problems, searchPattern, snapped, withText } from "./edit_model.js";
import { areSameCues, EditSaver, unsavedEdit } from "./edit_saver.js";
import { CueVersionsDialog } from "./edit_versions.js";
import { addMessages, message } from "./messages.js";
import { store, stored } from "./storage.js";
import { fetchCues } from "./tracks.js";

const NUDGE_MS = 100;
const STATES = {
  saved: "state_saved",
  unsaved: "state_unsaved",
  saving: "state_saving",
  offline: "state_offline",
  rejected: "state_rejected",
  conflict: "state_conflict",
};
const AUTHOR_KEY = "subtitled.author";
const ANONYMOUS_KEY = "subtitled.anonymous";
const FULL_WIDTH = /^(zh|yue|ja|ko)\b/;
const byId = (id) => document.getElementById(id);

/** Return the editor of the player's job after it has loaded. `player`: what `startPlayer` offers it; `onReady` is called before. */
export async function openEditor(player, onReady) {
  const [page, body] = await Promise.all([fetch("/fragments/editor"), fetchCues(player.job, player.track)]);
  if (!page.ok) throw new Error(page.status);
  const holder = document.createElement("div");
  holder.innerHTML = await page.text();
  const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: holder.firstElementChild.dataset.style });
  await new Promise((resolve) => {
    style.onload = style.onerror = resolve;
    document.head.append(style);
  });
  addMessages(holder.firstElementChild);
  byId("scroll").after(holder.firstElementChild);
  onReady();
  return new Editor(player, body, style);
}

class Editor {
  #player;
  #model;
  #saver;
  #limits;
  #perChar;
  #language;
  #style;
  #rows = [];
  #selected = -1;
  #current = -1;
  #loopEnd_ms = null;
  #dialog;
  #listeners = new AbortController();

  constructor(player, response, style) {
    this.#player = player;
    this.#style = style;
    this.#limits = response.limits;
    this.#language = response.language ?? "";
    this.#perChar = FULL_WIDTH.test(this.#language) ? 2 : 1;
    this.#model = new EditModel(response.cues);
    const author = byId("edit-author");
    author.value = stored(AUTHOR_KEY) ?? "";
    author.addEventListener("change", () => store(AUTHOR_KEY, author.value.trim()));
    // Two users who give no name are distinguished by their browsers.
    const anonymous = message("anonymous", { n: anonymousNumber() });
    this.#saver = new EditSaver(player.job, player.track, response.version, () => this.#model.cues, () => author.value.trim() || anonymous);
    author.placeholder = anonymous;
    this.#saver.addEventListener("state", () => this.#showState());
    this.#dialog = new CueVersionsDialog(player.job, player.track, this.#saver, (version) => this.#restore(version));
    this.#model.addEventListener("change", ({ detail }) => this.#onChange(detail));
    for (const field of [byId("edit-text"), byId("edit-replacement"), byId("edit-search")]) field.lang = this.#language;
    this.#render();
    this.#listen();
    this.#showState();
    this.select(Math.max(0, this.indexBefore(player.audio.position_ms)));
    this.#restoreUnsaved(response);
  }

  // -- as the player's list --

  get cues() {
    return this.#model.cues;
  }

  indexBefore(ms) {
    let [low, high] = [0, this.cues.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.cues[middle].start_ms <= ms) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  moveTo(ms) {
    if (this.#loopEnd_ms !== null && ms >= this.#loopEnd_ms && this.#player.audio.isPlaying) {
      this.#loopEnd_ms = null;
      this.#player.audio.toggle();
    }
    const last = this.indexBefore(ms);
    const current = last >= 0 && ms < this.cues[last].end_ms ? last : -1;
    if (current !== this.#current) {
      this.#rows[this.#current]?.removeAttribute("aria-current");
      this.#rows[current]?.setAttribute("aria-current", "true");
      this.#current = current;
      const isTyping = byId("edit-form").contains(document.activeElement);
      if (current >= 0 && this.#player.audio.isPlaying && !isTyping) this.#scrollTo(current);
    }
    return current;
  }

  get selected() {
    return this.#selected;
  }

  follow() {}

  /** Show the text of the second language at the selected cue. */
  showSecond() {
    const [{ cues, language }, cue] = [this.#player.second, this.cues[this.#selected]];
    const overlapping = cues.filter((other) => cue && other.start_ms < cue.end_ms && other.end_ms > cue.start_ms);
    byId("edit-second").textContent = overlapping.map((other) => other.lines.join(" ")).join(" / ");
    byId("edit-second").lang = language;
  }

  /** Return the times of uncertain words. */
  markUncertain() {
    return this.cues.flatMap((cue) => (this.#uncertain(cue).length ? [cue.start_ms] : []));
  }

  // -- selection --

  /** Select a cue and show its form. */
  select(index, { isFocused = false } = {}) {
    const cue = this.cues[index];
    this.#model.endMerge();
    const form = byId("edit-form");
    this.#rows[this.#selected]?.classList.remove("selected");
    this.#selected = cue ? index : -1;
    form.hidden = !cue;
    if (!cue) return;
    const row = this.#rows[index];
    row.classList.add("selected");
    row.append(form);
    this.#fill();
    this.#scrollTo(index);
    this.#player.setSelected(index);
    if (isFocused) byId("edit-text").focus({ preventScroll: true });
  }

  #fill() {
    const cue = this.cues[this.#selected];
    if (!cue) return;
    const text = cue.lines.join("\n");
    if (byId("edit-text").value !== text) byId("edit-text").value = text;
    byId("edit-text").rows = Math.max(2, cue.lines.length);
    for (const [id, ms] of [["edit-start", cue.start_ms], ["edit-end", cue.end_ms]]) {
      if (document.activeElement !== byId(id)) byId(id).value = timeText(ms);
      byId(id).removeAttribute("aria-invalid");
    }
    this.showSecond();
    byId("edit-length").textContent = message("figures", figures(cue, this.#perChar));
    const found = this.#problems(this.#selected);
    byId("edit-problems").textContent = found.map(([key, values]) => message(key, values)).join(" ");
    byId("edit-accept").disabled = !this.#uncertain(cue).length;
    byId("edit-merge").disabled = !this.cues.some((other, at) => at > this.#selected && other.channel === cue.channel);
  }

  #scrollTo(index) {
    this.#rows[index]?.scrollIntoView({ block: "nearest", behavior: "instant" });
  }

  #next(find, step = 1) {
    const count = this.cues.length;
    for (let moved = 1; moved <= count; moved++) {
      const index = (((this.#selected + step * moved) % count) + count) % count;
      if (find(index)) return index;
    }
    return -1;
  }

  #go(index, isFocused = true) {
    if (index < 0) return;
    this.select(index, { isFocused });
    this.#player.audio.seek(this.cues[index].start_ms);
  }

  // -- rows --

  #render() {
    this.#rows = this.cues.map((_, index) => this.#row(index));
    byId("edit-list").replaceChildren(...this.#rows);
    byId("edit-list").lang = this.#language;
    this.#count();
  }

  #row(index) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "edit-row";
    row.append(button);
    this.#fillRow(row, index);
    return row;
  }

  #fillRow(row, index) {
    const cue = this.cues[index];
    const button = row.firstElementChild;
    const time = Object.assign(document.createElement("span"), { className: "time", textContent: timeText(cue.start_ms).replace(/\.\d+$/, "") });
    const text = Object.assign(document.createElement("span"), { className: "text" });
    const uncertain = new Set(this.#uncertain(cue));
    renderCue(text, cue, (word) => uncertain.has(word));
    const found = this.#problems(index);
    const mark = Object.assign(document.createElement("span"), { className: "problem", title: found.map(([key, values]) => message(key, values)).join(" ") });
    mark.textContent = found.length ? "⚠" : "";
    row.dataset.problem = found.length ? "1" : "";
    button.replaceChildren(time, text, mark);
  }

  #onChange({ at, removed, added }) {
    const form = byId("edit-form");
    if (removed === added) {
      for (let index = at; index < at + added; index++) this.#fillRow(this.#rows[index], index);
    } else {
      if (this.#rows.slice(at, at + removed).some((row) => row.contains(form))) byId("editor").append(form);
      this.#rows.slice(at, at + removed).forEach((row) => row.remove());
      const rows = Array.from({ length: added }, (_, offset) => this.#row(at + offset));
      const before = this.#rows[at + removed];
      this.#rows = [...this.#rows.slice(0, at), ...rows, ...this.#rows.slice(at + removed)];
      const list = byId("edit-list");
      for (const row of rows) list.insertBefore(row, before ?? null);
    }
    // The cue before may overlap now, or not any more.
    if (at > 0) this.#fillRow(this.#rows[at - 1], at - 1);
    this.#count();
    this.#fill();
    this.#saver.changed();
    this.#player.cuesChanged();
  }

  #count() {
    const wrong = this.#rows.reduce((sum, row) => sum + (row.dataset.problem ? 1 : 0), 0);
    byId("count").textContent = message("cues", { n: this.cues.length });
    byId("edit-next-problem").textContent = message("problems", { n: wrong });
    byId("edit-next-problem").disabled = !wrong;
    byId("edit-undo").disabled = !this.#model.canUndo;
    byId("edit-redo").disabled = !this.#model.canRedo;
    byId("edit-empty").hidden = this.cues.length > 0;
  }

  #uncertain(cue) {
    const threshold = Number(byId("threshold").value) / 100;
    return cue.is_accepted ? [] : cue.words.filter((word) => (word.probability ?? cue.confidence) < threshold);
  }

  #problems(index) {
    const cue = this.cues[index];
    const next = this.cues.slice(index + 1, index + 4).find((other) => other.channel === cue.channel);
    return problems(cue, next, this.#limits, this.#perChar);
  }

  // -- commands --

  #commands() {
    const on = (change) => () => this.#selected >= 0 && this.select(change(this.#selected), { isFocused: true });
    const nudge = (start, end) => () => this.#move(start, end);
    return {
      undo: () => this.#undo(() => this.#model.undo()),
      redo: () => this.#undo(() => this.#model.redo()),
      split: on((index) => this.#model.split(index, byId("edit-text").selectionStart)),
      merge: on((index) => this.#model.merge(index)),
      remove: on((index) => this.#model.remove(index)),
      insert: () => this.select(this.#model.insert(this.#selected), { isFocused: true }),
      snap: () => this.#snap(),
      accept: () => this.#accept(),
      "next-uncertain": () => this.#go(this.#next((index) => this.#uncertain(this.cues[index]).length)),
      "next-problem": () => this.#go(this.#next((index) => this.#rows[index].dataset.problem)),
      next: () => this.#go(Math.min(this.#selected + 1, this.cues.length - 1)),
      previous: () => this.#go(Math.max(this.#selected - 1, 0)),
      play: () => this.#player.audio.toggle(),
      "play-cue": () => this.#playCue(),
      "start-here": () => this.#setEdges(this.#player.audio.position_ms, null),
      "end-here": () => this.#setEdges(null, this.#player.audio.position_ms),
      "start-earlier": nudge(-NUDGE_MS, 0),
      "start-later": nudge(NUDGE_MS, 0),
      "end-earlier": nudge(0, -NUDGE_MS),
      "end-later": nudge(0, NUDGE_MS),
      earlier: nudge(-NUDGE_MS, -NUDGE_MS),
      later: nudge(NUDGE_MS, NUDGE_MS),
      loop: () => this.#player.toggleLoop(),
      slower: () => this.#player.changeRate(-1),
      faster: () => this.#player.changeRate(1),
      find: () => this.#toggle("edit-find", "edit-search"),
      shift: () => this.#toggle("edit-shift", "edit-shift-by"),
      versions: () => this.#dialog.open(),
      keys: () => byId("edit-keys").showModal(),
      save: () => this.#saver.save({ isDraft: false }),
      "zoom-in": () => this.#player.zoom(2),
      "zoom-out": () => this.#player.zoom(0.5),
      done: () => this.#close(),
    };
  }

  #undo(step) {
    const index = step();
    if (index >= 0) this.select(index, { isFocused: byId("editor").contains(document.activeElement) });
  }

  #setEdges(start_ms, end_ms, merge = "") {
    const cue = this.cues[this.#selected];
    if (!cue) return;
    const start = start_ms ?? Math.min(cue.start_ms, (end_ms ?? Infinity) - 100);
    const end = end_ms ?? Math.max(cue.end_ms, start + 100);
    if (end <= start || start < 0) return;
    const index = this.#model.setTimes(this.#selected, start, end, merge);
    if (index !== this.#selected) this.select(index, { isFocused: true });
  }

  #move(start, end) {
    const cue = this.cues[this.#selected];
    if (cue) this.#setEdges(cue.start_ms + start, cue.end_ms + end, "nudge");
  }

  #snap() {
    const [cue, peaks] = [this.cues[this.#selected], this.#player.peaks];
    if (!cue || !peaks) return;
    const neighbours = { previous_ms: this.cues[this.#selected - 1]?.end_ms ?? 0, next_ms: this.cues[this.#selected + 1]?.start_ms ?? Infinity };
    // A cue that overlaps already may stay so.
    const previous_ms = Math.min(neighbours.previous_ms, cue.start_ms);
    const next_ms = Math.max(neighbours.next_ms, cue.end_ms);
    const { start_ms, end_ms } = snapped(cue, peaks, { previous_ms, next_ms });
    if (start_ms !== cue.start_ms || end_ms !== cue.end_ms) this.#setEdges(start_ms, end_ms);
  }

  #accept() {
    if (this.#selected < 0) return;
    if (this.#uncertain(this.cues[this.#selected]).length) this.#model.accept(this.#selected);
    this.#commands()["next-uncertain"]();
  }

  #playCue() {
    const cue = this.cues[this.#selected];
    if (!cue) return;
    this.#player.audio.seek(cue.start_ms);
    this.#loopEnd_ms = cue.end_ms;
    this.#player.audio.play();
  }

  // -- find, replace, shift --

  #pattern() {
    return searchPattern(byId("edit-search").value, byId("edit-case").checked);
  }

  #find(step = 1) {
    const pattern = this.#pattern();
    if (!pattern) return;
    // Within the selected cue, after the selection, first.
    const field = byId("edit-text");
    pattern.lastIndex = step > 0 && this.#selected >= 0 && field === this.#lastField ? field.selectionEnd : 0;
    const here = step > 0 && this.#selected >= 0 ? pattern.exec(this.cues[this.#selected].lines.join("\n")) : null;
    if (here && field === this.#lastField) return this.#mark(here);
    const index = this.#next((at) => this.cues[at].lines.join("\n").search(pattern) >= 0, step);
    if (index < 0) return;
    this.#go(index, false);
    pattern.lastIndex = 0;
    this.#mark(pattern.exec(this.cues[index].lines.join("\n")));
  }

  #lastField = null;

  #mark(found) {
    const field = byId("edit-text");
    this.#lastField = field;
    field.focus({ preventScroll: true });
    field.setSelectionRange(found.index, found.index + found[0].length);
  }

  #replace() {
    const [pattern, field] = [this.#pattern(), byId("edit-text")];
    if (!pattern || this.#selected < 0) return;
    const chosen = field.value.slice(field.selectionStart, field.selectionEnd);
    if (chosen && chosen.replace(pattern, "") === "") {
      this.#model.endMerge();
      const end = field.selectionStart + byId("edit-replacement").value.length;
      this.#model.setText(this.#selected, field.value.slice(0, field.selectionStart) + byId("edit-replacement").value + field.value.slice(field.selectionEnd));
      this.#model.endMerge();
      field.setSelectionRange(end, end);
    }
    this.#find();
  }

  #replaceAll() {
    const pattern = this.#pattern();
    if (!pattern) return;
    this.#model.endMerge();
    const n = this.#model.replaceAll(pattern, byId("edit-replacement").value);
    this.#model.endMerge();
    byId("edit-found").textContent = message("replaced", { n });
  }

  #countFound() {
    const pattern = this.#pattern();
    const n = pattern ? this.cues.reduce((sum, cue) => sum + (cue.lines.join("\n").match(pattern)?.length ?? 0), 0) : 0;
    byId("edit-found").textContent = pattern ? message("found", { n }) : "";
    this.#lastField = null;
  }

  #shift() {
    const seconds = Number(byId("edit-shift-by").value || 0);
    const factor = Number(byId("edit-stretch").value || 1);
    if (!Number.isFinite(seconds) || !(factor > 0)) return;
    const from = byId("edit-shift-scope").value === "rest" ? Math.max(0, this.#selected) : 0;
    this.#model.endMerge();
    this.select(this.#model.shift(from, Math.round(seconds * 1000), factor));
    byId("edit-shift-by").value = "0";
    byId("edit-stretch").value = "1";
  }

  #toggle(id, field) {
    byId(id).hidden = !byId(id).hidden;
    for (const other of ["edit-find", "edit-shift"]) if (other !== id) byId(other).hidden = true;
    if (!byId(id).hidden) byId(field).select();
    else if (this.#selected >= 0) byId("edit-text").focus({ preventScroll: true });
  }

  // -- events --

  #listen() {
    const { signal } = this.#listeners;
    const editor = byId("editor");
    const commands = this.#commands();
    const listen = (target, name, call) => target.addEventListener(name, call, { signal });
    listen(editor, "click", ({ target }) => {
      const command = target.closest("[data-command]")?.dataset.command;
      if (command) return commands[command]?.();
      const index = this.#rows.indexOf(target.closest("li"));
      if (index < 0 || !target.closest(".edit-row")) return;
      this.select(index, { isFocused: true });
      if (!this.#player.audio.isPlaying) this.#player.audio.seek(this.cues[index].start_ms);
    });
    listen(document, "keydown", (event) => {
      const command = commandOf(event);
      if (!command || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      commands[command]();
    });
    listen(byId("edit-text"), "input", () => this.#selected >= 0 && this.#model.setText(this.#selected, byId("edit-text").value));
    listen(byId("edit-text"), "keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      this.#rows[this.#selected]?.firstElementChild.focus();
    });
    listen(byId("edit-list"), "keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !event.target.classList.contains("edit-row") || event.altKey) return;
      event.preventDefault();
      const index = Math.max(0, Math.min(this.cues.length - 1, this.#rows.indexOf(event.target.closest("li")) + step));
      this.select(index);
      this.#rows[index].firstElementChild.focus();
    });
    for (const [id, edge] of [["edit-start", 0], ["edit-end", 1]]) {
      listen(byId(id), "change", ({ target }) => {
        const ms = parseTime(target.value);
        const cue = this.cues[this.#selected];
        const isValid = ms !== null && cue && (edge ? ms > cue.start_ms : ms < cue.end_ms);
        target.setAttribute("aria-invalid", String(!isValid));
        if (isValid) this.#setEdges(edge ? null : ms, edge ? ms : null);
      });
      listen(byId(id), "keydown", (event) => {
        const step = { ArrowUp: NUDGE_MS, ArrowDown: -NUDGE_MS }[event.key];
        if (!step || event.altKey) return;
        event.preventDefault();
        this.#move(edge ? 0 : step, edge ? step : 0);
        const cue = this.cues[this.#selected];
        event.target.value = timeText(edge ? cue.end_ms : cue.start_ms);
      });
    }
    for (const id of ["edit-search", "edit-case"]) listen(byId(id), "input", () => this.#countFound());
    listen(byId("edit-find"), "submit", (event) => {
      event.preventDefault();
      ({ next: () => this.#find(), one: () => this.#replace(), all: () => this.#replaceAll() })[event.submitter?.value ?? "next"]();
    });
    listen(byId("edit-shift"), "submit", (event) => {
      event.preventDefault();
      this.#shift();
    });
    listen(byId("edit-conflict"), "click", ({ target }) => {
      const choice = target.closest("button")?.value;
      if (choice === "theirs") this.#reload();
      if (choice === "mine") this.#saver.keepMine();
      if (choice === "compare") this.#dialog.compare(this.#saver.version, this.#saver.conflict.version);
    });
    listen(byId("threshold"), "input", () => this.#rows.forEach((row, index) => this.#fillRow(row, index)));
    this.#player.onDrag((index, edge, ms) => {
      const cue = this.cues[index];
      if (this.#selected !== index) this.select(index);
      const times = {
        start: [Math.min(ms, cue.end_ms - 100), cue.end_ms],
        end: [cue.start_ms, Math.max(ms, cue.start_ms + 100)],
        both: [ms, ms + cue.end_ms - cue.start_ms],
      }[edge];
      // Not beyond the start of its neighbours: the order stays.
      const first = this.cues[index - 1]?.start_ms ?? 0;
      const last = this.cues[index + 1]?.start_ms ?? Infinity;
      const start = Math.max(first, Math.min(times[0], last));
      this.#model.setTimes(index, start, edge === "both" ? times[1] + start - times[0] : times[1], "drag");
    }, () => this.#model.endMerge(), (index) => this.select(index));
  }

  // -- saving --

  #showState() {
    const { state, cause, conflict, version } = this.#saver;
    byId("edit-state").dataset.state = state;
    const text = state === "saved" && !version ? "state_original" : STATES[state];
    byId("edit-state").textContent = message(text, { n: version, cause });
    byId("edit-conflict").hidden = state !== "conflict";
    if (state === "conflict") {
      const at = conflict.saved_ms ? new Date(conflict.saved_ms).toLocaleTimeString(document.documentElement.lang) : "";
      byId("edit-conflict-text").textContent = message("conflict", { n: conflict.version, author: conflict.author || message("another_user"), at });
    }
  }

  /** Apply an edit that this browser has and the server lacks; if the server has a newer version, show a conflict. */
  #restoreUnsaved({ version, author, saved_ms }) {
    const unsaved = unsavedEdit(this.#player.job, this.#player.track);
    if (!unsaved) return;
    // The page was closed before the answer to its last save.
    if (areSameCues(unsaved.cues, this.cues)) return this.#saver.discard();
    const known = new Map(this.cues.map((cue) => [`${cue.start_ms} ${cue.end_ms} ${cue.channel}`, cue]));
    const restored = unsaved.cues.map((cue) => {
      const old = known.get(`${cue.start_ms} ${cue.end_ms} ${cue.channel}`);
      const whole = withText(old ?? { lines: [""], words: [], confidence: 1, ...cue }, cue.lines.join("\n"));
      return { ...whole, ...cue };
    });
    if (unsaved.version !== version) {
      this.#saver.version = unsaved.version;
      this.#saver.setConflict({ version, author, saved_ms });
    }
    this.#model.replaceCues(restored);
    this.select(Math.max(0, Math.min(this.#selected, this.cues.length - 1)));
  }

  async #restore(version) {
    if (await this.#saver.restore(version)) await this.#reload();
  }

  /** Show the newest version of the server and discard the edit; this can be undone too. */
  async #reload() {
    let body;
    try {
      body = await fetchCues(this.#player.job, this.#player.track);
    } catch (error) {
      byId("edit-state").textContent = message("failed", { cause: error.message });
      return;
    }
    this.#saver.version = body.version;
    this.#model.replaceCues(body.cues);
    this.#saver.discard();
    this.select(Math.max(0, Math.min(this.#selected, this.cues.length - 1)));
  }

  async #close() {
    if (!(await this.#saver.save({ isDraft: false }))) return;
    this.#listeners.abort();
    byId("editor").remove();
    this.#style.remove();
    this.#player.editorClosed();
  }
}

/** Return a number of this browser, which stays the same. */
function anonymousNumber() {
  const number = stored(ANONYMOUS_KEY) ?? String(1000 + (crypto.getRandomValues(new Uint32Array(1))[0] % 9000));
  store(ANONYMOUS_KEY, number);
  return number;
}

const ALT_KEYS = {
  Enter: "split",
  NumpadEnter: "split",
  KeyM: "merge",
  KeyI: "insert",
  Delete: "remove",
  Backspace: "remove",
  KeyS: "snap",
  KeyU: "next-uncertain",
  KeyA: "accept",
  KeyW: "next-problem",
  ArrowDown: "next",
  ArrowUp: "previous",
  KeyP: "play",
  KeyR: "play-cue",
  BracketLeft: "start-here",
  BracketRight: "end-here",
  ArrowLeft: "start-earlier",
  ArrowRight: "start-later",
  Comma: "earlier",
  Period: "later",
  KeyL: "loop",
  Equal: "zoom-in",
  NumpadAdd: "zoom-in",
  Minus: "zoom-out",
  NumpadSubtract: "zoom-out",
};
const ALT_SHIFT_KEYS = { ArrowLeft: "end-earlier", ArrowRight: "end-later", Comma: "slower", Period: "faster", Equal: "zoom-in" };
const CONTROL_KEYS = { KeyZ: "undo", KeyY: "redo", KeyF: "find", KeyH: "find", KeyS: "save" };

/** Return the command of a key; by the key's place, as Alt types other letters on some keyboards. */
function commandOf(event) {
  if (event.isComposing) return undefined;
  if ((event.ctrlKey || event.metaKey) && !event.altKey) return event.shiftKey ? { KeyZ: "redo" }[event.code] : CONTROL_KEYS[event.code];
  if (event.altKey && !event.ctrlKey && !event.metaKey) return (event.shiftKey ? ALT_SHIFT_KEYS : ALT_KEYS)[event.code];
  const isEnabled = byId("keys-enabled").checked && !event.target.closest("input, textarea, select");
  return event.key === "?" && isEnabled ? "keys" : undefined;
}

/** Format a time to the millisecond: 1:05.250, 1:00:05.250. */
export function timeText(ms) {
  const pad = (n, digits = 2) => String(n).padStart(digits, "0");
  const minutes = Math.floor(ms / 60_000);
  const hours = Math.floor(minutes / 60);
  const rest = `${pad(Math.floor(ms / 1000) % 60)}.${pad(ms % 1000, 3)}`;
  return hours ? `${hours}:${pad(minutes % 60)}:${rest}` : `${minutes}:${rest}`;
}

/** Parse a time such as 1:00:05.250, 65.25 or 1:05,25; null if it is none. */
export function parseTime(text) {
  const found = /^\s*(?:(?:(\d+):)?(\d+):)?(\d+)(?:[.,](\d{1,3}))?\s*$/.exec(text);
  if (!found) return null;
  const [hours, minutes, seconds] = found.slice(1, 4).map((part) => Number(part ?? 0));
  return ((hours * 60 + minutes) * 60 + seconds) * 1000 + Number((found[4] ?? "0").padEnd(3, "0"));
}
