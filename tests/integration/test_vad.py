"""The VAD finds what the silero-vad package finds, whatever it is fed in."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import media
from subtitled.config import schema
from subtitled.core.plan import FRAME, Span
from subtitled.media.vad import FallbackSpeech, Speech, Vad, VadUpdate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

RATE = 16_000
REFERENCE = json.loads((Path(__file__).parent.parent / "data" / "vad.json").read_text())


@functools.cache
def mixtures() -> dict[str, NDArray[np.int16]]:
    """Return the recordings that the reference was made from."""
    return media.mixtures()


def vad_settings(settings: dict[str, Any]) -> tuple[schema.VadConfig, int]:
    return schema.VadConfig(settings["threshold"], settings["min_silence_ms"], settings["pad_ms"]), settings[
        "min_speech_ms"
    ]


def listen(
    pcm: NDArray[np.int16], settings: dict[str, Any], sizes: Iterator[int] | None = None
) -> list[VadUpdate]:
    kept, min_speech_ms = vad_settings(settings)
    vad = Vad(kept, min_speech_ms=min_speech_ms)
    heard = []
    while len(pcm):
        size = len(pcm) if sizes is None else next(sizes)
        heard += vad.feed(pcm[:size])
        pcm = pcm[size:]
    return [*heard, vad.finish()]


def spans_of(heard: list[VadUpdate]) -> list[Span]:
    return [span for report in heard for span in report.spans]


@pytest.mark.parametrize(
    "case", REFERENCE["recordings"], ids=lambda case: f"{case['name']}-{case['settings']}"
)
def test_spans_are_those_of_the_package(case: dict[str, Any]) -> None:
    heard = listen(mixtures()[case["name"]], case["settings"])
    assert [[span.start, span.end] for span in spans_of(heard)] == case["spans"]


def test_probabilities_are_those_of_the_package() -> None:
    """The converted model differs from the package's by rounding only."""
    expected = REFERENCE["probabilities"]
    vad = Vad(schema.VadConfig(), min_speech_ms=100)
    vad.feed(mixtures()[expected["name"]][: len(expected["values"]) * FRAME])
    _, found = vad._evaluate(len(expected["values"]))
    np.testing.assert_allclose(found, expected["values"], atol=1e-4)


@pytest.mark.parametrize("step", [1, 7, 1_000])
def test_verdicts_become_the_spans_of_the_package(step: int) -> None:
    for case in REFERENCE["verdicts"]:
        kept, min_speech_ms = vad_settings(case["settings"])
        speech = Speech(kept, min_speech_ms=min_speech_ms)
        verdicts = [value / 100 for value in case["percent"]]
        parts = [verdicts[at : at + step] for at in range(0, len(verdicts), step)]
        heard = [speech.feed([0] * len(part), part) for part in parts[:-1]]
        heard.append(speech.finish([0] * len(parts[-1]), parts[-1], case["samples"]))
        assert [[span.start, span.end] for span in spans_of(heard)] == case["spans"], case


def test_what_is_said_of_unfinished_speech_comes_true() -> None:
    """Promises made early (`talking`, `settled`) hold for the spans that come later."""
    for case in REFERENCE["verdicts"]:
        kept, min_speech_ms = vad_settings(case["settings"])
        speech = Speech(kept, min_speech_ms=min_speech_ms)
        promises = []
        for at, value in enumerate(case["percent"][:-1]):
            report = speech.feed([0], [value / 100])
            if report.talking is not None:
                assert report.talking.end <= (at + 1) * FRAME
                promises.append(report.talking)
            later = [span for span in case["spans"] if span[0] < report.settled]
            assert [span for span in later if span[1] > (at + 1) * FRAME] == []
        for promise in promises:
            assert any(start == promise.start and promise.end <= end for start, end in case["spans"])


ROWS = st.lists(st.tuples(st.sampled_from([0, 100]), st.integers(1, 300)), min_size=1, max_size=30)


