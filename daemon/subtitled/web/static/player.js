// The player of a job: connects its audio, waveforms, cue list and layout form.
import { AudioPlayer } from "./audio_player.js";
import { CueList, renderCue } from "./cue_list.js";
import { LayoutForm } from "./layout_form.js";
import { followText } from "./live_text.js";
import { morph } from "./morph.js";
import { fetchCues, hasUnsavedEdit } from "./tracks.js";
import { message } from "./messages.js";
import { enableShortcuts } from "./shortcuts.js";
import { Waveform, clock } from "./waveform.js";

const STEP_MS = 5000;
const LONG_STEP_MS = 30_000;
const AT_ONCE = 8; // most cues that are shown at a time

const byId = (id) => document.getElementById(id);

/**
 * Start the player of this page: with the cues of the job, or with provisional ones until they are final.
 *
 * Return functions for a job in progress: `showMedia`, once its audio is read, and `showFinal`.
 */
export function startPlayer() {
  const { job, length, mediaMissing, provisional } = byId("player").dataset;
  let tracks = JSON.parse(byId("player").dataset.tracks);
  let track = tracks[0];
  let layout = null; // while there are only provisional cues
  let second = []; // cues of the second language
  let secondRequest = new AbortController();
  let length_ms = Number(length);
  const audio = new AudioPlayer(byId("audio"), length_ms, mediaMissing !== undefined);
  const detail = new Waveform(byId("waveform"), length_ms, { isWindow: true, onSeek: seek });
  const full = new Waveform(byId("waveform-full"), length_ms, { isWindow: false, onSeek: seek });
  const list = new CueList({
    list: byId("list"),
    scroll: byId("scroll"),
    followButton: byId("follow"),
    onSelect(cue) {
      if (looped >= 0) looped = list.cues.indexOf(cue);
      audio.seek(cue.start_ms);
      audio.play();
    },
  });
  let view = list; // the editor while it is open
  let withoutText = [];
  let uncertain = [];
  let peaks = null;
  let looped = -1; // the cue that is repeated
  let edited = ""; // who edited the cues
  let isEditing = false;
  let postponed = null; // the argument of `showFinal` while the editor is open

  function seek(ms) {
    view.follow();
    const cue = view.cues[looped];
    if (cue && (ms < cue.start_ms - 1000 || ms > cue.end_ms)) setLooped(-1);
    audio.seek(ms);
  }

  // -- position and state --

  function showPosition() {
    const repeated = view.cues[looped];
    if (repeated && audio.isPlaying && audio.position_ms >= repeated.end_ms) audio.seek(repeated.start_ms);
    const { position_ms } = audio;
    const current = view.moveTo(position_ms);
    detail.moveTo(position_ms, current);
    byId("waveform-full").hidden = detail.isWhole;
    full.moveTo(position_ms, current);
    show(byId("screen"), view.cues, position_ms);
    show(byId("screen-second"), second, position_ms);
    if (byId("position").textContent === clock(position_ms)) return;
    byId("position").textContent = clock(position_ms);
    byId("waveform").setAttribute("aria-valuenow", Math.floor(position_ms / 1000));
    byId("waveform").setAttribute("aria-valuetext", message("position", { position: clock(position_ms), length: clock(length_ms) }));
  }

  /** Show the cues at a position, as players do: those that start later above. */
  function show(element, cues, ms) {
    let first = lastBefore(cues, ms);
    const shown = [];
    for (let count = 0; first >= 0 && count < AT_ONCE; first--, count++) if (ms < cues[first].end_ms) shown.push(first);
    if (element.dataset.cue === String(shown)) return;
    element.dataset.cue = shown;
    element.replaceChildren(
      ...shown.map((index) => {
        const cue = document.createElement("span");
        renderCue(cue, cues[index], () => false);
        return cue;
      }),
    );
  }

  function showState() {
    const button = byId("play");
    button.dataset.state = audio.isPlaying ? "playing" : "paused";
    button.title = audio.isPlaying ? message("pause") : message("play");
    button.setAttribute("aria-label", button.title);
    if (audio.isPlaying) byId("note").textContent = "";
  }

  audio.addEventListener("move", showPosition);
  audio.addEventListener("statechange", showState);
  audio.addEventListener("unavailable", () => {
    byId("note").textContent = audio.isMissing ? message("media_missing") : message("audio_unavailable");
    byId("play").disabled = audio.isMissing;
  });

  // -- picture --

  /** Show the picture if the file has one: only then its script is loaded. */
  async function startPicture() {
    await audio.check();
    if (audio.isMissing) return;
    const response = await fetch(`/api/jobs/${job}/video`).catch(() => null);
    if (!response?.ok) return;
    const facts = await response.json();
    if (!facts.width && !facts.cause) return;
    const { connectPicture } = await import("./picture.js");
    connectPicture(job, audio, facts);
  }
  const toggleFullScreen = () => (document.fullscreenElement ? document.exitFullscreen() : byId("screen-frame").requestFullscreen?.().catch(() => {}));
  byId("full-screen").addEventListener("click", toggleFullScreen);
  byId("screen-frame").addEventListener("click", () => audio.toggle());

  // -- uncertain words and search --

  function markUncertain() {
    const threshold = Number(byId("threshold").value);
    uncertain = view.markUncertain(threshold / 100);
    byId("threshold-value").textContent = `${threshold}%`;
    byId("uncertain").textContent = ` · ${uncertain.length ? message("uncertain", { n: uncertain.length }) : message("none_uncertain")}`;
    byId("next-uncertain").disabled = !uncertain.length;
    for (const waveform of [detail, full]) waveform.setCues(view.cues, withoutText, uncertain);
  }

  function nextUncertain() {
    const next = uncertain.find((ms) => ms > audio.position_ms + 50) ?? uncertain[0];
    if (next !== undefined) seek(next);
  }

  function search() {
    const text = byId("search").value;
    const n = list.filter(text);
    byId("count").textContent = text.trim() ? message("found", { n }) : message("cues", { n }) + edited;
  }

  // -- controls --

  const moveByCue = (step) => {
    const current = view.indexBefore(audio.position_ms);
    // Back from the middle of a cue goes to its start.
    const isInside = step < 0 && current >= 0 && audio.position_ms - view.cues[current].start_ms > 1000;
    const cue = view.cues[isInside ? current : Math.max(0, current + step)];
    if (cue) seek(cue.start_ms);
  };
  const moveBy = (ms) => () => seek(audio.position_ms + ms);
  byId("play").addEventListener("click", () => audio.toggle());
  byId("back").addEventListener("click", moveBy(-STEP_MS));
  byId("forward").addEventListener("click", moveBy(STEP_MS));
  byId("rate").addEventListener("change", ({ target }) => (audio.rate = Number(target.value)));
  function setLooped(index) {
    looped = view.cues[index] ? index : -1;
    byId("loop").setAttribute("aria-pressed", String(looped >= 0));
  }
  const toggleLoop = () => {
    if (looped >= 0) return setLooped(-1);
    const index = view.selected ?? Math.max(0, view.indexBefore(audio.position_ms));
    setLooped(index);
    const cue = view.cues[index];
    if (cue && (audio.position_ms < cue.start_ms || audio.position_ms >= cue.end_ms)) audio.seek(cue.start_ms);
  };
  const changeRate = (step) => {
    const rate = byId("rate");
    rate.selectedIndex = Math.max(0, Math.min(rate.selectedIndex + step, rate.length - 1));
    audio.rate = Number(rate.value);
  };
  byId("loop").addEventListener("click", toggleLoop);
  byId("zoom-in").addEventListener("click", () => detail.zoom(2));
  byId("zoom-out").addEventListener("click", () => detail.zoom(0.5));
  byId("threshold").addEventListener("input", markUncertain);
  byId("next-uncertain").addEventListener("click", nextUncertain);
  byId("search").addEventListener("input", search);
  const steps = { PageUp: -LONG_STEP_MS, PageDown: LONG_STEP_MS, ArrowUp: STEP_MS, ArrowDown: -STEP_MS, Home: -Infinity, End: Infinity };
  byId("waveform").addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    moveBy(steps[event.key])();
  });
  enableShortcuts(
    {
      " ": () => audio.toggle(),
      ArrowLeft: moveBy(-STEP_MS),
      ArrowRight: moveBy(STEP_MS),
      j: () => moveByCue(1),
      k: () => moveByCue(-1),
      u: nextUncertain,
      l: toggleLoop,
      "<": () => changeRate(-1),
      ">": () => changeRate(1),
      "+": () => detail.zoom(2),
      "-": () => detail.zoom(0.5),
      f: toggleFullScreen,
      "/": () => byId("search").focus(),
      e: () => view === list && byId("edit")?.click(),
      "?": () => view === list && (byId("keys").open = !byId("keys").open),
    },
    { help: byId("keys"), checkbox: byId("keys-enabled") },
  );

  // -- data --

  function setLength(ms) {
    length_ms = ms;
    for (const part of [audio, detail, full]) part.length_ms = length_ms;
    byId("length").textContent = clock(length_ms);
    byId("waveform").setAttribute("aria-valuemax", Math.floor(length_ms / 1000));
  }

  function showCues(response, isChanged) {
    setLength(response.offset_ms + response.duration_ms);
    withoutText = [...response.missing, ...response.unheard];
    edited = response.saved_ms ? ` · ${response.author ? message("edited_by", { author: response.author }) : message("edited")}` : "";
    list.show(response.cues, response.language, isChanged);
    list.showSecond(second, byId("screen-second").lang);
    markUncertain();
    search();
    setLooped(-1);
    byId("screen").dataset.cue = "none";
    byId("screen").lang = response.language ?? "";
    showPosition();
  }

  function chooseTrack() {
    track = tracks[byId("track").value];
    // A translation follows the transcript, which is what is edited.
    if (byId("edit")) byId("edit").hidden = byId("edit").disabled = Boolean(track.language);
    layout.start().catch(showFailure);
  }

  async function chooseSecond() {
    const chosen = tracks[byId("second")?.value];
    secondRequest.abort();
    const { signal } = (secondRequest = new AbortController());
    let response = null;
    try {
      if (chosen) response = await fetchCues(job, chosen, {}, signal);
    } catch (error) {
      if (!signal.aborted) showFailure(error);
    }
    if (signal.aborted) return; // another language is chosen
    byId("screen-second").lang = response?.language ?? "";
    second = response?.cues ?? [];
    byId("screen-second").dataset.cue = "none";
    view.showSecond(second, byId("screen-second").lang);
    showPosition();
  }

  const showFailure = (error) => (byId("count").textContent = message("failed", { cause: error.message }));

  /** Show cues that are not final: those of segments that are transcribed. */
  function showProvisional(cues, language) {
    byId("cues").hidden = !cues.length;
    list.update(cues, language, !audio.isPlaying);
    for (const waveform of [detail, full]) waveform.setCues(cues, [], []);
    byId("count").textContent = message("cues", { n: cues.length });
    byId("screen").dataset.cue = "none";
    byId("screen").lang = language;
    showPosition();
  }

  /** Show what can be played, from the start of a job that is done, else once its file is read. */
  function showMedia(ms) {
    byId("media").hidden = false;
    if (ms) setLength(ms);
    byId("play").disabled = audio.isMissing;
    startPicture();
    fetchWaveform(job).then((waveform) => {
      peaks = waveform;
      for (const one of [detail, full]) one.setPeaks(waveform);
    }, () => {});
    seekToHash();
    showPosition();
  }

  /** Load the cues of the job, and show the controls that need them. */
  function startCues() {
    layout ??= new LayoutForm(byId("layout"), job, () => track, showCues);
    if (byId("track")) byId("track").onchange = chooseTrack;
    if (byId("second")) byId("second").onchange = chooseSecond;
    if (byId("edit")) {
      byId("edit").hidden = Boolean(track.language);
      byId("edit").onclick = edit;
    }
    for (const id of ["tools", "tracks"]) if (byId(id)) byId(id).hidden = false;
    byId("pages")?.remove();
    layout.start().catch(showFailure);
    if (byId("second")?.value) chooseSecond();
  }

  /**
   * Replace provisional cues by those of the job, or update what depends on its state; `player`: of the new page. Playback continues.
   * While the editor is open, this waits until it is closed.
   */
  function showFinal(player) {
    if (isEditing) {
      postponed = player;
      return;
    }
    stopText();
    delete byId("player").dataset.provisional;
    byId("cues").hidden = false;
    for (const id of ["cues-head", "side-panels"]) morph(byId(id), player.querySelector(`#${id}`));
    replaceTracks(JSON.parse(player.dataset.tracks), player.querySelector("#tracks"));
    startCues();
  }

  /** Replace the tracks by those of a new page; `selects` chooses between them, null if there is only one. What is chosen stays if it exists. */
  function replaceTracks(next, selects) {
    const indexOf = (chosen) => next.findIndex(({ task, language }) => chosen && task === chosen.task && language === chosen.language);
    const index = Math.max(0, indexOf(track));
    const indexOfSecond = indexOf(tracks[byId("second")?.value]);
    tracks = next;
    track = tracks[index];
    byId("tracks")?.remove();
    if (selects) {
      byId("tools").before(selects);
      byId("track").value = index;
      if (indexOfSecond >= 0) byId("second").value = indexOfSecond;
    }
    if (indexOfSecond < 0) chooseSecond();
  }

  // -- the editor --

  const forEditor = {
    job,
    audio,
    get track() {
      return track;
    },
    get second() {
      return { cues: second, language: byId("screen-second").lang };
    },
    get peaks() {
      return peaks;
    },
    /** Show changed cues. */
    cuesChanged() {
      markUncertain();
      byId("screen").dataset.cue = "none";
      showPosition();
    },
    setSelected(index) {
      detail.setSelected(index);
      if (looped >= 0) setLooped(index);
    },
    zoom: (factor) => detail.zoom(factor),
    toggleLoop,
    changeRate,
    /**
     * `onMove` receives cue, "start", "end" or "both", and the time of that edge (of "both": the start) while it is dragged;
     * `onEnd` is called afterwards, `onSelect` receives a cue that is clicked.
     */
    onDrag: (onMove, onEnd, onSelect) => (detail.drag = { onMove, onEnd, onSelect }),
    editorClosed() {
      list.show(view.cues, byId("list").lang, () => false); // until the server's are here
      view = list;
      detail.drag = null;
      detail.setSelected(-1);
      detail.zoom(0);
      showEditing(false);
      endEditing();
      layout.start().catch(showFailure);
      byId("edit").focus();
    },
  };

  function showEditing(isShown) {
    for (const id of ["scroll", "tools", "edit"]) byId(id).hidden = isShown;
    byId("follow").hidden = true;
    if (byId("track")) byId("track").parentElement.hidden = isShown;
    for (const field of byId("layout").elements) field.disabled = isShown;
  }

  function endEditing() {
    isEditing = false;
    if (postponed) showFinal(postponed);
    postponed = null;
  }

  async function edit() {
    isEditing = true;
    byId("edit").disabled = true;
    audio.pause();
    try {
      const { openEditor } = await import("./editor.js");
      const editor = await openEditor(forEditor, () => showEditing(true));
      view = editor;
      forEditor.cuesChanged();
    } catch (error) {
      showEditing(false);
      endEditing();
      showFailure(error);
    }
    byId("edit").disabled = false;
  }

  const seekToHash = () => {
    const start = /^#t=([\d.]+)$/.exec(location.hash);
    if (start && length_ms) seek(Number(start[1]) * 1000);
  };
  addEventListener("hashchange", seekToHash);
  byId("controls").hidden = false;
  showState();
  const stopText = provisional === undefined ? () => {} : followText(job, showProvisional);
  if (provisional === undefined) startCues();
  if (length_ms || provisional === undefined) showMedia(length_ms);
  // An edit that the server may lack: a closed tab, a lost connection.
  const unsaved = byId("edit") ? tracks.findIndex((one) => hasUnsavedEdit(job, one)) : -1;
  if (unsaved >= 0) {
    track = tracks[unsaved];
    if (byId("track")) byId("track").value = unsaved;
    edit();
  }
  return { showMedia, showFinal };
}

/** Return the index of the last cue that starts at or before a time; -1 before the first. */
function lastBefore(cues, ms) {
  let [low, high] = [0, cues.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (cues[middle].start_ms <= ms) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

async function fetchWaveform(job) {
  const response = await fetch(`/api/jobs/${job}/waveform`);
  if (!response.ok) throw new Error(response.status);
  const waveform = await response.json();
  return { ...waveform, peaks: Uint8Array.from(atob(waveform.peaks), (char) => char.charCodeAt(0)) };
}
