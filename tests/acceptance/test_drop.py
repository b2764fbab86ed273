"""A file dropped into a watched folder comes back as correct subtitles."""

from __future__ import annotations

import os
import re
import shutil
import statistics
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pysubs2
import pytest

import media
from daemon import TWO_SLOTS, Daemon, InboxFolder, eventually, worker_processes
from subtitled.cues.render import read_json
from subtitled.files.atomic_files import is_temporary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from subtitled.cues.transcript import Transcript

TOLERANCE_MS = 100
"""MODEL.md: 36 ms at the 95th percentile."""

NAMES = {
    "spaces": "two  spaces .flac",
    "chinese": "请打开白色的窗户。.flac",
    "emoji": "🎬 take 👩‍👩‍👧 2.flac",
    "newline": "first\nsecond.flac",
    "shell": "-rf $(touch x) `y` \"z\" 'q' * ? [a] #.flac",
    "markup": "<b>&amp;%s{0}\\n.flac",
    "longest": "名" * 83 + "x.flac",
    "bytes": os.fsdecode(b"no \xff\xfe utf-8.flac"),
    "suffixes": "talk.en.srt.flac",
}


def words(text: str) -> list[str]:
    """Return what MODEL.md counts: words of English, characters of Chinese, without case and punctuation."""
    return re.findall(r"[a-z]+|[\u4e00-\u9fff]", text.lower())


def errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """Return how many words must be put in, taken out or replaced (Levenshtein's distance)."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        above, row[0] = row[0], number
        for at, other in enumerate(heard, 1):
            above, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, above + (word != other))
    return row[-1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sentences."""
    return media.write_sound(tmp_path_factory.mktemp("clip") / "clip.flac", media.speech(8))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Iterator[Daemon]:
    """Run a daemon with three inboxes, and give it all the files of this module at once."""
    inboxes = (
        InboxFolder(),
        InboxFolder(name="keep", options={"after": "keep", "language": "en"}),
        InboxFolder(name="delete", options={"after": "delete", "language": "en", "formats": ("srt",)}),
    )
    folder = tmp_path_factory.mktemp("daemon")
    environ = {"SECRET_OF_THE_DAEMON": "1", "CUDA_VISIBLE_DEVICES": ""}
    with Daemon(folder, inboxes=inboxes, pool=TWO_SLOTS, environ=environ) as running:
        running.drop(media.DEMO / "demo.flac", "demo.flac")
        running.drop(media.DEMO / "demo-zh.flac", "demo-zh.flac")
        for label, name in NAMES.items():
            running.drop(clip, os.path.join("names", label, name))  # noqa: PTH118 - some are no UTF-8
        running.drop(clip, "stem/talk.flac")
        running.drop(media.write_sound(folder / "talk.wav", media.speech(8)), "stem/talk.wav")
        running.drop(clip, "kept.flac", inbox=folder / "keep")
        running.drop(clip, "deep/er/deleted.flac", inbox=folder / "delete")
        voice = media.Voice(media.speech(8), start_s=2.5)
        late = media.mux(
            folder / "late.mkv", voice, codec="pcm_s16le", rate=16_000, layout="mono", picture_s=11
        )
        running.drop(late, "late.mkv")
        running.start()
        running.wait_for_jobs(2 + len(NAMES) + 2 + 2 + 1)
        yield running
        running.stop()


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def texts(transcript: Transcript) -> list[str]:
    return [phrase.text for segment in transcript.segments for phrase in segment.phrases]


@pytest.mark.parametrize(
    ("name", "output", "language", "allowed", "count"),
    [("demo", "demo.en", "en", 0, 135), ("demo-zh", "demo-zh.zh", "zh", 0, 91)],
)
def test_the_text_is_as_good_as_the_model_promises(
    daemon: Daemon, name: str, output: str, language: str, allowed: int, count: int
) -> None:
    """Not a word wrong in English, not a character in Chinese."""
    said = words(" ".join(sentence.text for sentence in media.true_text(name)))
    transcript = daemon.transcript(output)
    heard = words(" ".join(texts(transcript)))
    assert len(said) == count
    assert errors(said, heard) <= allowed
    assert transcript.language == language
    assert not transcript.missing
    shown = pysubs2.load(str(daemon.outbox / f"{output}.srt"))
    assert words(" ".join(event.plaintext for event in shown)) == heard


