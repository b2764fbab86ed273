"""Errors, lost speech and cue times on recordings of real people: the daemon's path against faster-whisper's own programs.

    python benchmarks/accuracy.py [--model DIR] [--only FILE,FILE] [--programs engine,plain,vad,batched,timed] [--short]

    engine     reading, planning, decoding and layout as the daemon does it, in this process
    plain      `WhisperModel.transcribe`; vad: the same with its VAD filter
    batched    `BatchedInferencePipeline`; timed: the same with timestamps, which subtitles need

All with the same model, int8, beam 5, batch 8, defaults otherwise; the language is detected. `make real-model` fetches the model. The
recordings are in $SUBTITLED_REAL_SPEECH, or in `shared/real-speech` beside the checkout; they stay there. Errors are counted after
Whisper's own normalisation, in Chinese, Japanese and Korean by characters. Of the cues:

    lost       seconds of speech (VAD, half a second and more) that no text covers; in brackets without an `unheard` entry
    onset      median of first cue after a pause against the sound's onset (10 ms frames above a tenth of the file's level, and thrice its noise), ms
    cut        cues that end in mid-clause: without punctuation, the next one within a second
    windows    windows decoded, fallbacks not counted, of so many segments
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from parts.corpus import Errors, Recording, corpus_folder, errors_of, install_normaliser, load_corpus, tokens
from subtitled.asr.engine import Engine
from subtitled.asr.prompts import PromptRequest
from subtitled.config import schema
from subtitled.core.job_lifecycle import VOTES, language_vote
from subtitled.core.protocol import Media, SegmentResult
from subtitled.core.records import Job, Options, Segment, SegmentKey
from subtitled.core.states import JobState, SegmentState
from subtitled.cues.transcript import Transcript
from subtitled.media.decode import open_media
from subtitled.media.ingest import Ingest, IngestedSegment
from subtitled.media.vad import Vad
from subtitled.output.layout_process import compose
from subtitled.storage.rows import JobRow, ResultRow

BEAM, BATCH, RATE = 5, 8, 16_000
MIN_LOST_S = 0.5
CLAUSE_ENDS = "。、，．！？：；…‥.,!?:;-—–\"'”’)]）」』»"  # noqa: RUF001 - full-width punctuation is meant


class Outcome(Struct, kw_only=True):
    """What one program made of one file. Times are in ms of media time."""

    text: str
    language: str | None
    phrases: list[tuple[int, int]]
    cues: list[tuple[int, int, str]] = []
    unheard: list[tuple[int, int]] = []
    segments: int = 0
    windows: int = 0
    cpu_s: float = 0.0


Program = Callable[[Path], Outcome]


# -- the programs ------------------------------------------------------------------------------------------------------


def engine_program(model: Any) -> Program:
    """Return the daemon's path without its processes."""
    engine = Engine(model, beam_size=BEAM, batch_size=BATCH)

    def run(path: Path) -> Outcome:
        began = time.process_time()
        with Ingest(
            str(path), vad=schema.VadConfig(), segments=schema.SegmentsConfig(), window_s=30
        ) as ingest:
            segments = list(ingest)
            media = Media(
                offset_samples=ingest.info.offset_samples,
                decoded_samples=ingest.decoded_samples,
                skipped=ingest.skipped,
            )
        results, language = _decode(engine, segments)
        made = outcome_of(_transcript(path, media, segments, results, language))
        made.windows = sum(result.windows for result in results)
        made.cpu_s = time.process_time() - began
        return made

    return run


def _decode(engine: Engine, segments: Sequence[IngestedSegment]) -> tuple[list[SegmentResult], str]:
    """Decode as the broker has it done: in batches, the first of which vote on the language."""
    results: list[SegmentResult] = []

    def decode(chosen: Sequence[IngestedSegment], language: str | None) -> list[SegmentResult]:
        return engine.transcribe(
            [engine.features(segment.pcm) for segment in chosen],
            [PromptRequest(language=language)] * len(chosen),
            sounds=[segment.plan.sound() for segment in chosen],
            word_timestamps="auto",
        )

    def vote() -> str | None:
        spoken = [
            Segment(
                key=SegmentKey("a", at),
                state=SegmentState.DONE,
                plan=segments[at].plan,
                language=result.language,
                language_probability=result.language_probability,
            )
            for at, result in enumerate(results)
            if result.is_speech
        ]
        found = language_vote(spoken)
        is_settled = found and (len(spoken) >= VOTES or len(results) == len(segments))
        return found[0] if found and is_settled else None

    for first in range(0, len(segments), BATCH):
        results += decode(segments[first : first + BATCH], vote())
    language = vote()
    other = [at for at, result in enumerate(results) if result.is_speech and result.language != language]
    if other:
        again = decode([segments[at] for at in other], language)
        for at, result in zip(other, again, strict=True):
            results[at] = result
    return results, language or ""


