"""What uploads may take of the disk: limits, accounts, what is left at the start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from subtitled.api.peer import RefusedError
from subtitled.api.upload_store import MIB, UploadStore
from subtitled.config.schema import UploadsConfig
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.files.filesystem import free_bytes
from subtitled.runtime.background import BackgroundPool

LIMITS = UploadsConfig(max_file_mb=10, max_spool_mb=15)


@pytest.fixture
def aside() -> Iterator[BackgroundPool]:
    made = BackgroundPool("test", lambda back: back())
    yield made
    made.close()


@pytest.fixture
def holdings(tmp_path: Path, aside: BackgroundPool) -> UploadStore:
    return UploadStore(tmp_path, LIMITS, reserve_bytes=0, background=aside)


def refusal(holdings: UploadStore, job: str, size: int) -> str:
    with pytest.raises(RefusedError) as caught:
        holdings.reserve(job, size)
    return caught.value.code


def sent(folder: Path, job: str, size: int) -> Job:
    """Return the job of a file that a client sends into `folder`."""
    location = os.fsencode(folder / job / "talk.flac")
    return Job(
        id=job,
        state=JobState.RECEIVING,
        source=location,
        location=location,
        size=size,
        mtime_ns=0,
        options=Options(),
        order=1,
    )


def test_a_file_may_be_as_long_as_the_limit_and_no_longer(holdings: UploadStore) -> None:
    holdings.reserve("a", 10 * MIB)
    assert holdings.total_bytes == 10 * MIB
    assert refusal(holdings, "b", 10 * MIB + 1) == "TOO_BIG"
    assert holdings.total_bytes == 10 * MIB


def test_all_files_together_have_a_limit_before_they_have_come(holdings: UploadStore) -> None:
    holdings.reserve("a", 10 * MIB)
    holdings.reserve("b", 5 * MIB)
    assert refusal(holdings, "c", 1) == "NO_SPACE"
    holdings.discard("b")
    holdings.reserve("c", 5 * MIB)


def test_a_file_of_unknown_size_is_counted_as_it_comes(holdings: UploadStore) -> None:
    holdings.reserve("a", 8 * MIB)
    holdings.reserve("b", None)
    holdings.grow("b", 7 * MIB)
    assert holdings.total_bytes == 15 * MIB
    with pytest.raises(RefusedError, match=r"uploads\.max_spool_mb") as caught:
        holdings.grow("b", 7 * MIB + 1)
    assert caught.value.code == "NO_SPACE"
    holdings.discard("a")
    with pytest.raises(RefusedError, match=r"uploads\.max_file_mb") as caught:
        holdings.grow("b", 10 * MIB + 1)
    assert caught.value.code == "TOO_BIG"


def test_what_was_announced_is_not_counted_again_when_it_comes(holdings: UploadStore) -> None:
    holdings.reserve("a", 9 * MIB)
    holdings.grow("a", 9 * MIB)
    holdings.complete("a", 9 * MIB)
    assert holdings.total_bytes == 9 * MIB


def test_free_space_is_left_for_the_daemon_itself(tmp_path: Path, aside: BackgroundPool) -> None:
    holdings = UploadStore(tmp_path, LIMITS, reserve_bytes=2 * free_bytes(tmp_path), background=aside)
    with pytest.raises(RefusedError, match=r"state\.reserve_mb") as caught:
        holdings.reserve("a", 1)
    assert caught.value.code == "NO_SPACE"
    holdings.reconfigure(LIMITS, reserve_bytes=0)
    holdings.reserve("a", 1)


def test_other_limits_hold_for_what_comes_from_then_on(holdings: UploadStore) -> None:
    holdings.reserve("a", 10 * MIB)
    holdings.reconfigure(UploadsConfig(max_file_mb=1, max_spool_mb=11), reserve_bytes=0)
    assert holdings.max_file_bytes == MIB
    assert refusal(holdings, "b", 2 * MIB) == "TOO_BIG"
    holdings.grow("a", 10 * MIB)
    holdings.reserve("b", MIB)


def test_at_the_start_what_is_there_is_counted_and_what_nobody_needs_is_removed(
    tmp_path: Path, holdings: UploadStore, aside: BackgroundPool
) -> None:
    whole, arriving, gone = (sent(tmp_path, job, 4 * MIB) for job in ("whole", "arriving", "gone"))
    for job, size in (("whole", 4 * MIB), ("arriving", MIB), ("orphan", MIB)):
        (tmp_path / job).mkdir()
        (tmp_path / job / "talk.flac").write_bytes(bytes(size))
    holdings.restore([whole, arriving, gone], receiving=["arriving"])
    assert holdings.total_bytes == 8 * MIB  # what is still to come of `arriving` has its room
    aside.close()
    assert {found.name for found in tmp_path.iterdir()} == {"whole", "arriving"}


def arrived(folder: Path, holdings: UploadStore, job: str, size: int) -> None:
    """Have a whole file of a client's there."""
    holdings.reserve(job, size)
    (folder / job).mkdir()
    (folder / job / "talk.flac").write_bytes(bytes(size))
    holdings.complete(job, size)


