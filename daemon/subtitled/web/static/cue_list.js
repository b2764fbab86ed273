// The list of a job's cues: runs along with the audio, marks what the model was not sure of, finds words.
import { clock } from "./waveform.js";
import { say } from "./messages.js";

export class CueList {
  #list;
  #scroll;
  #follow;
  #onPick;
  #cues = [];
  #rows = [];
  #sure = 0;
  #current = -1;
  #follows = true;

  /** `onPick` is told the cue that somebody wants to hear. */
  constructor({ list, scroll, follow, onPick }) {
    this.#list = list;
    this.#scroll = scroll;
    this.#follow = follow;
    this.#onPick = onPick;
    list.addEventListener("click", (event) => this.#pick(event));
    list.addEventListener("keydown", (event) => this.#step(event));
    for (const name of ["wheel", "touchmove"]) scroll.addEventListener(name, () => this.#let(false), { passive: true });
    // Rows that have not been seen are taken to be of one height: where that was wrong, the row at hand is not where it was sought.
    scroll.addEventListener("scrollend", () => this.#follows && this.#current >= 0 && !this.#isSeen(this.#current) && this.#bring(this.#current));
    scroll.addEventListener("pointerdown", (event) => event.target === scroll && this.#let(false)); // its scroll bar
    scroll.addEventListener("keydown", ({ key }) => /^(Page|Home|End)/.test(key) && this.#let(false));
    follow.addEventListener("click", () => this.#let(true));
  }

  get cues() {
    return this.#cues;
  }

  /** Show cues; `isOther` says which are others than those that the job was made with. */
  show(cues, language, isOther) {
    this.#cues = cues;
    this.#current = -1;
    this.#rows = cues.map((cue) => row(cue, isOther(cue)));
    this.#list.lang = language ?? "";
    this.#list.start = 1;
    this.#mark();
    this.#list.replaceChildren(...this.#rows);
    if (this.#rows.length) link(this.#rows[0]).tabIndex = 0;
  }

  /** Mark words whose probability is below `sure`; return when each is said. */
  mark(sure) {
    this.#sure = sure;
    this.#mark();
    return this.unsure();
  }

  /** Return when each thing is said that the model was not sure of: neighbours are one. */
  unsure() {
    return this.#cues.flatMap((cue) => {
      const places = cue.words.filter((word) => this.#isUnsure(word, cue)).map((word) => word.start_ms ?? cue.start_ms);
      return [...new Set(places)];
    });
  }

  /** Show only cues with these words; return how many there are. */
  find(text) {
    const wanted = plain(text);
    let found = 0;
    this.#rows.forEach((one, index) => {
      one.hidden = wanted !== "" && !plain(this.#cues[index].lines.join(" ")).includes(wanted) && !plain(this.#cues[index].lines.join("")).includes(wanted);
      found += !one.hidden;
    });
    this.#let(true);
    return found;
  }

  /** Return the index of the last cue that has begun by then, -1 before the first. */
  before(at_ms) {
    let [low, high] = [0, this.#cues.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#cues[middle].start_ms <= at_ms) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** Show where the audio is; return the index of the cue that is shown then, -1 for none. */
  move(at_ms) {
    const last = this.before(at_ms);
    const current = last >= 0 && at_ms < this.#cues[last].end_ms ? last : -1;
    if (current !== this.#current) {
      link(this.#rows[this.#current])?.removeAttribute("aria-current");
      link(this.#rows[current])?.setAttribute("aria-current", "true");
      this.#current = current;
      if (current >= 0 && this.#follows) this.#bring(current);
    }
    return current;
  }

  /** Have the list run along again: somebody has said where to go. */
  follow() {
    this.#let(true);
  }

  #let(follows) {
    this.#follows = follows;
    this.#follow.hidden = follows;
    if (follows && this.#current >= 0) this.#bring(this.#current);
  }

  /** Bring a row into view, and with it the keyboard if that is in the list. */
  #bring(index) {
    const one = this.#rows[index];
    if (one.hidden) return;
    const top = one.offsetTop - this.#scroll.clientHeight / 3;
    const isFar = Math.abs(top - this.#scroll.scrollTop) > this.#scroll.clientHeight;
    this.#scroll.scrollTo({ top, behavior: isFar || matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth" });
    this.#point(one, this.#list.contains(document.activeElement));
  }

  #isSeen(index) {
    const [one, all] = [this.#rows[index].getBoundingClientRect(), this.#scroll.getBoundingClientRect()];
    return this.#rows[index].hidden || (one.top >= all.top && one.bottom <= all.bottom);
  }

  /** Have Tab come to this row, of all. */
  #point(one, isFocused) {
    for (const other of this.#list.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    link(one).tabIndex = 0;
    if (isFocused) link(one).focus({ preventScroll: true });
  }

  #pick(event) {
    const one = event.target.closest("li");
    const cue = this.#cues[this.#rows.indexOf(one)]; // none where the row is still the server's: then its link says where to go
    if (!cue || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.#point(one, true);
    this.#onPick(cue);
    this.#let(true);
  }

  #step(event) {
    const by = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    let one = event.target.closest("li");
    if (!by || !one) return;
    event.preventDefault();
    do one = one[by];
    while (one?.hidden);
    if (!one) return;
    this.#follows = false;
    this.#point(one, true);
    one.scrollIntoView({ block: "nearest" });
    this.#follow.hidden = false;
  }

  #isUnsure(word, cue) {
    return (word.probability ?? cue.confidence) < this.#sure;
  }

  #mark() {
    this.#cues.forEach((cue, index) => {
      const text = this.#rows[index].querySelector(".text");
      const unsure = cue.words.filter((word) => this.#isUnsure(word, cue)).length;
      // Most cues have none before and after: they are left alone.
      if (unsure || text.dataset.unsure !== "0") fill(text, cue, (word) => this.#isUnsure(word, cue));
      text.dataset.unsure = unsure;
    });
  }
}

function row(cue, isOther) {
  const one = make("li", isOther ? "other" : "");
  const where = make("a", "cue");
  where.href = `#t=${cue.start_ms / 1000}`;
  where.tabIndex = -1;
  where.append(make("span", "time", clock(cue.start_ms)), " ", make("span", "text"));
  one.append(where);
  return one;
}

/** Put a cue's lines into an element, each on its own, with marks on what `isUnsure` says. */
export function fill(place, cue, isUnsure) {
  const lines = cue.lines.map((text, line) => {
    const parts = cue.words.filter((word) => word.line === line);
    const shown = make("span", "line");
    if (!parts.some(isUnsure)) shown.textContent = text;
    else shown.append(...parts.flatMap((word) => (isUnsure(word) ? marked(word, cue) : [word.text])));
    return shown;
  });
  place.replaceChildren(...lines.flatMap((line, index) => (index ? ["\n", line] : [line])));
}

function marked(word, cue) {
  const text = word.text.trimStart();
  const shown = make("mark", "unsure", text);
  shown.title = say("percent", { n: Math.round((word.probability ?? cue.confidence) * 100) });
  return [word.text.slice(0, word.text.length - text.length), shown];
}

function make(kind, name, text = "") {
  const element = document.createElement(kind);
  if (name) element.className = name;
  if (text) element.textContent = text;
  return element;
}

function link(one) {
  return one?.firstElementChild;
}

function plain(text) {
  return text.trim().toLocaleLowerCase().normalize("NFKC");
}
