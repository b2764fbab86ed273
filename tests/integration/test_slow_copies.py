"""Copies that pause for longer than `settle_s` are transcribed when they are whole, wherever their file is by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, InboxFolder, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

TRUE_TEXT = [sentence.text for sentence in media.true_text()[:2]]
"""What is spoken in `CLIP_S`."""
CLIP_S = 8


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon with an inbox that waits for the rest of a file, and one that hardly does."""
    inboxes = (
        InboxFolder(options={"incomplete_wait_s": 600.0}),
        InboxFolder(name="quick", options={"incomplete_wait_s": 0.3}),
    )
    with Daemon(tmp_path_factory.mktemp("daemon"), inboxes=inboxes) as running:
        yield running.start()
        running.stop()


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return two sentences in several containers, by suffix."""
    folder = tmp_path_factory.mktemp("media")
    voice = media.Voice(media.speech(CLIP_S))
    media.mux(folder / "a.mkv", voice, rate=48_000)
    media.mux(folder / "a.mp4", voice, rate=48_000)
    media.mux(folder / "a.mp3", voice, codec="libmp3lame", rate=48_000)
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


def text_of(path: Path) -> str:
    return " ".join(path.read_text("utf-8").split())


def check_whole(daemon: Daemon, source: Path, name: str, folder: str = "inbox") -> None:
    """Check that a file of an inbox is in done/, with the subtitles of all of it."""
    job = daemon.wait_for(source)
    assert job.state == "done", job.cause
    assert job.damaged == ()
    text = text_of(daemon.folder / f"{folder}-out" / f"{name}.en.srt")
    assert all(sentence in text for sentence in TRUE_TEXT)
    assert (daemon.folder / folder / "done" / source.name).is_file()
    assert not source.exists()


@pytest.mark.parametrize("suffix", [".mkv", ".mp3"])
def test_preallocated_file_that_is_open_is_taken_when_it_is_closed(
    daemon: Daemon, contents: dict[str, bytes], suffix: str
) -> None:
    content = contents[suffix]
    name = f"open-{suffix[1:]}"
    source = daemon.inbox / f"{name}{suffix}"
    with source.open("wb") as file:
        file.truncate(len(content))
        file.write(content[: len(content) // 2])
        file.flush()
        daemon.wait_for_log("inbox.ignored", path=str(source), cause="it is open for writing; it waits")
        assert daemon.job_of(source) is None
        file.write(content[len(content) // 2 :])
    check_whole(daemon, source, name)


@pytest.mark.parametrize("is_preallocated", [True, False])
def test_half_of_a_file_whose_writer_is_on_another_host_waits(
    daemon: Daemon, contents: dict[str, bytes], *, is_preallocated: bool
) -> None:
    """No process here has it open."""
    content = contents[".mkv"]
    name = f"share-{is_preallocated}"
    source = daemon.inbox / f"{name}.mkv"
    with source.open("wb") as file:
        file.write(content[: len(content) // 2])
        if is_preallocated:
            file.truncate(len(content))
    line = daemon.wait_for_log("inbox.ignored", path=str(source))
    assert "it waits 600 s for the rest" in line["cause"]
    assert daemon.job_of(source) is None
    with source.open("r+b") as file:
        file.write(content)
    check_whole(daemon, source, name)


def test_file_that_failed_is_taken_again_when_it_is_completed_where_it_is(
    daemon: Daemon, contents: dict[str, bytes]
) -> None:
    content = contents[".mp4"]
    source = daemon.folder / "quick" / "late.mp4"
    source.write_bytes(content[: len(content) // 2])
    first = daemon.wait_for(source)
    assert (first.state, "incomplete" in first.cause) == ("failed", True)
    daemon.wait_for_log("inbox.incomplete", path=str(source))
    failed = source.parent / "failed" / "late.mp4"
    error = failed.with_name("late.mp4.error.txt")
    assert error.is_file()
    with failed.open("ab") as file:
        file.write(content[len(content) // 2 :])
    daemon.wait_for_log("job.requeued", path=str(failed))
    eventually(lambda: not error.exists(), "the error text of the earlier content is removed")
    eventually(lambda: (job := daemon.job_of(source)) and job.state == "done", "the whole file is done")
    check_whole(daemon, source, "late", "quick")
    assert not failed.exists()


def test_file_that_was_done_is_taken_again_when_it_grows(daemon: Daemon, contents: dict[str, bytes]) -> None:
    """MP3 does not declare its size: half of a copy looks whole."""
    content = contents[".mp3"]
    source = daemon.folder / "quick" / "grown.mp3"
    source.write_bytes(content[: len(content) // 2])
    first = daemon.wait_for(source)
    done = source.parent / "done" / "grown.mp3"
    with done.open("ab") as file:
        file.write(content[len(content) // 2 :])
    daemon.wait_for_log("job.requeued", job=first.id)
    eventually(lambda: (job := daemon.job_of(source)) and job.id != first.id, "it is taken again")
    check_whole(daemon, source, "grown", "quick")
    assert [path.name for path in done.parent.glob("grown*")] == ["grown.mp3"]
