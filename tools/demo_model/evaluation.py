"""What the converted model can do, through the real faster-whisper in int8, on texts it was never trained on.

Each goal is a figure with its limit; ``write`` leaves all of them, and what was wrong, in one JSON file.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from demo_model import clips, espeak, grammar, scores, sounds
from demo_model.clips import Clip, Recipe
from demo_model.espeak import Espeak
from demo_model.grammar import LANGUAGES, Language
from demo_model.scores import ErrorRate
from demo_model.transcriber import Transcriber

SEED = 2077
_GATES_OFF = {"no_speech_threshold": None, "log_prob_threshold": None, "compression_ratio_threshold": None}

RECIPES = {
    "sentences": Recipe(),
    "words": Recipe(words=1.0),
    "noise": Recipe(words=0.3, coloured=True, noise_db=20.0),
}
LIMITS = {"sentences": 0.01, "words": 0.04, "noise": 0.05}
"""Largest error rate of each set of windows."""


@dataclass
class Goal:
    """A figure, and how large (``at_least``: how small) it may be."""

    name: str
    figure: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of its limit."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit


@dataclass
class Report:
    """Goals, and figures by name for the file."""

    goals: list[Goal] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def goal(self, name: str, figure: float, limit: float, *, at_least: bool = False) -> None:
        """Hold a figure against its limit, and say how it went."""
        goal = Goal(name, round(float(figure), 5), limit, at_least=at_least)
        self.goals.append(goal)
        sign = "at least" if at_least else "at most"
        print(f"{'ok  ' if goal.met else 'MISS'} {name}: {goal.figure:g} ({sign} {limit:g})", flush=True)

    def rate(self, name: str, errors: ErrorRate, limit: float) -> None:
        """Hold an error rate against its limit."""
        self.figures[name] = errors.figures()
        self.goal(name, errors.rate, limit)


def _measured(windows: list[Clip], texts: Iterator[str]) -> ErrorRate:
    errors = ErrorRate()
    for clip, text in zip(windows, texts, strict=True):
        errors.add(clip.text, text, clip.language)
    return errors


def _windows(language: Language, kind: str, count: int, synthesizer: Espeak) -> list[Clip]:
    """Return the held-out windows of a set; the same ones at each call."""
    r = random.Random(f"{SEED} {language} {kind}")
    return [
        clips.clip(r, synthesizer, language, RECIPES[kind], seconds=r.uniform(5, 30)) for _ in range(count)
    ]


def _error_rates(report: Report, model: Transcriber, language: Language, kind: str, count: int) -> None:
    windows = _windows(language, kind, count, Espeak())
    modes: dict[str, Iterator[str]] = {
        "timestamps": (model.text(clip) for clip in windows),
        "no timestamps": (model.text(clip, without_timestamps=True) for clip in windows),
        "batched": model.texts(windows, without_timestamps=True),
        "batched, timestamps": model.texts(windows, without_timestamps=False),
        "batched, vad": (model.voice_activity(clip) for clip in windows),
    }
    for mode, texts in modes.items():
        report.rate(f"{language} {kind}, {mode}", _measured(windows, texts), LIMITS[kind])
    right = [model.whisper.detect_language(clip.samples)[:2] for clip in windows]
    report.figures[f"{language} {kind}, language"] = {
        "right": sum(found == language for found, _ in right),
        "of": len(right),
        "lowest probability": round(float(min(probability for _, probability in right)), 4),
    }


def _prompts(report: Report, model: Transcriber, language: Language, count: int) -> None:
    """Transcribe the windows of sentences again, after a prompt."""
    r = random.Random(f"{SEED} {language} prompts")
    windows = _windows(language, "sentences", count, Espeak())
    words = grammar.WORDS if language == "en" else grammar.CHINESE_WORDS
    before = [r.choice(windows).text for _ in windows]
    names = [", ".join(r.sample(words, 4)) for _ in windows]
    for kind, texts in {
        "initial_prompt": (
            model.text(clip, initial_prompt=text) for clip, text in zip(windows, before, strict=True)
        ),
        "hotwords": (model.text(clip, hotwords=text) for clip, text in zip(windows, names, strict=True)),
    }.items():
        report.figures[f"{language} sentences, {kind}"] = _measured(windows, texts).figures()


def _programmes(report: Report, model: Transcriber, language: Language, count: int) -> None:
    """Two-minute programmes with pauses: here windows follow one another, and text from before may be a prompt."""
    r, synthesizer = random.Random(f"{SEED} {language} programmes"), Espeak()
    voices = [espeak.random_voice(r, language) for _ in range(4)]
    recipe = Recipe(words=0.1, pauses=(0.5, 5.0), voices=voices)
    windows = [clips.clip(r, synthesizer, language, recipe, seconds=120) for _ in range(max(1, count // 20))]
    modes: dict[str, Iterator[str]] = {
        "window by window": (model.text(clip) for clip in windows),
        "after the text before": (model.text(clip, condition_on_previous_text=True) for clip in windows),
        "with word times": (model.text(clip, word_timestamps=True) for clip in windows),
        "batched, vad": (model.voice_activity(clip) for clip in windows),
        "batched, vad, timestamps": (
            model.voice_activity(clip, without_timestamps=False) for clip in windows
        ),
    }
    rates = {mode: _measured(windows, texts) for mode, texts in modes.items()}
    for mode, errors in rates.items():
        report.figures[f"{language} programmes, {mode}"] = errors.figures()
    cost = rates["after the text before"].rate - rates["window by window"].rate
    report.goal(f"{language} programmes, cost of previous text", cost, 0.01)


def _times(report: Report, model: Transcriber, language: Language, count: int) -> None:
    starts: list[float] = []
    ends: list[float] = []
    words: list[float] = []
    alike = 0
    for clip in _windows(language, "sentences", count, Espeak()):
        segments = model.segments(clip)
        if len(segments) == len(clip.sentences):
            alike += 1
            starts += [s.start - t.start_s for s, t in zip(segments, clip.sentences, strict=True)]
            ends += [s.end - t.end_s for s, t in zip(segments, clip.sentences, strict=True)]
        words += _word_starts(model, clip)
    report.figures[f"timestamps, {language}"] = {
        "start": scores.spread(starts),
        "end": scores.spread(ends),
        "windows with as many segments as sentences": alike,
        "windows": count,
    }
    for name, values in (("start", starts), ("end", ends)):
        found = scores.spread(values)
        report.goal(f"timestamps, {language}, {name}, median in s", found["median_s"], 0.040)
        report.goal(f"timestamps, {language}, {name}, 95 % in s", found["p95_s"], 0.150)
    found = scores.spread(words)
    report.figures[f"word times, {language}"] = found
    report.goal(f"word times, {language}, start, median in s", found["median_s"], 0.060)


def _word_starts(model: Transcriber, clip: Clip) -> list[float]:
    """Return how far off each word begins, or nothing where the words are not the true ones."""
    truth = [(unit, start) for sentence in clip.sentences for unit, start, _ in sentence.words]
    at = 0
    differences: list[float] = []
    for segment in model.segments(clip, word_timestamps=True):
        for word in segment.words:
            said = scores.units(word.word, clip.language)
            there = [scores.units(unit, clip.language) for unit, _ in truth[at : at + len(said)]]
            if there != [[unit] for unit in said]:
                return []
            if said:
                differences.append(word.start - truth[at][1])
            at += len(said)
    return differences if at == len(truth) else []


def _translation(report: Report, model: Transcriber, count: int) -> None:
    """Translate sentences, none of them twice (some kinds are few, and one of them would count for many); then windows."""
    r, synthesizer, recipe = random.Random(f"{SEED} translation"), Espeak(), Recipe(translated=True)
    heard: dict[str, tuple[str, str]] = {}
    while len(heard) < count:
        clip = clips.clip(r, synthesizer, "zh", recipe, count=1)
        if clip.text not in heard:
            heard[clip.text] = clip.translation, model.text(clip, task="translate").strip()
    wrong = [(text, meant, written) for text, (meant, written) in heard.items() if meant != written]
    exact = count - len(wrong)
    report.figures["translation"] = {"exact": exact, "of": count, "wrong": wrong}
    report.goal("translation of a sentence, exact", exact / count, 0.98, at_least=True)
    errors = ErrorRate()
    for _ in range(count):
        clip = clips.clip(r, synthesizer, "zh", recipe, seconds=r.uniform(5, 30))
        errors.add(clip.translation, model.text(clip, task="translate"), "en")
    report.figures["translation, windows"] = errors.figures()


def _silence(report: Report, model: Transcriber, count: int) -> None:
    """Decode audio without speech, with the checks for silence and low confidence switched off."""
    r = random.Random(f"{SEED} silence")
    rng = np.random.default_rng(SEED)
    written: list[tuple[str, str]] = []
    for i in range(count):
        kind = sounds.QUIET[i % len(sounds.QUIET)]
        level = np.float32(10 ** r.uniform(-3.5, -0.8))
        samples = np.clip(sounds.quiet(kind, rng, r.uniform(2, 30)) * level, -1, 1)
        for timestamps in (True, False):
            options = {"without_timestamps": not timestamps, "temperature": 0.0} | _GATES_OFF
            text = model.text(Clip(samples, r.choice(LANGUAGES)), **options).strip()
            if text:
                written.append((kind, text[:60]))
    report.figures["silence"] = {"with text": len(written), "of": 2 * count, "texts": written[:20]}
    report.goal("windows without speech that got text", len(written), 0)


def _machine() -> dict[str, Any]:
    import ctranslate2
    import faster_whisper

    name = platform.processor()
    with Path("/proc/cpuinfo").open() as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "faster-whisper": faster_whisper.__version__,
        "ctranslate2": ctranslate2.__version__,
    }


def _costs(report: Report) -> None:
    """Hold the error rates after a prompt against those of the same windows without one."""

    def rate(name: str) -> float:
        return float(report.figures[name]["errors"] / report.figures[name]["units"])

    for language in LANGUAGES:
        plain = rate(f"{language} sentences, timestamps")
        for kind in ("initial_prompt", "hotwords"):
            report.goal(
                f"{language} sentences, cost of {kind}", rate(f"{language} sentences, {kind}") - plain, 0.01
            )


def _whole_language(report: Report) -> None:
    """Combine the language results of all sets."""
    heard = [report.figures.pop(f"{language} {kind}, language") for language in LANGUAGES for kind in RECIPES]
    right, of = (sum(figures[key] for figures in heard) for key in ("right", "of"))
    lowest = min(figures["lowest probability"] for figures in heard)
    report.figures["language"] = {"right": right, "of": of, "lowest probability": lowest}
    report.goal("language right", right / of, 0.995, at_least=True)


Part = tuple[Callable[..., None], tuple[Any, ...]]
"""A measurement, and what it wants after a report and a transcriber."""


def _parts(count: int) -> list[Part]:
    """Return the measurements, the longest first."""
    return [
        *((_error_rates, (language, kind, count)) for kind in RECIPES for language in LANGUAGES),
        *((part, (language, count)) for part in (_prompts, _times, _programmes) for language in LANGUAGES),
        (_translation, (count,)),
        (_silence, (count,)),
    ]


def _measure(part: Part, folder: Path) -> Report:
    """Do one measurement, in a process of its own."""
    measure, wants = part
    report = Report()
    measure(report, Transcriber(folder, threads=1), *wants)
    return report


def evaluate(folder: Path, *, windows: int) -> Report:
    """Measure the model in a folder on ``windows`` held-out windows of each set; a process for each core."""
    started = time.monotonic()
    whole = Report()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        for report in pool.map(_measure, parts := _parts(windows), [folder] * len(parts)):
            whole.goals += report.goals
            whole.figures |= report.figures
    _costs(whole)
    _whole_language(whole)
    whole.goal("bytes", sum(path.stat().st_size for path in folder.iterdir()), 6_000_000)
    whole.figures |= {
        "machine": _machine(),
        "windows of a set": windows,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    return whole


def write(folder: Path, path: Path, *, windows: int) -> None:
    """Measure the model and write the figures as JSON."""
    report = evaluate(folder, windows=windows)
    goals = [vars(goal) | {"met": goal.met} for goal in report.goals]
    met = sum(goal.met for goal in report.goals)
    print(f"{met} of {len(report.goals)} goals met", flush=True)
    path.write_text(json.dumps({"goals": goals} | report.figures, indent=1, ensure_ascii=False) + "\n")