def _transcript(
    path: Path,
    media: Media,
    segments: Sequence[IngestedSegment],
    results: Sequence[SegmentResult],
    language: str,
) -> Transcript:
    source = os.fsencode(path)
    job = Job(
        id="a",
        state=JobState.WRITING,
        source=source,
        location=source,
        size=1,
        mtime_ns=1,
        order=1,
        options=Options(),
        language=language,
    )
    rows = [
        ResultRow(
            index=segment.plan.index,
            state=SegmentState.DONE if result.is_speech else SegmentState.SKIPPED,
            plan=segment.plan,
            worker="cpu0.1",
            losses=0,
            cause="",
            result=msgspec.msgpack.encode(result),
        )
        for segment, result in zip(segments, results, strict=True)
    ]
    row = JobRow(job=job, media=msgspec.msgpack.encode(media), created_ms=0, started_ms=0, ended_ms=0)
    return compose(row, rows, model="real")


def outcome_of(transcript: Transcript) -> Outcome:
    """Return what is measured of a transcript."""
    phrases = [phrase for segment in transcript.segments for phrase in segment.phrases]
    return Outcome(
        text=" ".join(phrase.text for phrase in phrases),
        language=transcript.language,
        phrases=[(phrase.start_ms, phrase.end_ms) for phrase in phrases],
        cues=[(cue.start_ms, cue.end_ms, " ".join(cue.lines)) for cue in transcript.cues],
        unheard=[(gap.start_ms, gap.end_ms) for gap in (*transcript.unheard, *transcript.skipped)],
        segments=len(transcript.segments),
    )


def rival_program(model: Any, name: str) -> Program:
    """Return one of faster-whisper's programs."""
    from faster_whisper import BatchedInferencePipeline

    pipeline = BatchedInferencePipeline(model)
    calls: dict[str, Callable[[str], Any]] = {
        "plain": lambda path: model.transcribe(path, beam_size=BEAM),
        "vad": lambda path: model.transcribe(path, beam_size=BEAM, vad_filter=True),
        "batched": lambda path: pipeline.transcribe(path, beam_size=BEAM, batch_size=BATCH),
        "timed": lambda path: pipeline.transcribe(
            path, beam_size=BEAM, batch_size=BATCH, without_timestamps=False
        ),
    }

    def run(path: Path) -> Outcome:
        began = time.process_time()
        try:
            found, info = calls[name](str(path))
            phrases = [(round(one.start * 1000), round(one.end * 1000), one.text.strip()) for one in found]
        except (RuntimeError, ValueError) as error:  # the pipeline fails on files without speech
            print(f"{name} on {path.name}: {error}", file=sys.stderr)
            return Outcome(text="", language=None, phrases=[])
        return Outcome(
            text=" ".join(text for _, _, text in phrases),
            language=info.language,
            phrases=[(start_ms, end_ms) for start_ms, end_ms, _ in phrases],
            cues=phrases,
            cpu_s=time.process_time() - began,
        )

    return run


# -- the measures ------------------------------------------------------------------------------------------------------


class Sound(Struct, frozen=True):
    """What a file holds, in ms."""

    speech: list[tuple[int, int]]
    onsets: list[int]
    """Where sound begins after at least half a second without speech."""


