"""A file that is renamed while it is transcribed is followed: it is done once, and its old folder stays gone."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, InboxFolder, eventually
from subtitled.config import schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SENTENCE = media.true_text()[0].text


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon whose workers may be stopped for a while."""
    inboxes = (
        InboxFolder(),
        InboxFolder(
            name="films",
            options={"output": "beside", "after": "keep", "formats": ("srt",), "exclude": ("private/*",)},
        ),
    )
    pool = schema.PoolConfig(devices=("cpu",), prepare_workers=1)
    recovery = schema.RecoveryConfig(silence_s=600)
    with Daemon(tmp_path_factory.mktemp("daemon"), inboxes=inboxes, pool=pool, recovery=recovery) as running:
        yield running.start()
        running.stop()


@contextmanager
def stopped(daemon: Daemon, role: str) -> Iterator[None]:
    """Stop the worker of a role during the body."""
    [pid] = [pid for name, pid in daemon.workers().items() if name.startswith(role)]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # a slow test: it was replaced, and its work is done again
            os.kill(pid, signal.SIGCONT)


def rename(daemon: Daemon, before: Path, *names: str) -> Path:
    """Rename a file several times, each time into a folder of its own; return its last path, which the daemon knows."""
    path = before
    for name in names:
        after = before.parents[1] / name
        after.parent.mkdir(parents=True, exist_ok=True)
        path.rename(after)
        path.parent.rmdir()
        path = after
    daemon.wait_for_log("job.renamed", path=str(path))
    return path


def sources(daemon: Daemon, word: str) -> list[str]:
    return [job.source for job in daemon.jobs() if word in job.source]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_subtitles_are_beside_a_film_that_was_renamed_twice(daemon: Daemon, tmp_path: Path) -> None:
    """As Sonarr does: downloaded, imported, renamed within seconds."""
    clip = media.write_sound(tmp_path / "clip.flac", media.speech(4))
    films = daemon.folder / "films"
    with stopped(daemon, "cpu"):
        source = daemon.drop(clip, "Show.S01E01.1080p/chain.flac", inbox=films)
        eventually(
            lambda: (job := daemon.job_of(source)) and job.state == "transcribing", "it is transcribed"
        )
        source = rename(daemon, source, "Show/chain - import.flac", "Show (2020)/chain - S01E01.flac")
    assert daemon.wait_for(source).state == "done"
    beside = {"Show (2020)", "Show (2020)/chain - S01E01.flac", "Show (2020)/chain - S01E01.en.srt"}
    assert {name for name in files(films) if "Show" in name} == beside
    assert SENTENCE in (source.parent / "chain - S01E01.en.srt").read_text("utf-8").replace("\n", " ")
    assert sources(daemon, "chain") == [str(source)]


def test_file_that_is_renamed_before_it_is_read_is_read_where_it_is(daemon: Daemon, tmp_path: Path) -> None:
    clip = media.write_sound(tmp_path / "clip.flac", media.speech(4))
    films = daemon.folder / "films"
    with stopped(daemon, "prepare"):
        source = daemon.drop(clip, "incoming/early.flac", inbox=films)
        eventually(lambda: daemon.job_of(source), "it is accepted")
        source = rename(daemon, source, "library/early renamed.flac")
    assert daemon.wait_for(source).state == "done"
    assert (films / "library" / "early renamed.en.srt").is_file()
    assert not (films / "incoming").exists()
    assert sources(daemon, "early") == [str(source)]
    assert daemon.client.list(name="renamed")[0].source == str(source), "the search knows the new name"


def test_renamed_file_of_an_inbox_is_archived_with_its_new_name(daemon: Daemon, tmp_path: Path) -> None:
    clip = media.write_sound(tmp_path / "clip.flac", media.speech(4))
    with stopped(daemon, "cpu"):
        source = daemon.drop(clip, "sub/moved.flac")
        eventually(
            lambda: (job := daemon.job_of(source)) and job.state == "transcribing", "it is transcribed"
        )
        source = rename(daemon, source, "other/moved on.flac")
    assert daemon.wait_for(source).state == "done"
    assert (daemon.inbox / "done" / "other" / "moved on.flac").is_file()
    assert files(daemon.outbox) == {"other", "other/moved on.en.srt", "other/moved on.en.json"}
    assert not (daemon.inbox / "sub").exists()
    assert sources(daemon, "moved") == [str(source)]


@pytest.mark.parametrize(
    ("role", "state", "end"), [("prepare", "preparing", "failed"), ("cpu", "transcribing", "done")]
)
def test_file_that_is_moved_to_an_excluded_folder_is_not_followed(
    daemon: Daemon, tmp_path: Path, role: str, state: str, end: str
) -> None:
    """It is as if it were deleted: before it is read its job fails, afterwards its subtitles are beside its old path."""
    clip = media.write_sound(tmp_path / "clip.flac", media.speech(4))
    films = daemon.folder / "films"
    private = films / "private"
    private.mkdir(exist_ok=True)
    with stopped(daemon, role):
        source = daemon.drop(clip, f"withdrawn {role}.flac", inbox=films)
        eventually(lambda: (job := daemon.job_of(source)) and job.state == state, f"it is {state}")
        source.rename(private / source.name)
    assert daemon.wait_for(source).state == end
    assert files(private) == {path.name for path in private.glob("*.flac")}
    assert sources(daemon, f"withdrawn {role}") == [str(source)]


@pytest.mark.last
def test_no_file_was_done_twice(daemon: Daemon) -> None:
    states = [job.state for job in daemon.jobs() if "withdrawn" not in job.source]
    assert states == ["done"] * 3