def test_files_of_jobs_that_are_done_make_room_oldest_first_and_no_more_than_needed(
    tmp_path: Path, holdings: UploadStore, aside: BackgroundPool
) -> None:
    for number, job in enumerate(("first", "second", "third")):
        arrived(tmp_path, holdings, job, 5 * MIB)
        holdings.keep_done(job, number)
    holdings.reserve("more", 6 * MIB)
    assert holdings.total_bytes == 11 * MIB
    # Where all of them would not do, none is lost to a file that is refused all the same.
    arrived(tmp_path, holdings, "working", 4 * MIB)
    assert refusal(holdings, "much", 9 * MIB) == "NO_SPACE"
    holdings.grow("more", 6 * MIB)
    assert holdings.total_bytes == 15 * MIB
    aside.close()
    assert {found.name for found in tmp_path.iterdir()} == {"third", "working"}


def test_a_full_disk_takes_the_files_of_jobs_that_are_done_first(
    tmp_path: Path, holdings: UploadStore, aside: BackgroundPool
) -> None:
    arrived(tmp_path, holdings, "done", MIB)
    holdings.keep_done("done", 0)
    arrived(tmp_path, holdings, "failed", MIB)
    holdings.tick(0)
    assert holdings.total_bytes == 2 * MIB
    holdings.reconfigure(LIMITS, reserve_bytes=2 * free_bytes(tmp_path))
    holdings.tick(0)
    aside.close()
    assert [found.name for found in tmp_path.iterdir()] == ["failed"]


def test_files_of_jobs_that_are_done_go_when_their_time_is_over(
    tmp_path: Path, holdings: UploadStore, aside: BackgroundPool
) -> None:
    holdings.reconfigure(UploadsConfig(max_file_mb=10, max_spool_mb=15, keep_done_s=60), reserve_bytes=0)
    for job, ended_ms in (("old", 1_000), ("new", 2_000)):
        arrived(tmp_path, holdings, job, 1)
        holdings.keep_done(job, ended_ms)
    holdings.tick(61_000)
    assert holdings.total_bytes == 1
    holdings.reconfigure(UploadsConfig(max_file_mb=10, max_spool_mb=15, keep_done_s=0), reserve_bytes=0)
    arrived(tmp_path, holdings, "last", 1)
    holdings.keep_done("last", 61_000)
    holdings.tick(61_000)
    aside.close()
    assert list(tmp_path.iterdir()) == []


def test_files_of_jobs_that_are_done_are_known_after_a_restart(
    tmp_path: Path, holdings: UploadStore, aside: BackgroundPool
) -> None:
    for job in ("heard", "failed"):
        (tmp_path / job).mkdir()
        (tmp_path / job / "talk.flac").write_bytes(bytes(MIB))
    holdings.restore(
        [sent(tmp_path, job, MIB) for job in ("heard", "gone", "failed")],
        receiving=[],
        done={"heard": 5, "gone": 6},
    )
    assert holdings.total_bytes == 2 * MIB
    holdings.tick(5 + 86_400_000)
    aside.close()
    assert [found.name for found in tmp_path.iterdir()] == ["failed"]


def test_a_file_that_is_discarded_is_gone_and_another_is_not_touched(
    tmp_path: Path, holdings: UploadStore, aside: BackgroundPool
) -> None:
    for job in ("mine", "other"):
        (tmp_path / job).mkdir()
    holdings.reserve("mine", 1)
    holdings.discard("mine")
    holdings.discard("other")  # no upload: nothing of it is ours
    aside.close()
    assert [found.name for found in tmp_path.iterdir()] == ["other"]


def test_only_files_in_the_folder_are_those_that_clients_have_sent(
    tmp_path: Path, holdings: UploadStore
) -> None:
    assert holdings.contains(sent(tmp_path, "a", 1))
    assert not holdings.contains(sent(tmp_path.parent / f"{tmp_path.name}-other", "a", 1))
