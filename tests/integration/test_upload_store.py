"""Limits and accounting of the uploads folder."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from daemon import eventually
from subtitled.api.peer import RefusedError
from subtitled.api.upload_store import MIB, UploadStore
from subtitled.config.schema import UploadsConfig
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.files.filesystem import DiskSpaceMonitor, free_bytes, free_inodes
from subtitled.runtime.background import BackgroundPool

LIMITS = UploadsConfig(max_file_mb=10, max_spool_mb=15)


@pytest.fixture
def background() -> Iterator[BackgroundPool]:
    made = BackgroundPool("test", lambda back: back())
    yield made
    made.close()


@pytest.fixture
def uploads(tmp_path: Path, background: BackgroundPool) -> UploadStore:
    return UploadStore(tmp_path, LIMITS, reserve_bytes=0, background=background)


def refusal(uploads: UploadStore, job: str, size: int) -> str:
    with pytest.raises(RefusedError) as caught:
        uploads.reserve(job, size)
    return caught.value.code


def sent(folder: Path, job: str, size: int) -> Job:
    """Return the job of an upload into `folder`."""
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


def test_file_of_the_largest_size_is_accepted_and_a_larger_one_is_not(uploads: UploadStore) -> None:
    uploads.reserve("a", 10 * MIB)
    assert uploads.total_bytes == 10 * MIB
    assert refusal(uploads, "b", 10 * MIB + 1) == "TOO_BIG"
    assert uploads.total_bytes == 10 * MIB


def test_announced_sizes_count_towards_the_total_limit(uploads: UploadStore) -> None:
    uploads.reserve("a", 10 * MIB)
    uploads.reserve("b", 5 * MIB)
    assert refusal(uploads, "c", 1) == "NO_SPACE"
    uploads.discard("b")
    uploads.reserve("c", 5 * MIB)


def test_file_of_unknown_size_is_counted_by_received_bytes(uploads: UploadStore) -> None:
    uploads.reserve("a", 8 * MIB)
    uploads.reserve("b", None)
    uploads.grow("b", 7 * MIB)
    assert uploads.total_bytes == 15 * MIB
    with pytest.raises(RefusedError, match=r"uploads\.max_spool_mb") as caught:
        uploads.grow("b", 7 * MIB + 1)
    assert caught.value.code == "NO_SPACE"
    uploads.discard("a")
    with pytest.raises(RefusedError, match=r"uploads\.max_file_mb") as caught:
        uploads.grow("b", 10 * MIB + 1)
    assert caught.value.code == "TOO_BIG"


def test_received_bytes_of_an_announced_file_are_counted_once(uploads: UploadStore) -> None:
    uploads.reserve("a", 9 * MIB)
    uploads.grow("a", 9 * MIB)
    uploads.complete("a", 9 * MIB)
    assert uploads.total_bytes == 9 * MIB


def test_reserve_of_the_disk_is_kept_free(tmp_path: Path, background: BackgroundPool) -> None:
    uploads = UploadStore(tmp_path, LIMITS, reserve_bytes=2 * free_bytes(tmp_path), background=background)
    with pytest.raises(RefusedError, match=r"state\.reserve_mb") as caught:
        uploads.reserve("a", 1)
    assert caught.value.code == "NO_SPACE"
    uploads.reconfigure(LIMITS, reserve_bytes=0)
    uploads.reserve("a", 1)


def test_changed_limits_apply_to_further_uploads(uploads: UploadStore) -> None:
    uploads.reserve("a", 10 * MIB)
    uploads.reconfigure(UploadsConfig(max_file_mb=1, max_spool_mb=11), reserve_bytes=0)
    assert uploads.max_file_bytes == MIB
    assert refusal(uploads, "b", 2 * MIB) == "TOO_BIG"
    uploads.grow("a", 10 * MIB)
    uploads.reserve("b", MIB)


def test_start_counts_existing_files_and_deletes_orphans(
    tmp_path: Path, uploads: UploadStore, background: BackgroundPool
) -> None:
    whole, arriving, gone = (sent(tmp_path, job, 4 * MIB) for job in ("whole", "arriving", "gone"))
    for job, size in (("whole", 4 * MIB), ("arriving", MIB), ("orphan", MIB)):
        (tmp_path / job).mkdir()
        (tmp_path / job / "talk.flac").write_bytes(bytes(size))
    uploads.restore([whole, arriving, gone], receiving=["arriving"])
    assert uploads.total_bytes == 8 * MIB  # the announced size of `arriving` is reserved
    background.close()
    assert {found.name for found in tmp_path.iterdir()} == {"whole", "arriving"}


def store_upload(folder: Path, uploads: UploadStore, job: str, size: int) -> None:
    """Store a complete upload."""
    uploads.reserve(job, size)
    (folder / job).mkdir()
    (folder / job / "talk.flac").write_bytes(bytes(size))
    uploads.complete(job, size)


def test_files_of_done_jobs_are_deleted_oldest_first_for_new_uploads(
    tmp_path: Path, uploads: UploadStore, background: BackgroundPool
) -> None:
    for number, job in enumerate(("first", "second", "third")):
        store_upload(tmp_path, uploads, job, 5 * MIB)
        uploads.keep(job, number, is_failed=False)
    uploads.reserve("more", 6 * MIB)
    assert uploads.total_bytes == 11 * MIB
    # When all of them would not suffice, none is deleted for a file that is refused anyway.
    store_upload(tmp_path, uploads, "working", 4 * MIB)
    assert refusal(uploads, "much", 9 * MIB) == "NO_SPACE"
    uploads.grow("more", 6 * MIB)
    assert uploads.total_bytes == 15 * MIB
    background.close()
    assert {found.name for found in tmp_path.iterdir()} == {"third", "working"}


def test_files_of_done_jobs_are_deleted_when_the_disk_is_nearly_full(
    tmp_path: Path, uploads: UploadStore, background: BackgroundPool
) -> None:
    store_upload(tmp_path, uploads, "done", MIB)
    uploads.keep("done", 0, is_failed=False)
    store_upload(tmp_path, uploads, "failed", MIB)
    uploads.tick(0)
    assert uploads.total_bytes == 2 * MIB
    uploads.reconfigure(LIMITS, reserve_bytes=2 * free_bytes(tmp_path))
    uploads.tick(0)
    background.close()
    assert [found.name for found in tmp_path.iterdir()] == ["failed"]


def test_files_of_done_jobs_are_deleted_after_keep_done_s(
    tmp_path: Path, uploads: UploadStore, background: BackgroundPool
) -> None:
    uploads.reconfigure(UploadsConfig(max_file_mb=10, max_spool_mb=15, keep_done_s=60), reserve_bytes=0)
    for job, ended_ms in (("old", 1_000), ("new", 2_000)):
        store_upload(tmp_path, uploads, job, 1)
        uploads.keep(job, ended_ms, is_failed=False)
    uploads.tick(61_000)
    assert uploads.total_bytes == 1
    uploads.reconfigure(UploadsConfig(max_file_mb=10, max_spool_mb=15, keep_done_s=0), reserve_bytes=0)
    store_upload(tmp_path, uploads, "last", 1)
    uploads.keep("last", 61_000, is_failed=False)
    uploads.tick(61_000)
    background.close()
    assert list(tmp_path.iterdir()) == []


def test_files_of_done_jobs_are_restored_after_a_restart(
    tmp_path: Path, uploads: UploadStore, background: BackgroundPool
) -> None:
    for job in ("heard", "failed"):
        (tmp_path / job).mkdir()
        (tmp_path / job / "talk.flac").write_bytes(bytes(MIB))
    uploads.restore(
        [sent(tmp_path, job, MIB) for job in ("heard", "gone", "failed")],
        receiving=[],
        done={"heard": 5, "gone": 6},
    )
    assert uploads.total_bytes == 2 * MIB
    uploads.tick(5 + 86_400_000)
    background.close()
    assert [found.name for found in tmp_path.iterdir()] == ["failed"]


def test_discard_deletes_only_the_file_of_that_job(
    tmp_path: Path, uploads: UploadStore, background: BackgroundPool
) -> None:
    for job in ("mine", "other"):
        (tmp_path / job).mkdir()
    uploads.reserve("mine", 1)
    uploads.discard("mine")
    uploads.discard("other")  # not an upload
    background.close()
    assert [found.name for found in tmp_path.iterdir()] == ["other"]


def test_only_files_in_the_uploads_folder_count_as_uploads(tmp_path: Path, uploads: UploadStore) -> None:
    assert uploads.contains(sent(tmp_path, "a", 1))
    assert not uploads.contains(sent(tmp_path.parent / f"{tmp_path.name}-other", "a", 1))


def test_files_of_failed_jobs_make_room_after_those_of_done_jobs(
    tmp_path: Path, uploads: UploadStore, background: BackgroundPool
) -> None:
    for job, is_failed in (("failed", True), ("done", False), ("retried", True)):
        store_upload(tmp_path, uploads, job, 5 * MIB)
        uploads.keep(job, 0, is_failed=is_failed)
    uploads.claim("retried")
    uploads.reserve("first", 5 * MIB)
    assert uploads.total_bytes == 15 * MIB
    uploads.complete("first", 5 * MIB)
    uploads.reserve("second", 5 * MIB)
    assert refusal(uploads, "third", 5 * MIB) == "NO_SPACE", "the file of a job that is retried stays"
    background.close()
    assert [found.name for found in tmp_path.iterdir()] == ["retried"]


def test_files_of_failed_jobs_are_deleted_after_keep_failed_s(
    tmp_path: Path, uploads: UploadStore, background: BackgroundPool
) -> None:
    uploads.reconfigure(replace(LIMITS, keep_failed_s=60), reserve_bytes=0)
    store_upload(tmp_path, uploads, "failed", 1)
    uploads.keep("failed", 1_000, is_failed=True)
    uploads.tick(60_999)
    assert uploads.total_bytes == 1
    uploads.tick(61_000)
    background.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """Give a file system with 100 inodes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "nr_inodes=100", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_uploads_leave_inodes_free_and_kept_files_make_room(
    few_inodes: Path, background: BackgroundPool
) -> None:
    """A hundred uploads of ten bytes take no space, but all inodes."""
    uploads = UploadStore(few_inodes, LIMITS, reserve_bytes=0, background=background)
    for count in range(45):
        store_upload(few_inodes, uploads, f"job{count}", 10)
    while (free_inodes(few_inodes) or 0) >= 2:
        store_upload(few_inodes, uploads, f"last{free_inodes(few_inodes)}", 10)
    with pytest.raises(RefusedError, match="free inodes"):
        uploads.reserve("more", 10)
    (few_inodes / "of the daemon").write_bytes(b"")
    uploads.keep("job0", 0, is_failed=True)
    uploads.keep("job1", 0, is_failed=False)
    uploads.reserve("one more", 10)


def test_announced_uploads_count_their_inodes(few_inodes: Path, background: BackgroundPool) -> None:
    uploads = UploadStore(few_inodes, LIMITS, reserve_bytes=0, background=background)
    for count in range((free_inodes(few_inodes) or 0) // 2):
        uploads.reserve(f"job{count}", 10)
    assert refusal(uploads, "more", 10) == "NO_SPACE"


def test_full_inodes_pause_new_files(few_inodes: Path) -> None:
    space = DiskSpaceMonitor([str(few_inodes)], 0)
    assert space.check(1.0) is False
    for number in range(96):
        (few_inodes / str(number)).write_bytes(b"")
    # Only the first measurement is waited for.
    eventually(lambda: space.check(time.monotonic() + 1000.0), "the measurement has ended")
    assert "inodes" in space.cause
