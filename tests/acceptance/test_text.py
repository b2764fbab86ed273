"""The text of a file is what faster-whisper gives when it is called directly on the same segments."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from faster_whisper import WhisperModel

import media
from daemon import Daemon, InboxFolder
from subtitled.backend import SegmentResult
from subtitled.cues.render import read_json
from subtitled.ingest import recut
from subtitled.model import locate
from subtitled.rows import read_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from subtitled.core.plan import Plan

MIXED = ("pauses", "bursts", "in noise", "cut off in a word")
WITH_WORDS = {"word_timestamps": True, "language": "en"}
FILES = ("demo.flac", "demo-zh.flac", *(f"{name}.flac" for name in MIXED))


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    """Return the model, loaded as anybody would."""
    return WhisperModel(str(locate("demo")), device="cpu", compute_type="int8", cpu_threads=1)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon that has been given all files, in sentences and in pieces of them."""
    folder = tmp_path_factory.mktemp("daemon")
    with Daemon(folder, inboxes=(InboxFolder(), InboxFolder(name="words", options=WITH_WORDS))) as running:
        mixtures = media.mixtures()
        for name in MIXED:
            media.write_sound(folder / f"{name}.flac", mixtures[name][: 40 * media.RATE])
        for name in FILES:
            source = folder / name if (folder / name).exists() else media.DEMO / name
            running.drop(source, name)
        running.drop(media.DEMO / "demo.flac", "demo.flac", inbox=folder / "words")
        running.start()
        running.wait_for_jobs(len(FILES) + 1)
        running.stop()
        yield running


def stored(daemon: Daemon, source: Path) -> list[tuple[Plan, SegmentResult]]:
    """Return plan and result of each segment of a source: as the model gave it, before it is laid out."""
    rows = daemon.query(
        "SELECT plan, result FROM segments JOIN jobs ON jobs.id = segments.job WHERE source = ? ORDER BY idx",
        bytes(source),
    )
    return [(read_plan(plan), msgspec.msgpack.decode(result, type=SegmentResult)) for plan, result in rows]


def direct(
    model: WhisperModel, pcm: np.ndarray, language: str | None, *, word_timestamps: bool = False
) -> tuple[list[str], list[list[str]], float]:
    """Return the phrases, their words, and the highest temperature that was needed."""
    found, _ = model.transcribe(
        pcm.astype(np.float32) / 32768,
        language=language,
        condition_on_previous_text=False,
        word_timestamps=word_timestamps,
    )
    phrases = [phrase for phrase in found if phrase.text.strip()]
    words = [[word.word.strip() for word in phrase.words or ()] for phrase in phrases]
    return (
        [phrase.text.strip() for phrase in phrases],
        words,
        max((phrase.temperature for phrase in phrases), default=0.0),
    )


def squeezed(texts: Iterable[str]) -> str:
    return re.sub(r"\s", "", "".join(texts))


def is_sampled(result: SegmentResult) -> bool:
    """Say whether chance had a part in the text: faster-whisper draws tokens when the best ones look wrong."""
    return result.temperature > 0 or result.fallbacks > 0


@pytest.mark.parametrize("name", FILES)
def test_text_equals_that_of_faster_whisper(daemon: Daemon, model: WhisperModel, name: str) -> None:
    """Segment by segment, phrase by phrase, with pieces, padding, batches and two workers in between."""
    source = daemon.inbox / "done" / name
    segments = stored(daemon, daemon.inbox / name)
    [output] = daemon.outbox.glob(f"{source.stem}.??.json")
    shown = read_json(output.read_bytes()).segments
    prepared = recut(str(source), [plan for plan, _ in segments])
    compared = 0
    for (plan, result), cut, segment in zip(segments, prepared, shown, strict=True):
        pieces = [(piece.start // 16, (piece.start + piece.samples) // 16) for piece in plan.pieces]
        assert [(interval.start_ms, interval.end_ms) for interval in segment.pieces] == pieces
        texts, _, temperature = direct(model, cut.pcm, result.language)
        if not is_sampled(result):
            assert temperature == 0
            assert [phrase.text.strip() for phrase in result.phrases] == texts
            # In the file a phrase that runs over a pause is two.
            assert squeezed(phrase.text for phrase in segment.phrases) == squeezed(texts)
            compared += 1
    assert compared >= 0.8 * len(segments) > 0


def test_words_equal_those_of_faster_whisper(daemon: Daemon, model: WhisperModel) -> None:
    source = daemon.folder / "words" / "done" / "demo.flac"
    segments = stored(daemon, daemon.folder / "words" / "demo.flac")
    prepared = recut(str(source), [plan for plan, _ in segments])
    for (_, result), cut in zip(segments, prepared, strict=True):
        texts, words, _ = direct(model, cut.pcm, "en", word_timestamps=True)
        assert [phrase.text.strip() for phrase in result.phrases] == texts
        assert [[word.text.strip() for word in phrase.words] for phrase in result.phrases] == words
