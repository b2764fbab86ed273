// The player of a job: its audio, waveform, cues and layout, each in a module of its own, put together.
import { CueList, fill } from "./cue_list.js";
import { beginKeys } from "./shortcuts.js";
import { Layout } from "./layout_form.js";
import { Sound } from "./audio_player.js";
import { Wave, clock } from "./waveform.js";
import { say } from "./messages.js";

const STEP_MS = 5000;
const LONG_STEP_MS = 30_000;

const find = (id) => document.getElementById(id);

/** Make the player of this page work. */
export function beginPlayer() {
  const place = find("player");
  const { job } = place.dataset;
  let length_ms = Number(place.dataset.length);
  const sound = new Sound(find("audio"), length_ms, "gone" in place.dataset);
  const seek = (ms) => sound.seek(ms);
  const detail = new Wave(find("detail"), length_ms, { goesAlong: true, onSeek: aim });
  const whole = new Wave(find("whole"), length_ms, { goesAlong: false, onSeek: aim });
  const list = new CueList({
    list: find("list"),
    scroll: find("scroll"),
    follow: find("follow"),
    onPick(cue) {
      seek(cue.start_ms);
      sound.play();
    },
  });
  let missing = [];
  let unsure = [];

  function aim(ms) {
    list.follow();
    seek(ms);
  }

  // -- what is seen of the place --

  function move() {
    const at_ms = sound.at_ms;
    const current = list.move(at_ms);
    const shown = list.cues[current];
    detail.move(at_ms, current);
    find("whole").hidden = detail.isWhole;
    whole.move(at_ms, current);
    if (find("screen").dataset.cue !== String(current)) {
      find("screen").dataset.cue = current;
      if (shown) fill(find("screen"), shown, () => false);
      else find("screen").replaceChildren();
    }
    if (find("at").textContent === clock(at_ms)) return;
    find("at").textContent = clock(at_ms);
    find("detail").setAttribute("aria-valuenow", Math.floor(at_ms / 1000));
    find("detail").setAttribute("aria-valuetext", say("of", { at: clock(at_ms), all: clock(length_ms) }));
  }

  function turn() {
    const button = find("play");
    button.dataset.is = sound.isPlaying ? "playing" : "still";
    button.setAttribute("aria-label", sound.isPlaying ? say("pause") : say("play"));
    button.title = button.getAttribute("aria-label");
    if (sound.isPlaying) find("note").textContent = "";
  }

  sound.addEventListener("move", move);
  sound.addEventListener("turn", turn);
  sound.addEventListener("gone", () => {
    find("note").textContent = sound.isGone ? say("gone") : say("crowded");
    find("play").disabled = sound.isGone;
  });

  // -- what the model was not sure of --

  function mark() {
    const sure = Number(find("sure").value);
    unsure = list.mark(sure / 100);
    find("sure-shown").textContent = `${sure}%`;
    find("unsure").textContent = ` · ${unsure.length ? say("unsure", { n: unsure.length }) : say("sure")}`;
    find("next-unsure").disabled = !unsure.length;
    for (const wave of [detail, whole]) wave.read(list.cues, missing, unsure);
  }

  function nextUnsure() {
    const next = unsure.find((ms) => ms > sound.at_ms + 50) ?? unsure[0];
    if (next !== undefined) aim(next);
  }

  function search() {
    const text = find("find").value;
    const n = list.find(text);
    find("count").textContent = text.trim() ? say("found", { n }) : say("cues", { n });
  }

  // -- what a reader does --

  const nextCue = (by) => {
    const here = list.before(sound.at_ms);
    // Back from the middle of a cue is to its beginning.
    const isInside = by < 0 && here >= 0 && sound.at_ms - list.cues[here].start_ms > 1000;
    const cue = list.cues[isInside ? here : Math.max(0, here + by)];
    if (cue) aim(cue.start_ms);
  };
  const by = (ms) => () => aim(sound.at_ms + ms);
  find("play").addEventListener("click", () => sound.toggle());
  find("back").addEventListener("click", by(-STEP_MS));
  find("forward").addEventListener("click", by(STEP_MS));
  find("rate").addEventListener("change", ({ target }) => (sound.rate = Number(target.value)));
  find("sure").addEventListener("input", mark);
  find("next-unsure").addEventListener("click", nextUnsure);
  find("find").addEventListener("input", search);
  const steps = { PageUp: -LONG_STEP_MS, PageDown: LONG_STEP_MS, ArrowUp: STEP_MS, ArrowDown: -STEP_MS, Home: -Infinity, End: Infinity };
  find("detail").addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    by(steps[event.key])();
  });
  beginKeys(
    {
      " ": () => sound.toggle(),
      ArrowLeft: by(-STEP_MS),
      ArrowRight: by(STEP_MS),
      j: () => nextCue(1),
      k: () => nextCue(-1),
      u: nextUnsure,
      "/": () => find("find").focus(),
      "?": () => (find("keys").open = !find("keys").open),
    },
    { help: find("keys"), isOn: find("use-keys") },
  );

  // -- what comes from the server --

  const layout = new Layout(find("layout"), job, (found, isOther) => {
    length_ms = found.offset_ms + found.duration_ms;
    for (const part of [sound, detail, whole]) part.length_ms = length_ms;
    find("all").textContent = clock(length_ms);
    find("detail").setAttribute("aria-valuemax", Math.floor(length_ms / 1000));
    missing = found.missing;
    list.show(found.cues, found.language, isOther);
    mark();
    search();
    find("screen").dataset.cue = "";
    find("screen").lang = found.language ?? "";
    move();
  });
  layout.begin().catch((error) => (find("count").textContent = say("failed", { why: error.message })));
  hear(job).then((waveform) => [detail, whole].forEach((wave) => wave.hear(waveform)), () => {});
  for (const id of ["controls", "tools"]) find(id).hidden = false;
  find("pages")?.remove();
  find("play").disabled = sound.isGone;
  const start = /^#t=([\d.]+)$/.exec(location.hash);
  if (start) seek(Number(start[1]) * 1000);
  turn();
  move();
}

async function hear(job) {
  const answer = await fetch(`/api/jobs/${job}/waveform`);
  if (!answer.ok) throw new Error(answer.status);
  const found = await answer.json();
  return { ...found, peaks: Uint8Array.from(atob(found.peaks), (char) => char.charCodeAt(0)) };
}
