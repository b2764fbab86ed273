// Has the cues laid out within other limits, as they are typed, and says what that has changed.
import { say } from "./messages.js";

const PAUSE_MS = 350;

export class Layout {
  #form;
  #job;
  #onCues;
  #made = null;
  #asking = new AbortController();
  #timer = 0;

  /** `onCues` is told the cues of each layout, and which of them are others than the job was made with. */
  constructor(form, job, onCues) {
    this.#form = form;
    this.#job = job;
    this.#onCues = onCues;
    form.addEventListener("input", () => this.#soon());
    form.addEventListener("change", () => this.#soon());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    document.getElementById("apply").hidden = true;
    document.getElementById("reset").addEventListener("click", (event) => {
      event.preventDefault();
      for (const field of form.elements) if (field.name) field.value = "";
      this.#ask();
    });
  }

  /** Ask for the cues that the job was made with, then for those that the form says. */
  async begin() {
    this.#made = await this.#fetch(null);
    if (this.#asked().length) await this.#ask();
    else this.#show(this.#made, null);
  }

  #soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), PAUSE_MS);
  }

  #asked() {
    return [...new FormData(this.#form)].filter(([, value]) => value !== "");
  }

  /** Return what the form asks for as LayoutOptions; without a profile its numbers are in place of those of the job. */
  #layout() {
    const asked = Object.fromEntries(this.#asked().map(([name, value]) => [name, name === "profile" ? value : Number(value)]));
    if (asked.profile) return asked;
    // A configuration may have limits that the form has not, and 0 for none.
    const isOption = ([name, value]) => value > 0 && !(value < this.#form.elements[name]?.min || value > this.#form.elements[name]?.max);
    const made = Object.fromEntries(Object.entries(this.#made.limits).filter(isOption));
    const layout = { profile: this.#made.limits.max_chars ? "default" : "raw", ...made, ...asked };
    // Cues cannot be closed up to more than the distance at which they are.
    if (layout.chain_ms < layout.gap_ms) layout.chain_ms = layout.gap_ms;
    return layout;
  }

  async #ask() {
    clearTimeout(this.#timer);
    if (!this.#made) return;
    const amiss = this.#form.querySelector("input:invalid");
    if (amiss) return this.#say(`${amiss.labels[0].textContent.trim()}: ${amiss.validationMessage}`);
    const asked = this.#asked();
    history.replaceState(null, "", `${location.pathname}${asked.length ? `?${new URLSearchParams(asked)}` : ""}${location.hash}`);
    this.#asking.abort();
    const mine = (this.#asking = new AbortController());
    const layout = asked.length ? this.#layout() : null;
    this.#form.setAttribute("aria-busy", "true");
    try {
      this.#show(layout ? await this.#fetch(layout, mine.signal) : this.#made, layout);
    } catch (error) {
      if (!mine.signal.aborted) this.#say(say("failed", { why: error.message }));
    } finally {
      if (mine === this.#asking) this.#form.removeAttribute("aria-busy");
    }
  }

  async #fetch(layout, signal) {
    const query = layout ? `?${new URLSearchParams({ layout: JSON.stringify(layout) })}` : "";
    const answer = await fetch(`/api/jobs/${this.#job}/cues${query}`, { signal });
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.message);
    return found;
  }

  #show(found, layout) {
    const key = (cue) => `${cue.start_ms} ${cue.end_ms} ${cue.lines.join("\n")}`;
    const made = new Set(this.#made.cues.map(key));
    const isOther = (cue) => !made.has(key(cue));
    this.#onCues(found, isOther);
    for (const field of this.#form.querySelectorAll("input")) field.placeholder = found.limits[field.name] || "–";
    for (const link of document.querySelectorAll("#downloads a")) {
      const query = new URLSearchParams({ format: link.dataset.format });
      if (layout) query.set("layout", JSON.stringify(layout));
      link.href = `/api/jobs/${this.#job}/result?${query}`;
    }
    for (const id of ["with-layout", "reset"]) document.getElementById(id).hidden = !layout;
    this.#say(this.#told(found, layout, isOther));
  }

  #told(found, layout, isOther) {
    const n = found.cues.length;
    const more = n - this.#made.cues.length;
    const told = layout
      ? say("changed", { n, more: (more > 0 ? "+" : "") + String(more).replace("-", "−"), made: this.#made.cues.length, other: found.cues.filter(isOther).length })
      : say("made", { n });
    return found.fast_cues ? `${told} ${say("fast", { n: found.fast_cues })}` : told;
  }

  #say(text) {
    document.getElementById("result").textContent = text;
  }
}
