"""`subtitled render` creates subtitles from a stored transcript, without a model."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pysubs2
import pytest

from commands import run_binary
from subtitle import EditedCue
from subtitled.core.transcription import Word
from subtitled.cues.edits import with_edited_cues
from subtitled.cues.phrases import MediaPhrase
from subtitled.cues.render import render
from subtitled.cues.transcript import Interval, SegmentTranscript, Transcript, TranscriptEdit, with_cues

WORDS = ("The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog,", "and", "sleeps.")


def transcript(text: str = " ".join(WORDS), language: str = "en") -> Transcript:
    spoken = tuple(Word(f" {word}", 1000 + 400 * at, 1400 + 400 * at, 0.9) for at, word in enumerate(WORDS))
    phrase = MediaPhrase(text, 1000, 5400, spoken if language == "en" else ())
    whole = Interval(0, 6000)
    segment = SegmentTranscript(
        index=0, pieces=(whole,), spans=(whole,), device="cpu0", language=language, phrases=(phrase,)
    )
    return with_cues(
        Transcript(
            source="talk.mp4",
            duration_ms=6000,
            language=language,
            task="transcribe",
            model="demo",
            segments=(segment,),
        )
    )


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "talk.en.json"
    path.write_bytes(render("json", transcript()))
    return path


def rendered(*words: object, status: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = run_binary("subtitled", "render", *words)
    assert done.returncode == status, done.stderr.decode()
    return done


def lines(srt: bytes) -> list[list[str]]:
    return [event.plaintext.splitlines() for event in pysubs2.SSAFile.from_string(srt.decode(), "srt")]


def test_default_rendering_equals_the_daemons_output(stored: Path) -> None:
    assert rendered(stored).stdout.decode() == f"{stored.with_suffix('.srt')}\n"
    assert stored.with_suffix(".srt").read_bytes() == render("srt", transcript())


def test_edited_cues_stay_as_they_are_unless_a_layout_is_given(tmp_path: Path) -> None:
    edit = TranscriptEdit(version=1, saved_ms=1, author="Ada")
    cues = (EditedCue(start_ms=100, end_ms=5900, lines=("One, as", "edited")),)
    path = tmp_path / "talk.en.json"
    path.write_bytes(render("json", with_edited_cues(transcript(), cues, edit)))
    assert lines(rendered(path, "-o", "-").stdout) == [["One, as", "edited"]]
    assert lines(rendered(path, "--max-lines", 1, "-o", "-").stdout) == [["One, as edited"]]


def test_requested_limits_apply_and_no_word_is_lost(stored: Path) -> None:
    found = lines(rendered(stored, "--max-chars", 12, "--max-lines", 1, "--min-ms", 0, "-o", "-").stdout)
    assert all(len(cue) == 1 and len(cue[0]) <= 12 for cue in found)
    assert " ".join(line for cue in found for line in cue).split() == list(WORDS)


def test_raw_profile_keeps_phrases_unchanged(stored: Path) -> None:
    assert lines(rendered(stored, "--profile", "raw", "-o", "-").stdout) == [[" ".join(WORDS)]]


def test_several_formats_are_written_to_a_folder(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    rendered(
        stored, "--format", "ass", "--format", "vtt", "--karaoke", "--newline", "crlf", "-o", tmp_path / "out"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["talk.en.ass", "talk.en.vtt"]
    assert rb"{\k40} quick" in (tmp_path / "out" / "talk.en.ass").read_bytes()
    assert (tmp_path / "out" / "talk.en.vtt").read_bytes().startswith(b"WEBVTT\r\n")


def test_chinese_is_converted_when_rendered(tmp_path: Path) -> None:
    path = tmp_path / "talk.zh.json"
    path.write_bytes(render("json", transcript("鼠标在内存里", "zh")))
    assert lines(rendered(path, "--chinese", "tw+words", "-o", "-").stdout) == [["滑鼠在記憶體裡"]]
    again = rendered(path, "--chinese", "tw", "--format", "json", "-o", "-").stdout
    assert msgspec.json.decode(again)["chinese"] == "tw"


def test_existing_file_is_kept_unless_forced(stored: Path) -> None:
    target = stored.with_suffix(".srt")
    target.write_bytes(b"edited by hand")
    assert b"already exists" in rendered(stored, status=1).stderr
    assert target.read_bytes() == b"edited by hand"
    rendered(stored, "--force")
    assert target.read_bytes() == render("srt", transcript())


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--max-chars", "2"], 2, "max_chars = 2: allowed: 4 to 200, or 0 for no limit"),
        (["--format", "doc"], 2, "'doc' is not one of 'srt'"),
        (["--format", "srt", "--format", "vtt", "-o", "one.srt"], 2, "2 formats need a folder"),
    ],
)
def test_wrong_usage_is_explained(stored: Path, words: list[str], status: int, message: str) -> None:
    assert message in rendered(stored, *words, status=status).stderr.decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "is not a transcript (Object missing required field `source`)"),
        (b"1\n00:00", "is not a transcript"),
        (
            render("json", msgspec.structs.replace(transcript(), version=9)),
            "has version 9, this release supports up to",
        ),
        (None, "cannot be read: No such file"),
    ],
)
def test_file_without_a_transcript_is_rejected(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "talk.json"
    if content is not None:
        path.write_bytes(content)
    assert message in rendered(path, status=1).stderr.decode()
