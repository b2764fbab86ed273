// The layout form: requests cues with other limits while they are typed and reports the difference.
import { message } from "./messages.js";
import { fetchCues } from "./tracks.js";

const TYPING_PAUSE_MS = 350;

export class LayoutForm {
  #form;
  #job;
  #getTrack;
  #onCues;
  #original = null;
  #request = new AbortController();
  #timer = 0;

  /** `getTrack` returns the subtitles that are shown; `onCues` receives the cues of each layout, and a function that returns whether a cue differs from the original. */
  constructor(form, job, getTrack, onCues) {
    this.#form = form;
    this.#job = job;
    this.#getTrack = getTrack;
    this.#onCues = onCues;
    for (const name of ["input", "change"]) form.addEventListener(name, () => this.#updateSoon());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#update();
    });
    document.getElementById("reset").addEventListener("click", (event) => {
      event.preventDefault();
      for (const field of form.elements) if (field.name) field.value = "";
      this.#update();
    });
  }

  /** Load the job's original cues, then those that the form requests. */
  async start() {
    document.getElementById("apply").hidden = true;
    this.#original = await this.#fetch(null);
    if (this.#fields().length) await this.#update();
    else this.#show(this.#original, null);
  }

  #updateSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#update(), TYPING_PAUSE_MS);
  }

  #fields() {
    return [...new FormData(this.#form)].filter(([, value]) => value !== "");
  }

  /** Return the form as LayoutOptions; without a profile its numbers replace the job's own limits. */
  #layout() {
    const fields = Object.fromEntries(this.#fields().map(([name, value]) => [name, name === "profile" ? value : Number(value)]));
    if (fields.profile) return fields;
    const { limits } = this.#original;
    // A configuration may have limits outside the form's range, and 0 for no limit.
    const isOption = ([name, value]) => value > 0 && !(value < this.#form.elements[name]?.min || value > this.#form.elements[name]?.max);
    const kept = Object.fromEntries(Object.entries(limits).filter(isOption));
    const layout = { profile: limits.max_chars ? "default" : "raw", ...kept, ...fields };
    // A gap wider than chain_ms would be invalid.
    if (layout.chain_ms < layout.gap_ms) layout.chain_ms = layout.gap_ms;
    return layout;
  }

  async #update() {
    clearTimeout(this.#timer);
    if (!this.#original) return;
    const invalid = this.#form.querySelector("input:invalid");
    if (invalid) return this.#setResult(`${invalid.labels[0].textContent.trim()}: ${invalid.validationMessage}`);
    const fields = this.#fields();
    history.replaceState(null, "", `${location.pathname}${fields.length ? `?${new URLSearchParams(fields)}` : ""}${location.hash}`);
    this.#request.abort();
    const request = (this.#request = new AbortController());
    const layout = fields.length ? this.#layout() : null;
    this.#form.setAttribute("aria-busy", "true");
    try {
      this.#show(layout ? await this.#fetch(layout, request.signal) : this.#original, layout);
    } catch (error) {
      if (!request.signal.aborted) this.#setResult(message("failed", { cause: error.message }));
    } finally {
      if (request === this.#request) this.#form.removeAttribute("aria-busy");
    }
  }

  #fetch(layout, signal) {
    return fetchCues(this.#job, this.#getTrack(), layout ? { layout: JSON.stringify(layout) } : {}, signal);
  }

  #show(response, layout) {
    const key = (cue) => `${cue.start_ms} ${cue.end_ms} ${cue.lines.join("\n")}`;
    const original = new Set(this.#original.cues.map(key));
    const isChanged = (cue) => !original.has(key(cue));
    this.#onCues(response, isChanged);
    for (const field of this.#form.querySelectorAll("input")) field.placeholder = response.limits[field.name] || "–";
    for (const link of document.querySelectorAll("#downloads a")) {
      const query = new URLSearchParams({ format: link.dataset.format });
      if (link.dataset.task) query.set("task", link.dataset.task);
      if (link.dataset.language) query.set("language", link.dataset.language);
      if (link.dataset.bilingual) query.set("is_bilingual", "true");
      if (layout) query.set("layout", JSON.stringify(layout));
      link.href = `/api/jobs/${this.#job}/result?${query}`;
    }
    for (const id of ["layout-note", "reset"]) document.getElementById(id).hidden = !layout;
    this.#setResult(this.#description(response, layout, isChanged));
  }

  #description(response, layout, isChanged) {
    const n = response.cues.length;
    const original = this.#original.cues.length;
    const difference = (n > original ? "+" : "") + String(n - original).replace("-", "−");
    const text = layout
      ? message("changed", { n, difference, original, changed: response.cues.filter(isChanged).length })
      : message("original", { n });
    return response.fast_cues ? `${text} ${message("fast", { n: response.fast_cues })}` : text;
  }

  #setResult(text) {
    document.getElementById("result").textContent = text;
  }
}
