// The list of a job's cues: follows playback, marks uncertain words, filters by text.
import { message } from "./messages.js";
import { clock } from "./waveform.js";

const SCROLL_PAUSE_MS = 150;

export class CueList {
  #list;
  #scroll;
  #followButton;
  #onSelect;
  #cues = [];
  #rows = [];
  #threshold = 0;
  #current = -1;
  #isFollowing = true;

  /** `onSelect` receives a cue that the user selects. */
  constructor({ list, scroll, followButton, onSelect }) {
    this.#list = list;
    this.#scroll = scroll;
    this.#followButton = followButton;
    this.#onSelect = onSelect;
    list.addEventListener("click", (event) => this.#onClick(event));
    list.addEventListener("keydown", (event) => this.#onKeydown(event));
    for (const name of ["wheel", "touchmove"]) scroll.addEventListener(name, () => this.#setFollowing(false), { passive: true });
    // The height of rows that were never visible is an estimate: if it was wrong, scroll again.
    const scrollAgain = () => this.#isFollowing && this.#current >= 0 && !this.#isVisible(this.#current) && this.#scrollTo(this.#current);
    scroll.addEventListener("scrollend", scrollAgain);
    let timer = 0;
    const scrollAgainSoon = () => {
      clearTimeout(timer);
      timer = setTimeout(scrollAgain, SCROLL_PAUSE_MS);
    };
    if (!("onscrollend" in scroll)) scroll.addEventListener("scroll", scrollAgainSoon, { passive: true }); // Safari before 26.2
    scroll.addEventListener("pointerdown", (event) => event.target === scroll && this.#setFollowing(false)); // the scroll bar
    scroll.addEventListener("keydown", ({ key }) => /^(Page|Home|End)/.test(key) && this.#setFollowing(false));
    followButton.addEventListener("click", () => this.#setFollowing(true));
  }

  get cues() {
    return this.#cues;
  }

  /** Show cues; `isChanged` returns whether a cue differs from the original layout. The keyboard focus stays at its time. */
  show(cues, language, isChanged) {
    const focused = this.#cues[this.#rows.indexOf(document.activeElement.closest("li"))];
    this.#cues = cues;
    this.#current = -1;
    this.#rows = cues.map((cue) => createRow(cue, isChanged(cue)));
    this.#list.lang = language ?? "";
    this.#list.start = 1;
    this.#markWords();
    this.#list.replaceChildren(...this.#rows);
    if (focused && this.#rows.length) this.#setTabStop(this.#rows[Math.max(0, this.indexBefore(focused.start_ms))], true);
    else if (this.#rows.length) link(this.#rows[0]).tabIndex = 0;
  }

  /** Show cues, some of which are shown already: the rows of these objects stay. `isEndShown`: a list that is scrolled to its end stays there. */
  update(cues, language, isEndShown) {
    const isAtEnd = this.#scroll.scrollTop + this.#scroll.clientHeight >= this.#scroll.scrollHeight - 24;
    const known = new Map(this.#cues.map((cue, index) => [cue, this.#rows[index]]));
    const current = this.#rows[this.#current];
    this.#cues = cues;
    this.#rows = cues.map((cue) => known.get(cue) ?? createRow(cue, false));
    this.#current = this.#rows.indexOf(current);
    this.#list.lang = language;
    this.#markWords();
    const kept = new Set(this.#rows);
    for (const row of known.values()) if (!kept.has(row)) row.remove();
    let place = this.#list.firstElementChild;
    for (const row of this.#rows) {
      if (row === place) place = place.nextElementSibling;
      else this.#list.insertBefore(row, place);
    }
    if (this.#rows.length && !this.#list.querySelector("[tabindex='0']")) link(this.#rows[0]).tabIndex = 0;
    if (isAtEnd && isEndShown) this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }

  /** Show the cues of a second language below those that they overlap most. */
  showSecond(cues, language = "") {
    const texts = this.#cues.map(() => []);
    let first = 0;
    for (const other of cues) {
      while (first < this.#cues.length - 1 && this.#cues[first].end_ms <= other.start_ms) first++;
      let [best, most] = [-1, 0];
      for (let index = first; this.#cues[index]?.start_ms < other.end_ms; index++) {
        const common = Math.min(this.#cues[index].end_ms, other.end_ms) - Math.max(this.#cues[index].start_ms, other.start_ms);
        if (common > most) [best, most] = [index, common];
      }
      if (best < 0) best = Math.max(0, Math.min(this.indexBefore(other.start_ms), this.#cues.length - 1));
      texts[best]?.push(other.lines.join(" "));
    }
    this.#rows.forEach((row, index) => {
      row.querySelector(".second")?.remove();
      if (!texts[index].length) return;
      const second = createElement("span", "second", texts[index].join(" "));
      if (language) second.lang = language;
      link(row).append(second);
    });
  }

  /** Mark words with a probability below `threshold`; return their times, without duplicates. */
  markUncertain(threshold) {
    this.#threshold = threshold;
    this.#markWords();
    return this.#cues.flatMap((cue) => {
      const times = cue.words.filter((word) => this.#isUncertain(word, cue)).map((word) => word.start_ms ?? cue.start_ms);
      return [...new Set(times)];
    });
  }

  /** Show only cues that contain a text; return their number. */
  filter(text) {
    const query = normalize(text);
    let count = 0;
    this.#rows.forEach((row, index) => {
      const { lines } = this.#cues[index];
      row.hidden = query !== "" && !normalize(lines.join(" ")).includes(query) && !normalize(lines.join("")).includes(query);
      count += !row.hidden;
    });
    this.#setFollowing(true);
    return count;
  }

  /** Return the index of the last cue that starts at or before `ms`, -1 before the first. */
  indexBefore(ms) {
    let [low, high] = [0, this.#cues.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#cues[middle].start_ms <= ms) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** Highlight the cue at a position; return its index, -1 for none. */
  moveTo(ms) {
    const last = this.indexBefore(ms);
    const current = last >= 0 && ms < this.#cues[last].end_ms ? last : -1;
    if (current !== this.#current) {
      link(this.#rows[this.#current])?.removeAttribute("aria-current");
      link(this.#rows[current])?.setAttribute("aria-current", "true");
      this.#current = current;
      if (current >= 0 && this.#isFollowing) this.#scrollTo(current);
    }
    return current;
  }

  /** Follow playback again after the user has moved the position. */
  follow() {
    this.#setFollowing(true);
  }

  #setFollowing(isFollowing) {
    this.#isFollowing = isFollowing;
    this.#followButton.hidden = isFollowing;
    if (isFollowing && this.#current >= 0) this.#scrollTo(this.#current);
  }

  /** Scroll a row into view and move the keyboard focus to it if the focus is in the list. */
  #scrollTo(index) {
    const row = this.#rows[index];
    if (row.hidden) return;
    const top = row.offsetTop - this.#scroll.clientHeight / 3;
    const isFar = Math.abs(top - this.#scroll.scrollTop) > this.#scroll.clientHeight;
    this.#scroll.scrollTo({ top, behavior: isFar || matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth" });
    this.#setTabStop(row, this.#list.contains(document.activeElement));
  }

  #isVisible(index) {
    const [row, view] = [this.#rows[index].getBoundingClientRect(), this.#scroll.getBoundingClientRect()];
    return this.#rows[index].hidden || (row.top >= view.top && row.bottom <= view.bottom);
  }

  /** Make a row the list's only tab stop. */
  #setTabStop(row, isFocused) {
    for (const other of this.#list.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    link(row).tabIndex = 0;
    if (isFocused) link(row).focus({ preventScroll: true });
  }

  #onClick(event) {
    const row = event.target.closest("li");
    const cue = this.#cues[this.#rows.indexOf(row)]; // undefined for a row that the server rendered
    if (!cue || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.#setTabStop(row, true);
    this.#onSelect(cue);
    this.#setFollowing(true);
  }

  #onKeydown(event) {
    const sibling = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    let row = event.target.closest("li");
    if (!sibling || !row) return;
    event.preventDefault();
    do row = row[sibling];
    while (row?.hidden);
    if (!row) return;
    this.#isFollowing = false;
    this.#setTabStop(row, true);
    row.scrollIntoView({ block: "nearest" });
    this.#followButton.hidden = false;
  }

  #isUncertain(word, cue) {
    return (word.probability ?? cue.confidence) < this.#threshold;
  }

  #markWords() {
    this.#cues.forEach((cue, index) => {
      const text = this.#rows[index].querySelector(".text");
      const uncertain = cue.words.filter((word) => this.#isUncertain(word, cue)).length;
      // Most cues have no mark before and after: they are left unchanged.
      if (uncertain || text.dataset.uncertain !== "0") renderCue(text, cue, (word) => this.#isUncertain(word, cue));
      text.dataset.uncertain = uncertain;
    });
  }
}

function createRow(cue, isChanged) {
  const row = createElement("li", isChanged ? "changed" : "");
  const anchor = createElement("a", "cue");
  anchor.href = `#t=${cue.start_ms / 1000}`;
  anchor.tabIndex = -1;
  anchor.append(createElement("span", "time", clock(cue.start_ms)), " ", createElement("span", "text"));
  row.append(anchor);
  return row;
}

/** Render a cue's lines into an element, with words for which `isUncertain` holds marked. */
export function renderCue(element, cue, isUncertain) {
  const lines = cue.lines.map((text, index) => {
    const words = cue.words.filter((word) => word.line === index);
    const line = createElement("span", "line");
    if (!words.some(isUncertain)) line.textContent = text;
    else line.append(...words.flatMap((word) => (isUncertain(word) ? markedWord(word, cue) : [word.text])));
    return line;
  });
  element.replaceChildren(...lines.flatMap((line, index) => (index ? ["\n", line] : [line])));
}

function markedWord(word, cue) {
  const text = word.text.trimStart();
  const mark = createElement("mark", "uncertain", text);
  mark.title = message("confidence", { n: Math.round((word.probability ?? cue.confidence) * 100) });
  return [word.text.slice(0, word.text.length - text.length), mark];
}

function createElement(name, className, text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

function link(row) {
  return row?.firstElementChild;
}

function normalize(text) {
  return text.trim().toLocaleLowerCase().normalize("NFKC");
}
