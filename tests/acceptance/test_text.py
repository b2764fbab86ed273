"""The text of a file is what faster-whisper gives when it is called directly on the same segments."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from faster_whisper import WhisperModel

import media
from daemon import TWO_SLOTS, Daemon, InboxFolder
from subtitled.asr.model import locate
from subtitled.config import schema
from subtitled.config.layout_limits import limits_for
from subtitled.core.protocol import SegmentResult
from subtitled.cues.render import read_json
from subtitled.cues.text_width import columns, columns_per_char
from subtitled.cues.timing import reading_ms
from subtitled.media.ingest import recut

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from subtitled.core.plan import Plan

MIXED = ("pauses", "bursts", "in noise", "cut off in a word")
MODES = {"words": True, "plain": False, "auto": "auto"}
"""Inboxes by what they say of word times."""
TOLERANCE_MS = 250
FILES = ("demo.flac", "demo-zh.flac", *(f"{name}.flac" for name in MIXED))


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    """Return the model, loaded with default options."""
    return WhisperModel(str(locate("demo")), device="cpu", compute_type="int8", cpu_threads=1)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon that has been given all files, in sentences and in pieces of them."""
    folder = tmp_path_factory.mktemp("daemon")
    inboxes = (InboxFolder(name=name, options={"word_timestamps": mode}) for name, mode in MODES.items())
    with Daemon(
        folder, inboxes=(InboxFolder(), *inboxes), pool=TWO_SLOTS, segments=schema.SegmentsConfig()
    ) as running:
        mixtures = media.mixtures()
        for name in MIXED:
            media.write_sound(folder / f"{name}.flac", mixtures[name][: 30 * media.RATE])
        for name in FILES:
            source = folder / name if (folder / name).exists() else media.DEMO / name
            running.drop(source, name)
        for inbox in MODES:
            for name in ("demo.flac", "demo-zh.flac"):
                running.drop(media.DEMO / name, name, inbox=folder / inbox)
        running.start()
        running.wait_for_jobs(len(FILES) + 2 * len(MODES))
        running.stop()
        yield running


def stored(daemon: Daemon, source: Path) -> list[tuple[Plan, SegmentResult]]:
    """Return plan and result of each segment of a source: as the model gave it, before it is laid out."""
    [(job,)] = daemon.query("SELECT id FROM jobs WHERE source = ?", bytes(source))
    return [
        (row.plan, msgspec.msgpack.decode(row.result or b"", type=SegmentResult))
        for row in daemon.results(job)
    ]


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
    """Return whether the text may differ: faster-whisper draws tokens when the best ones look wrong."""
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
        if is_sampled(result):
            continue
        assert temperature == 0
        ours = [phrase.text.strip() for phrase in result.phrases]
        if result.windows > 1:
            # Speech without text is decoded again alone, not with all that follows it: words cut off in "pauses" differ.
            alike = SequenceMatcher(None, squeezed(ours), squeezed(texts), autojunk=False).ratio()
            assert alike >= 0.5
            compared += 1
            continue
        # faster-whisper continues from its last timestamp whatever follows; the engine only where there is speech.
        assert ours == texts[: len(ours)]
        assert len(ours) >= len(texts) - 1
        # In the file a phrase that runs over a pause is two.
        assert squeezed(phrase.text for phrase in segment.phrases) == squeezed(ours)
        compared += 1
    assert compared >= 0.8 * len(segments) > 0


def test_words_spell_the_text_that_is_heard_without_them(daemon: Daemon, model: WhisperModel) -> None:
    """faster-whisper with word times continues from the last word, and so hears "Bridge." twice here; the engine does not."""
    for name in ("demo.flac", "demo-zh.flac"):
        results = [result for _, result in stored(daemon, daemon.folder / "words" / name)]
        plain = [result for _, result in stored(daemon, daemon.folder / "plain" / name)]
        phrases = [phrase for result in results for phrase in result.phrases]
        assert [phrase.text for phrase in phrases] == [phrase.text for one in plain for phrase in one.phrases]
        assert all(phrase.words for phrase in phrases)
        assert not any(phrase.words for result in plain for phrase in result.phrases)
        for phrase in phrases:
            assert squeezed(word.text for word in phrase.words) == squeezed([phrase.text])
    source = daemon.folder / "words" / "done" / "demo.flac"
    [(plan, result), *_] = stored(daemon, daemon.folder / "words" / "demo.flac")
    [cut] = recut(str(source), [plan])
    _, words, _ = direct(model, cut.pcm, "en", word_timestamps=True)
    assert [[word.text.strip() for word in phrase.words] for phrase in result.phrases] == words


@pytest.mark.parametrize("inbox", MODES)
@pytest.mark.parametrize(("name", "output"), [("demo", "demo.en"), ("demo-zh", "demo-zh.zh")])
def test_cues_stand_within_a_quarter_second_of_what_is_said(
    daemon: Daemon, inbox: str, name: str, output: str
) -> None:
    """Each sentence is a phrase, and a cue or a part of one.

    A cue that is too short to be read may stay until it can have been, and one shortly before the next until that.
    """
    transcript = read_json((daemon.folder / f"{inbox}-out" / f"{output}.json").read_bytes())
    phrases = [phrase for segment in transcript.segments for phrase in segment.phrases]
    limits, per_char = limits_for(transcript.language), columns_per_char(transcript.language)
    for said, phrase in zip(media.true_text(name), phrases, strict=True):
        text = squeezed([said.text])
        place, cue = next((at, cue) for at, cue in enumerate(transcript.cues) if text in squeezed(cue.lines))
        following = transcript.cues[place + 1 : place + 2]
        if squeezed(cue.lines).startswith(text):
            assert abs(cue.start_ms - said.start_ms) <= TOLERANCE_MS, cue
        assert abs(phrase.end_ms - said.end_ms) <= TOLERANCE_MS, phrase
        if squeezed(cue.lines).endswith(text):
            read_ms = reading_ms(columns(" ".join(cue.lines)), per_char, limits)
            until_ms = max(said.end_ms, cue.start_ms + read_ms)
            if following and following[0].start_ms - until_ms < limits.chain_ms:
                until_ms = following[0].start_ms - limits.gap_ms
            assert said.end_ms - TOLERANCE_MS <= cue.end_ms <= until_ms + TOLERANCE_MS, cue
        for word in phrase.words:
            assert phrase.start_ms <= word.start_ms <= word.end_ms <= phrase.end_ms
