"""The part of MODEL.md about the run: machine, log, goals and figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from demo_model.evaluation import RECIPES
from demo_model.grammar import LANGUAGES

BEGIN, END = "<!-- what follows is written by demo_model.report -->\n", "<!-- end of what is written -->\n"
_LOG_LINES = 24
_NAMES = {
    "en": "English",
    "zh": "Chinese",
    "sentences": "sentences",
    "words": "random words",
    "noise": "noise, 20 dB",
}
_MODES = ("timestamps", "no timestamps", "batched", "batched, timestamps", "batched, vad")
_PROGRAMMES = (
    "window by window",
    "after the text before",
    "with word times",
    "batched, vad",
    "batched, vad, timestamps",
)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    titles = list(head)
    yield "| " + " | ".join(titles) + " |"
    yield "|" + "---|" * len(titles)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _percent(figures: dict[str, Any]) -> str:
    return f"{100 * figures['error_rate']:.2f} %"


def _goals(figures: dict[str, Any]) -> Iterator[str]:
    missed = [goal for goal in figures["goals"] if not goal["met"]]
    yield f"{len(figures['goals']) - len(missed)} of {len(figures['goals'])} goals are met."
    yield ""
    if missed:
        yield from _table(
            ("missed", "figure", "goal"),
            (
                (
                    goal["name"],
                    f"{goal['figure']:g}",
                    ("at least " if goal["at_least"] else "at most ") + f"{goal['limit']:g}",
                )
                for goal in missed
            ),
        )


def _lines(training: dict[str, Any], log: list[str], figures: dict[str, Any]) -> Iterator[str]:
    machine = figures["machine"]
    yield (
        f"Trained on {training['device']}, {machine['cores']} cores of {machine['processor']}: {training['steps']:,} steps in "
        f"{training['minutes']:g} minutes, {training['hours of windows']:g} hours of windows composed of "
        f"{training['utterances']:,} utterances ({training['hours of speech']:g} hours), seed {training['seed']}, torch "
        f"{training['torch']}. {training['parameters']:,} parameters. Measured in {figures['minutes']:g} minutes by "
        f"faster-whisper {machine['faster-whisper']}, CTranslate2 {machine['ctranslate2']}, CPU, int8, beam 5; "
        f"{figures['windows of a set']} windows of 5 to 30 s in each set."
    )
    yield ""
    yield from _goals(figures)
    yield "Error rates by words (Chinese: characters); case and punctuation are ignored:"
    yield ""
    yield from _table(
        ("set", *_MODES),
        (
            (
                f"{_NAMES[language]}, {_NAMES[kind]}",
                *(_percent(figures[f"{language} {kind}, {mode}"]) for mode in _MODES),
            )
            for language in LANGUAGES
            for kind in RECIPES
        ),
    )
    yield from _table(
        ("after a prompt", "none", "initial_prompt", "hotwords"),
        (
            (
                f"{_NAMES[language]}, sentences",
                *(
                    _percent(figures[f"{language} sentences, {kind}"])
                    for kind in ("timestamps", "initial_prompt", "hotwords")
                ),
            )
            for language in LANGUAGES
        ),
    )
    yield from _table(
        ("programmes of two minutes", *_PROGRAMMES),
        (
            (_NAMES[language], *(_percent(figures[f"{language} programmes, {mode}"]) for mode in _PROGRAMMES))
            for language in LANGUAGES
        ),
    )
    rows = {}
    for language in LANGUAGES:
        stamps = figures[f"timestamps, {language}"]
        rows[f"start of a sentence, {_NAMES[language]}"] = stamps["start"]
        rows[f"end of a sentence, {_NAMES[language]}"] = stamps["end"]
        rows[f"start of a word, {_NAMES[language]}"] = figures[f"word times, {language}"]
    yield from _table(
        ("time", "median", "95 %", "largest", "mean with sign", "n"),
        (
            (
                name,
                *(f"{1000 * found[key]:.0f} ms" for key in ("median_s", "p95_s", "largest_s", "bias_s")),
                str(found["n"]),
            )
            for name, found in rows.items()
        ),
    )
    alike, of = (
        sum(figures[f"timestamps, {language}"][key] for language in LANGUAGES)
        for key in ("windows with as many segments as sentences", "windows")
    )
    heard, silence, translation = figures["language"], figures["silence"], figures["translation"]
    yield f"- As many segments as sentences in {alike} of {of} windows."
    yield (
        f"- Language right in {heard['right']} of {heard['of']} windows (lowest probability "
        f"{heard['lowest probability']:g})."
    )
    yield (
        f"- Translation of a sentence exact in {translation['exact']} of {translation['of']}; of whole windows "
        f"{_percent(figures['translation, windows'])} of the words wrong."
    )
    yield (
        f"- Silence, noise and tones with all tests for silence off: text in {silence['with text']} of {silence['of']} runs."
    )
    yield ""
    yield "The log of the run, thinned out (`figures.json` has all figures, and what was wrong):"
    yield ""
    yield "```"
    every = max(1, len(log) // _LOG_LINES)
    yield from log[::every]
    yield "```"


def write(work: Path, figures: Path, document: Path) -> None:
    """Write the run of ``work`` and the figures of an evaluation into a document, between its two marks."""
    training = json.loads((work / "training.json").read_bytes())
    log = (work / "training.log").read_text().splitlines()
    text = document.read_text("utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    body = "\n".join(_lines(training, log, json.loads(figures.read_bytes())))
    document.write_text(f"{head}{BEGIN}\n{body}\n{END}{tail}", "utf-8")