@pytest.mark.parametrize(("name", "output"), [("demo", "demo.en"), ("demo-zh", "demo-zh.zh")])
def test_sentences_stand_where_they_are_spoken(daemon: Daemon, name: str, output: str) -> None:
    spoken = {sentence.start_ms: sentence for sentence in media.true_text(name)}
    segments = daemon.transcript(output).segments
    phrases = [phrase for segment in segments for phrase in segment.phrases]
    assert len(phrases) == len(spoken)
    starts, ends = [], []
    for sentence, phrase in zip(spoken.values(), phrases, strict=True):
        starts.append(abs(phrase.start_ms - sentence.start_ms))
        ends.append(abs(phrase.end_ms - sentence.end_ms))
    assert max(starts + ends) <= TOLERANCE_MS
    assert statistics.median(starts + ends) <= 40


def test_cues_are_in_order_inside_their_file(daemon: Daemon) -> None:
    for path in daemon.outbox.rglob("*.json"):
        transcript = read_json(path.read_bytes())
        end_ms = transcript.offset_ms + transcript.duration_ms
        for cue in transcript.cues:
            assert 0 <= cue.start_ms < cue.end_ms <= end_ms
        for one, other in pairwise(transcript.cues):
            assert one.end_ms <= other.start_ms


def test_srt_and_json_tell_the_same(daemon: Daemon) -> None:
    cues = daemon.transcript("demo.en").cues
    shown = pysubs2.load(str(daemon.outbox / "demo.en.srt"))
    assert [(event.start, event.end) for event in shown] == [(cue.start_ms, cue.end_ms) for cue in cues]
    assert [event.plaintext for event in shown] == ["\n".join(cue.lines) for cue in cues]


def test_sub_folders_are_mirrored(daemon: Daemon) -> None:
    assert outputs(daemon.folder / "delete-out" / "deep" / "er") == ["deleted.en.srt"]
    assert (daemon.inbox / "done" / "stem" / "talk.wav").is_file()
    assert not (daemon.inbox / "demo.flac").exists()
    moved = daemon.inbox / "done" / "demo.flac"
    assert moved.read_bytes() == (media.DEMO / "demo.flac").read_bytes()


def test_a_source_that_is_to_be_kept_stays(daemon: Daemon, clip: Path) -> None:
    kept = daemon.folder / "keep" / "kept.flac"
    assert kept.read_bytes() == clip.read_bytes()
    assert outputs(daemon.folder / "keep-out") == ["kept.en.json", "kept.en.srt"]


def test_a_source_that_is_to_be_deleted_goes(daemon: Daemon) -> None:
    rest = [path for path in (daemon.folder / "delete").rglob("*") if not path.is_dir()]
    assert rest == []


@pytest.mark.parametrize("label", NAMES)
def test_any_file_name_works(daemon: Daemon, label: str) -> None:
    """The subtitles are those of the same sound under a plain name, the source lies in done/ under its own name."""
    name = NAMES[label]
    folder = daemon.outbox / "names" / label
    found = outputs(folder)
    assert [path.rpartition(".")[2] for path in found] == ["json", "srt"]
    for path in found:
        assert len(os.fsencode(path)) <= 255
        stem, _, ending = path.partition(".en.") if label != "suffixes" else path.rpartition(".en.")
        assert ending in {"srt", "json"}
        assert name.startswith(stem[:70])  # a name that is too long ends in a hash
    transcript = read_json((folder / found[0]).read_bytes())
    assert texts(transcript) == texts(read_json((daemon.folder / "keep-out" / "kept.en.json").read_bytes()))
    assert os.listdir(daemon.inbox / "done" / "names" / label) == [name]  # noqa: PTH208 - as the system has it


def test_two_sources_with_one_stem_keep_their_own_subtitles(daemon: Daemon) -> None:
    found = outputs(daemon.outbox / "stem")
    other = "talk.flac.en" if "talk.flac.en.srt" in found else "talk.wav.en"
    assert set(found) == {f"{base}{ending}" for base in ("talk.en", other) for ending in (".json", ".srt")}
    sources = {daemon.transcript(f"stem/{base}").source for base in ("talk.en", other)}
    assert sources == {"talk.flac", "talk.wav"}