@hypothesis_settings(max_examples=100)
@given(ROWS, ROWS, st.integers(1, 700))
def test_speech_of_the_fallback_is_given_where_the_chosen_mix_has_none(
    chosen_runs: list[tuple[int, int]], fallback_runs: list[tuple[int, int]], step: int
) -> None:
    rows = [[value for value, count in runs for _ in range(count)] for runs in (chosen_runs, fallback_runs)]
    frames = max(map(len, rows))
    percent = [np.pad(row, (0, frames - len(row))) for row in rows]
    speeches = [Speech(schema.VadConfig(pad_ms=0), min_speech_ms=100) for _ in rows]
    uncovered = FallbackSpeech()
    updates: list[list[VadUpdate]] = [[], [], []]
    for start in range(0, frames, step):
        parts = [row[start : start + step] / 100 for row in percent]
        is_last = start + step >= frames
        for speech, part, found in zip(speeches, parts, updates, strict=False):
            levels, probabilities = [0] * len(part), part.tolist()
            found.append(
                speech.finish(levels, probabilities, frames * FRAME)
                if is_last
                else speech.feed(levels, probabilities)
            )
        updates[2].append(uncovered.feed(updates[0][-1], updates[1][-1], is_last=is_last))
        assert sum(span.end - span.start for span in uncovered._waiting) <= (step + 2_000) * FRAME
    chosen, fallback, given_spans = map(spans_of, updates)
    marks = np.zeros((3, frames), np.bool_)
    for row, spans in zip(marks, (chosen, fallback, given_spans), strict=True):
        for span in spans:
            row[span.start // FRAME : -(-span.end // FRAME)] = True
    assert not (marks[2] & (marks[0] | ~marks[1])).any()
    for span in fallback:
        inside = marks[:, span.start // FRAME : -(-span.end // FRAME)]
        missing = inside[1] & ~inside[0] & ~inside[2]
        if not inside[0].any():
            assert not missing.any(), "speech that nothing covers is given whole"
        runs = "".join("x" if one else " " for one in missing).split()
        assert all(len(run) * FRAME < RATE + FRAME for run in runs)
    starts = [update.settled for update in updates[2]]
    for at, update in enumerate(updates[2][1:]):
        assert all(span.start >= starts[at] for span in update.spans)


@pytest.mark.parametrize("pad_ms", [0, 30])
def test_long_fallback_speech_that_ends_where_a_batch_ends_makes_no_empty_span(pad_ms: int) -> None:
    chosen, fallback = (Speech(schema.VadConfig(pad_ms=pad_ms), min_speech_ms=100) for _ in range(2))
    uncovered = FallbackSpeech()
    found = []
    for value, count in [(1.0, 2_000), (0.0, 100), (1.0, 2_000)]:
        updates = [
            speech.feed([0] * count, [probability] * count)
            for speech, probability in ((chosen, 0.0), (fallback, value))
        ]
        found.append(uncovered.feed(*updates))
    updates = [speech.finish([], [], 4_100 * FRAME) for speech in (chosen, fallback)]
    spans = spans_of([*found, uncovered.feed(updates[0], updates[1], is_last=True)])
    assert spans
    assert all(span.start < span.end for span in spans)
    assert spans[-1].end == 4_100 * FRAME


@hypothesis_settings(max_examples=15)
@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=20), st.sampled_from(["pauses", "bursts"]))
def test_spans_do_not_depend_on_the_block_size(sizes: list[int], name: str) -> None:
    pcm = mixtures()[name][:400_123]
    settings = REFERENCE["recordings"][0]["settings"]
    cycle = (sizes[number % len(sizes)] for number in range(10**9))
    streamed, whole = listen(pcm, settings, cycle), listen(pcm, settings)
    assert spans_of(streamed) == spans_of(whole)
    levels = [level for report in streamed for level in report.levels]
    assert levels == [level for report in whole for level in report.levels]
    assert len(levels) == -(-len(pcm) // FRAME)


def test_speech_too_short_to_keep_is_reported() -> None:
    settings = {"threshold": 0.5, "min_speech_ms": 250, "min_silence_ms": 100, "pad_ms": 30}
    every = {**settings, "min_speech_ms": 0, "pad_ms": 0}
    kept = listen(mixtures()["bursts"], {**settings, "pad_ms": 0})
    skipped = [span for report in kept for span in report.skipped]
    assert skipped
    assert all(span.end - span.start <= 250 * 16 for span in skipped)
    assert sorted(skipped + spans_of(kept), key=lambda span: span.start) == spans_of(
        listen(mixtures()["bursts"], every)
    )


def test_levels_are_mean_squares() -> None:
    pcm = np.repeat(np.array([0, 3, -32_768], np.int16), FRAME)
    assert listen(pcm, REFERENCE["recordings"][0]["settings"])[-1].levels == [0, 9, 32_768**2]


def test_silence_and_nothing_hold_no_speech() -> None:
    settings = REFERENCE["recordings"][0]["settings"]
    assert spans_of(listen(media.silence(40), settings)) == []
    assert listen(np.empty(0, np.int16), settings) == [VadUpdate([], (), (), None, 0)]


def test_the_package_that_needs_torch_is_not_imported() -> None:
    listen(media.silence(1), REFERENCE["recordings"][0]["settings"])
    assert "silero_vad" not in sys.modules
    assert "torch" not in sys.modules


def test_the_runtime_of_the_vad_has_no_telemetry(tmp_path: Path) -> None:
    """Onnxruntime 1.32 writes a device id and a database of events into HOME when it is imported."""
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "from subtitled.media.vad import Vad; from subtitled.config.schema import *; Vad(VadConfig(), min_speech_ms=0)",
        ],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert list(tmp_path.rglob("*")) == []