def sound_of(path: Path) -> Sound:
    """Return where a file has speech, by the VAD, and where the sound of it begins."""
    with open_media(str(path)) as decoder:
        offset_ms = decoder.info.offset_samples * 1000 // RATE
        pcm = np.concatenate(list(decoder))
    vad = Vad(schema.VadConfig(pad_ms=0), min_speech_ms=100)
    spans = [span for report in (*vad.feed(pcm), vad.finish()) for span in report.spans]
    frames = np.sqrt(np.mean(pcm[: len(pcm) // 160 * 160].astype(float).reshape(-1, 160) ** 2, axis=1))
    loud = max(np.percentile(frames, 90) / 10, 3 * np.percentile(frames, 10)) if len(frames) else 0
    onsets = []
    ends = [-RATE, *(span.end for span in spans)]
    for end, span in zip(ends, spans, strict=False):
        if span.start - end < RATE // 2:
            continue
        first = max(0, span.start // 160 - 30)
        above = np.nonzero(frames[first : span.start // 160 + 30] > loud)[0]
        if len(above):
            onsets.append(offset_ms + (first + int(above[0])) * 10)
    speech = [(offset_ms + span.start // 16, offset_ms + span.end // 16) for span in spans]
    return Sound(speech, onsets)


def lost_s(speech: Iterable[tuple[int, int]], texts: Sequence[tuple[int, int]]) -> float:
    """Return the seconds of speech outside all of `texts`, in stretches of half a second and more."""
    total = 0.0
    for start, end in speech:
        at = start
        for first, last in [*sorted((first - 300, last + 300) for first, last in texts), (end, end)]:
            if min(first, end) - at >= MIN_LOST_S * 1000:
                total += (min(first, end) - at) / 1000
            at = max(at, last)
    return total


def onset_errors(cues: Sequence[tuple[int, int, str]], onsets: Sequence[int]) -> list[int]:
    """Return start of cue minus onset, for the onsets that have a cue starting within a second."""
    starts = [start for start, _, _ in cues]
    nearest = [min((start - onset for start in starts), key=abs, default=10_000) for onset in onsets]
    return [error for error in nearest if abs(error) <= 1000]


def cut_cues(cues: Sequence[tuple[int, int, str]]) -> int:
    """Return how many cues end in mid-clause."""
    return sum(
        one[2].rstrip()[-1:] not in CLAUSE_ENDS and other[0] - one[1] < 1000 for one, other in pairwise(cues)
    )


def report(
    name: str, made: dict[str, Outcome], recordings: Sequence[Recording], sounds: dict[str, Sound]
) -> None:
    """Print the figures of one program."""
    rows: dict[str, Errors] = {}
    onset: list[int] = []
    print(f"\n{name}")
    print(
        f"{'file':<24}{'said':>6}{'S':>5}{'D':>5}{'I':>5}{'errors':>9}{'lost':>8}{'cues':>6}{'cut':>5}{'onset':>8}{'windows':>9}"
    )
    lost = silent = 0.0
    for recording in recordings:
        found = made[recording.file]
        sound = sounds[recording.file]
        errors = Errors(0)
        if recording.text and recording.file != "fr_radio.mp3":
            errors = errors_of(
                tokens(recording.text, recording.language), tokens(found.text, recording.language)
            )
            groups = [recording.group] if recording.kind == "long" else [recording.group, "all"]
            for group in groups:
                rows[group] = rows.get(group, Errors(0)).plus(errors)
        missing = unreported = 0.0
        late: list[int] = []
        if recording.has_speech:
            missing = lost_s(sound.speech, found.phrases)
            unreported = lost_s(sound.speech, [*found.phrases, *found.unheard])
            late = onset_errors(found.cues, sound.onsets)
            lost, silent, onset = lost + missing, silent + unreported, onset + late
        median = f"{statistics.median(late):.0f}" if late else ""
        windows = f"{found.windows}/{found.segments}" if found.windows else ""
        print(
            f"{recording.file:<24}{errors.said:>6}{errors.substituted:>5}{errors.left_out:>5}{errors.added:>5}"
            f"{errors.share:>9.1%}{missing:>8.1f}{len(found.cues):>6}{cut_cues(found.cues):>5}{median:>8}{windows:>9}"
            f"  {found.language or ''}"
        )
        if not recording.has_speech and found.text.strip():
            print(f"    text without speech: {found.text.strip()[:100]}")
    for group, errors in sorted(rows.items()):
        print(
            f"{group:<12} n {errors.said:>5}  S {errors.substituted:>4}  D {errors.left_out:>4}  I {errors.added:>4}  {errors.share:.1%}"
        )
    cues = [cue for recording in recordings for cue in made[recording.file].cues]
    seconds = sum(end - start for sound in sounds.values() for start, end in sound.speech) / 1000
    print(
        f"speech without text {lost:.1f} s of {seconds:.0f} s ({silent:.1f} s of it not reported); {len(cues)} cues; start against onset {statistics.median(onset) if onset else 0:.0f} ms"
    )
    print(
        f"windows {sum(one.windows for one in made.values())} of {sum(one.segments for one in made.values())} segments; {sum(one.cpu_s for one in made.values()):.0f} s of processor time",
        flush=True,
    )


def main() -> None:
    """Read the command line; end early, with the reason, where the model or the recordings are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="", help="a faster-whisper folder; default: that of make real-model"
    )
    parser.add_argument("--programs", default="engine,plain,vad,batched,timed")
    parser.add_argument("--only", default="", metavar="FILE,FILE…")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--short", action="store_true", help="three recordings of a few seconds, the engine alone"
    )
    options = parser.parse_args()
    folder = corpus_folder()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    model_folder = options.model or str(cache / "subtitled" / "real-model" / "base")
    if not (folder / "corpus.json").is_file() or not Path(model_folder, "model.bin").is_file():
        print(
            f"skipped: {folder} or {model_folder} is missing; see make real-model and SUBTITLED_REAL_SPEECH"
        )
        return
    if options.short:
        options.only, options.programs = "jfk.flac,zh_net.wav,none_robin.ogg", "engine"
    with tempfile.TemporaryDirectory(prefix="accuracy-") as packages:
        install_normaliser(Path(packages))
        measure(options, folder, model_folder)


def measure(options: argparse.Namespace, folder: Path, model_folder: str) -> None:
    """Run the chosen programs on the chosen recordings."""
    chosen = set(filter(None, options.only.split(",")))
    recordings = [one for one in load_corpus(folder) if not chosen or one.file in chosen]
    sounds = {one.file: sound_of(folder / one.file) for one in recordings}
    from faster_whisper import WhisperModel

    model = WhisperModel(model_folder, device="cpu", compute_type="int8", cpu_threads=options.threads)
    for name in options.programs.split(","):
        program = engine_program(model) if name == "engine" else rival_program(model, name)
        made = {one.file: program(folder / one.file) for one in recordings}
        report(name, made, recordings, sounds)


if __name__ == "__main__":
    main()