def test_audio_that_starts_late_has_late_subtitles(daemon: Daemon) -> None:
    """The audio stream's own start time, 2.5 s after the picture's, is in every time."""
    late, plain = (
        daemon.transcript("late.en"),
        read_json((daemon.folder / "keep-out" / "kept.en.json").read_bytes()),
    )
    assert late.offset_ms == 2500
    shifted = [(cue.start_ms + 2500, cue.end_ms + 2500, cue.lines) for cue in plain.cues]
    assert [(cue.start_ms, cue.end_ms, cue.lines) for cue in late.cues] == shifted


def test_two_workers_share_the_segments_of_one_file(daemon: Daemon) -> None:
    transcript = daemon.transcript("demo.en")
    assert transcript.devices == ("cpu0", "cpu1")
    assert {segment.device for segment in transcript.segments} == {"cpu0", "cpu1"}


def test_each_worker_is_a_process_of_its_own_in_an_environment_of_its_own(daemon: Daemon) -> None:
    processes = worker_processes(daemon.pid)
    identities = {settings["identity"] for settings in processes.values()}
    assert identities == {"prepare0.1", "cpu0.1", "cpu1.1"}
    for pid in processes:
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        environ = dict(line.partition(b"=")[::2] for line in lines)
        assert environ[b"CUDA_VISIBLE_DEVICES"] == b""
        assert b"SECRET_OF_THE_DAEMON" not in environ
        assert f"\nPPid:\t{daemon.pid}\n" in Path(f"/proc/{pid}/status").read_text("utf-8")


def test_the_model_is_loaded_once_in_the_life_of_each_worker(daemon: Daemon) -> None:
    """Sixteen files, two workers, two loads."""
    ready = [entry["worker"] for entry in daemon.log("worker.ready")]
    assert sorted(ready) == ["cpu0.1", "cpu1.1"]
    metrics = daemon.scrape()
    for slot in ("cpu0", "cpu1"):
        assert metrics[f'subtitled_model_loads_total{{model="demo",slot="{slot}"}}'] == 1
    assert metrics['subtitled_jobs_total{event="done"}'] >= 16


def test_each_segment_and_each_job_has_its_line_in_the_log(daemon: Daemon) -> None:
    job = daemon.job_of(daemon.inbox / "demo.flac")
    assert job is not None
    lines = [entry for entry in daemon.log("segment.done") if entry["job"] == job.id]
    assert sorted(line["segment"] for line in lines) == list(range(job.segments["done"]))
    assert {line["worker"] for line in lines} == {"cpu0", "cpu1"}
    [line] = [entry for entry in daemon.log("job.done") if entry["job"] == job.id]
    assert line["segments"] == job.segments["done"]
    assert line["skipped"] == 0
    assert line["devices"] == "cpu0,cpu1"
    assert line["speed"].endswith("x real time")
    assert line["duration_s"] == 58.0


def test_the_log_contains_no_transcript(daemon: Daemon) -> None:
    log = daemon.log_file.read_text("utf-8")
    assert "welcome" not in log
    assert "蓝色的窗户" not in log


def test_nothing_temporary_is_left(daemon: Daemon) -> None:
    left = [path for path in daemon.folder.rglob("*") if is_temporary(path.name)]
    assert left == []


def test_the_same_file_is_not_done_twice(daemon: Daemon) -> None:
    """Same path, size, time and options: left alone, with a line in the log, and not archived again."""
    before = len(daemon.jobs())
    again = daemon.inbox / "demo.flac"
    shutil.copy2(daemon.inbox / "done" / "demo.flac", again)
    line = daemon.wait_for_log("inbox.ignored", path=str(again))
    assert "already" in line["cause"]
    assert len(daemon.jobs()) == before
    # Another file under a name that was used before is another job, and its subtitles take the old ones' place.
    other = daemon.drop(media.write_sound(daemon.folder / "other.flac", media.speech(4)), "stem/talk.wav")
    eventually(lambda: len(daemon.jobs()) == before + 1, "the other file is taken")
    assert daemon.wait_for(other).state == "done"
    assert len(outputs(daemon.outbox / "stem")) == 4
    again.unlink()
