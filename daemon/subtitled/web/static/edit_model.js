// The model of an edit, without a page: cues in order of their start, and changes that can be undone without end.

/** Dispatches "change" with `at`, `removed` and `added` (numbers of cues) as detail. */
export class EditModel extends EventTarget {
  #cues;
  #undo = [];
  #redo = [];
  #mayMerge = false;

  constructor(cues) {
    super();
    this.#cues = [...cues];
  }

  get cues() {
    return this.#cues;
  }

  get canUndo() {
    return this.#undo.length > 0;
  }

  get canRedo() {
    return this.#redo.length > 0;
  }

  /** Replace `count` cues from `at`. Successive changes of the same place with the same `merge` are undone together. */
  splice(at, count, added, merge = "") {
    const last = this.#undo.at(-1);
    const removed = this.#apply(at, count, added);
    this.#redo = [];
    if (merge && this.#mayMerge && last?.merge === merge && last.at === at && last.added.length === count) last.added = added;
    else this.#undo.push({ at, removed, added, merge });
    this.#mayMerge = true;
    this.#dispatch(at, count, added.length);
  }

  /** End the merging of changes: the next one is undone alone. */
  endMerge() {
    this.#mayMerge = false;
  }

  /** Undo the last change; return the index where it was, -1 if there is none. */
  undo() {
    const change = this.#undo.pop();
    if (!change) return -1;
    this.#redo.push(change);
    return this.#step(change.at, change.added, change.removed);
  }

  /** Redo the change that was undone last; return the index where it is, -1 if there is none. */
  redo() {
    const change = this.#redo.pop();
    if (!change) return -1;
    this.#undo.push(change);
    return this.#step(change.at, change.removed, change.added);
  }

  // -- changes; each returns the index of the cue to select --

  setText(index, text) {
    const cue = this.#cues[index];
    if (text === cue.lines.join("\n")) return index;
    this.splice(index, 1, [withText(cue, text)], `text ${index}`);
    return index;
  }

  /** Set the times of a cue, whose index may change. */
  setTimes(index, start_ms, end_ms, merge = "") {
    const start = Math.max(0, Math.round(start_ms));
    const cue = { ...this.#cues[index], start_ms: start, end_ms: Math.max(start + 1, Math.round(end_ms)) };
    let [first, last] = [index, index];
    while (this.#cues[first - 1]?.start_ms > start) first--;
    while (this.#cues[last + 1]?.start_ms < start) last++;
    const others = this.#cues.slice(first, last + 1).filter((other) => other !== this.#cues[index]);
    const place = first < index ? 0 : others.length;
    this.splice(first, last - first + 1, others.toSpliced(place, 0, cue), merge && `${merge} ${first}`);
    return first + place;
  }

  /** Split a cue at an offset of its text, at the time of that place. */
  split(index, offset) {
    const cue = this.#cues[index];
    const text = cue.lines.join("\n");
    const [before, after] = [text.slice(0, offset), text.slice(offset)];
    if (!before.trim() || !after.trim()) return index;
    const time = splitTime(cue, lettersOf(before).length);
    this.splice(index, 1, [
      { ...withText(cue, before.trim()), end_ms: time },
      { ...withText(cue, after.trim()), start_ms: time },
    ]);
    return index + 1;
  }

  /** Merge a cue with the next one of its channel. */
  merge(index) {
    const cue = this.#cues[index];
    const next = this.#cues.findIndex((other, at) => at > index && other.channel === cue?.channel);
    if (next < 0) return index;
    const other = this.#cues[next];
    const words = [...cue.words, ...other.words.map((word) => ({ ...word, line: word.line + cue.lines.length }))];
    const merged = {
      ...cue,
      end_ms: Math.max(cue.end_ms, other.end_ms),
      lines: [...cue.lines, ...other.lines],
      words,
      confidence: Math.min(cue.confidence, other.confidence),
      is_accepted: cue.is_accepted && other.is_accepted,
    };
    this.splice(index, next - index + 1, [merged, ...this.#cues.slice(index + 1, next)]);
    return index;
  }

  remove(index) {
    if (this.#cues[index]) this.splice(index, 1, []);
    return Math.min(index, this.#cues.length - 1);
  }

  /** Insert an empty cue after one (-1: at the beginning), where there is time, and at least half a second long. */
  insert(index, length_ms = 2000) {
    const start_ms = this.#cues[index]?.end_ms ?? 0;
    const room = (this.#cues[index + 1]?.start_ms ?? Infinity) - start_ms;
    const end_ms = start_ms + Math.max(500, Math.min(length_ms, room));
    const channel = this.#cues[index]?.channel ?? "";
    const cue = { start_ms, end_ms, lines: [""], words: [], confidence: 1, channel, is_accepted: false };
    // A cue that starts earlier stays before it.
    let at = index + 1;
    while (this.#cues[at]?.start_ms < start_ms) at++;
    this.splice(at, 0, [cue]);
    return at;
  }

  /** Mark the words of a cue as right. */
  accept(index) {
    const cue = this.#cues[index];
    if (cue && !cue.is_accepted) this.splice(index, 1, [accepted(cue)]);
    return index;
  }

  /** Move all cues from one on: their distance from its start is multiplied by `factor`, then `shift_ms` is added. */
  shift(from, shift_ms, factor = 1) {
    const cues = this.#cues.slice(from);
    if (!cues.length || (shift_ms === 0 && factor === 1)) return from;
    const origin = cues[0].start_ms;
    const moved = cues.map((cue) => {
      const start = Math.max(0, Math.round(origin + (cue.start_ms - origin) * factor + shift_ms));
      const end = Math.round(origin + (cue.end_ms - origin) * factor + shift_ms);
      return { ...cue, start_ms: start, end_ms: Math.max(start + 1, end) };
    });
    const before = moved[0].start_ms < (this.#cues[from - 1]?.start_ms ?? 0) ? this.#cues.slice(0, from) : [];
    const all = [...before, ...moved].sort((one, other) => one.start_ms - other.start_ms);
    this.splice(from - before.length, all.length, all);
    return all.indexOf(moved[0]) + from - before.length;
  }

  /** Replace a text in all cues; return the number of replacements, which are undone together. */
  replaceAll(pattern, replacement) {
    let count = 0;
    const replaced = this.#cues.map((cue) => {
      const text = cue.lines.join("\n");
      const changed = text.replace(pattern, () => (count++, replacement));
      return changed === text ? cue : withText(cue, changed);
    });
    const first = replaced.findIndex((cue, index) => cue !== this.#cues[index]);
    if (first < 0) return 0;
    const last = replaced.findLastIndex((cue, index) => cue !== this.#cues[index]);
    this.splice(first, last - first + 1, replaced.slice(first, last + 1));
    return count;
  }

  /** Replace all cues, as one change. */
  replaceCues(cues) {
    this.splice(0, this.#cues.length, [...cues]);
  }

  #step(at, from, to) {
    this.#mayMerge = false;
    this.#apply(at, from.length, to);
    this.#dispatch(at, from.length, to.length);
    return Math.max(0, Math.min(at, this.#cues.length - 1));
  }

  #apply(at, count, added) {
    const removed = this.#cues.slice(at, at + count);
    // Typing changes one cue in place: copying ten thousand for each letter would be slow.
    if (count === added.length) added.forEach((cue, index) => (this.#cues[at + index] = cue));
    else this.#cues = [...this.#cues.slice(0, at), ...added, ...this.#cues.slice(at + count)];
    return removed;
  }

  #dispatch(at, removed, added) {
    this.dispatchEvent(new CustomEvent("change", { detail: { at, removed, added } }));
  }
}

/** Return the regular expression of a searched text, null without one. */
export function searchPattern(text, isCaseSensitive) {
  if (!text) return null;
  return new RegExp(RegExp.escape?.(text) ?? text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), isCaseSensitive ? "gu" : "giu");
}

/** Return length, reading speed and widths of the lines of a cue, as text. */
export function figures(cue, perChar) {
  const widths = cue.lines.map((line) => columns(line.trim()) / perChar);
  const length_ms = Math.max(1, cue.end_ms - cue.start_ms);
  const speed = (widths.reduce((sum, width) => sum + width, 0) * 1000) / length_ms;
  return { seconds: (length_ms / 1000).toFixed(2), speed: speed.toFixed(1), widths: widths.map(Math.ceil).join(" + ") };
}

/** Return what exceeds a limit in a cue: keys of messages with their values. */
export function problems(cue, next, limits, perChar) {
  const found = [];
  const length_ms = cue.end_ms - cue.start_ms;
  const widths = cue.lines.map((line) => columns(line.trim()) / perChar);
  const speed = (widths.reduce((sum, width) => sum + width, 0) * 1000) / Math.max(1, length_ms);
  const widest = Math.ceil(Math.max(0, ...widths));
  if (!cue.lines.some((line) => line.trim())) found.push(["empty", {}]);
  if (limits.max_chars_per_s && speed > limits.max_chars_per_s + 0.05) found.push(["too_fast", { n: speed.toFixed(1), limit: limits.max_chars_per_s }]);
  if (limits.max_chars && widest > limits.max_chars) found.push(["too_wide", { n: widest, limit: limits.max_chars }]);
  if (limits.max_lines && cue.lines.length > limits.max_lines) found.push(["too_many_lines", { n: cue.lines.length, limit: limits.max_lines }]);
  if (limits.max_ms && length_ms > limits.max_ms) found.push(["too_long", { n: (length_ms / 1000).toFixed(1), limit: limits.max_ms / 1000 }]);
  if (limits.min_ms && length_ms < limits.min_ms - 1) found.push(["too_short", { n: (length_ms / 1000).toFixed(2), limit: limits.min_ms / 1000 }]);
  if (next && next.channel === cue.channel && next.start_ms < cue.end_ms) found.push(["overlap", { n: ((cue.end_ms - next.start_ms) / 1000).toFixed(2) }]);
  return found;
}

/** Return the columns of a text: 2 for a full-width character, 0 for a combining mark. */
export function columns(text) {
  let total = 0;
  for (const char of text) total += /\p{Mn}|\p{Me}|\p{Cf}/u.test(char) ? 0 : /[\u1100-\u115f\u2e80-\u303e\u3041-\u4dbf\u4e00-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u.test(char) ? 2 : 1;
  return total;
}

/** Return start and end of the sound at a cue: each edge moves to the nearest begin or end of sound, `reach_ms` at most. */
export function snapped(cue, { peaks, interval_ms, offset_ms }, { previous_ms = 0, next_ms = Infinity, reach_ms = 700 } = {}) {
  const loud = peaks.reduce((most, value) => Math.max(most, value), 1) * 0.06;
  const isLoud = (ms) => (peaks[Math.floor((ms - offset_ms) / interval_ms)] ?? 0) > loud;
  const edge = (ms, outward) => {
    // Inside sound: outward to its edge; in silence: inward to it.
    const direction = isLoud(ms) ? outward : -outward;
    for (let moved = 0; moved <= reach_ms; moved += interval_ms) {
      const at = ms + direction * moved;
      const [inner, outer] = [at, at + outward * interval_ms];
      if (isLoud(inner) && !isLoud(outer)) return outward < 0 ? Math.floor(inner / interval_ms) * interval_ms : Math.ceil((inner + 1) / interval_ms) * interval_ms;
    }
    return ms;
  };
  const start_ms = Math.max(previous_ms, edge(cue.start_ms, -1));
  const end_ms = Math.min(next_ms, edge(cue.end_ms, 1));
  return end_ms - start_ms >= 100 ? { start_ms, end_ms } : { start_ms: cue.start_ms, end_ms: cue.end_ms };
}

/** Return a cue with another text; words that did not change keep their confidence, the others are certain. */
export function withText(cue, text) {
  const lines = text.split("\n");
  const old = cue.words.flatMap((word) => lettersOf(word.text).map(() => word));
  const before = lettersOf(cue.lines.join(""));
  const after = lettersOf(text);
  let [head, tail] = [0, 0];
  const most = Math.min(before.length, after.length);
  while (head < most && before[head] === after[head]) head++;
  while (tail < most - head && before.at(-1 - tail) === after.at(-1 - tail)) tail++;
  const source = (at) => (at < head ? old[at] : at >= after.length - tail ? old[at - after.length + before.length] : undefined);
  const words = [];
  let at = 0;
  lines.forEach((line, number) => {
    let last = null;
    let text = "";
    const push = () => {
      const [before, word] = [words.at(-1), kept(last, text)];
      // The parts of a word that was changed are one word.
      if (!word && before?.line === number && before.isNew && !/^\s/u.test(text)) before.text += text;
      else if (text) words.push({ line: number, text, start_ms: null, end_ms: null, probability: 1, isNew: !word, ...word });
    };
    for (const char of line) {
      if (/\s/u.test(char)) {
        text += char;
        continue;
      }
      const word = source(at++) ?? null;
      if (text.trim() && word !== last) {
        const space = text.length - text.trimEnd().length;
        const rest = text.slice(text.length - space);
        text = text.slice(0, text.length - space);
        push();
        text = rest;
      }
      [last, text] = [word, text + char];
    }
    push();
  });
  return { ...cue, lines, words, is_accepted: false };
}

function kept(word, text) {
  if (!word || word.text.trim() !== text.trim()) return null;
  return { start_ms: word.start_ms, end_ms: word.end_ms, probability: word.probability };
}

function accepted(cue) {
  return { ...cue, is_accepted: true, confidence: 1, words: cue.words.map((word) => ({ ...word, probability: 1 })) };
}

function lettersOf(text) {
  return [...text].filter((char) => !/\s/u.test(char));
}

/** Return when the first `count` letters of a cue end: by its words, else in proportion. */
function splitTime(cue, count) {
  let letters = 0;
  for (const word of cue.words) {
    if (letters >= count && word.start_ms !== null) return clamped(word.start_ms, cue);
    letters += lettersOf(word.text).length;
  }
  const share = count / Math.max(1, lettersOf(cue.lines.join("")).length);
  return clamped(cue.start_ms + (cue.end_ms - cue.start_ms) * share, cue);
}

function clamped(ms, { start_ms, end_ms }) {
  return Math.round(Math.max(start_ms + 1, Math.min(ms, end_ms - 1)));
}
