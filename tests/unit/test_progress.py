"""What people are shown is true, short and has its units."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from subtitle import JobFailedError, Progress, WorkerFacts
from subtitle.eta import QueueSnapshot, Speed, SpeedMeter, estimate, speeds
from subtitle.progress import check_done, progress_of
from subtitle.progress_bars import TransferRate, clock, description, megabytes
from subtitle.tables import remaining
from unit import job_facts
from unit.server_stats import STATS

FACTS = replace(
    job_facts.FACTS,
    id="0194f3a6c21b7d0e",
    state="receiving",
    source="talk.mp4",
    size=1000,
    received_bytes=250,
)


@pytest.mark.parametrize(
    ("changes", "fraction"),
    [
        ({}, 0.25),
        ({"size": 0, "received_bytes": 0}, 0.0),
        ({"state": "queued"}, 0.0),
        ({"state": "preparing", "decoded_ms": 60_000, "segments": {"done": 1, "pending": 1}}, 0.0),
        (
            {"state": "transcribing", "audio_ms": 90_000, "segments": {"done": 1, "skipped": 1, "leased": 2}},
            0.5,
        ),
        ({"state": "failed", "audio_ms": 90_000, "segments": {"done": 1, "failed": 3}}, 0.25),
        ({"state": "done", "audio_ms": 90_000, "segments": {}}, 1.0),
    ],
)
def test_fraction_is_that_of_the_current_stage(changes: dict[str, object], fraction: float) -> None:
    assert progress_of(replace(FACTS, **changes)).fraction == fraction


def test_hashing_counts_what_is_hashed() -> None:
    assert Progress(state="hashing", hashed_bytes=3, size_bytes=4).fraction == 0.75


@pytest.mark.parametrize(
    ("progress", "per_s", "text"),
    [
        (Progress(state="hashing", hashed_bytes=1, size_bytes=4), 0.0, "hashing, 25%"),
        (
            Progress(state="receiving", uploaded_bytes=12_000_000, size_bytes=50_000_000),
            8_100_000.0,
            "uploading, 12.0 MB of 50.0 MB, 8.1 MB/s, 0:05 left",
        ),
        (Progress(state="receiving", size_bytes=900), 0.0, "uploading, 0.0 kB of 0.9 kB"),
        (Progress(state="queued"), 0.0, "queued"),
        (
            Progress(state="preparing", decoded_ms=200_000, segments_done=1, segments_total=9),
            0.5,
            "reading, 3:20 so far, 1 of 9 segments",
        ),
        (
            Progress(state="transcribing", audio_ms=4_000_000, segments_done=10, segments_total=40),
            0.5,
            "transcribing 1:06:40, 10 of 40 segments, 1:00 left",
        ),
        (Progress(state="a state of the future"), 0.0, "a state of the future"),
    ],
)
def test_progress_is_described_in_words(progress: Progress, per_s: float, text: str) -> None:
    assert description(progress, per_s) == text


def test_sizes_and_lengths_have_the_unit_that_suits_them() -> None:
    assert [megabytes(size) for size in (0, 99_999, 100_000, 999_999_999, 2_500_000_000)] == [
        "0.0 kB",
        "100.0 kB",
        "0.1 MB",
        "1000.0 MB",
        "2.50 GB",
    ]
    assert [clock(seconds) for seconds in (0, 59.6, 3599.4, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rate = TransferRate()
    assert [rate.add(value, at) for at, value in ((0.0, 0), (1.0, 10), (2.0, 20))] == [0.0, 10.0, 10.0]
    assert rate.add(20, 60.0) < 1.0
    assert rate.add(5, 61.0) == 0.0  # started again


@pytest.mark.parametrize(
    ("state", "cause", "message"),
    [
        ("failed", "not media", r"^job 0194f3a6c21b7d0e \(talk\.mp4\) failed: not media$"),
        ("cancelled", "", r"^job 0194f3a6c21b7d0e \(talk\.mp4\) was cancelled$"),
    ],
)
def test_a_job_that_is_not_done_raises_its_cause(state: str, cause: str, message: str) -> None:
    with pytest.raises(JobFailedError, match=message):
        check_done(replace(FACTS, state=state, cause=cause))


def snapshot(at: float, uptime_s: float, *, waiting_ms: int = 0, **audio_ms: int) -> QueueSnapshot:
    workers = tuple(
        WorkerFacts(
            slot=slot,
            role="transcribe",
            state="busy",
            incarnation=1,
            device="",
            leases=1,
            job="",
            cause="",
            audio_ms=value,
        )
        for slot, value in audio_ms.items()
    )
    stats = replace(
        STATS, workers=workers, audio_ms=sum(audio_ms.values()), uptime_s=uptime_s, waiting_ms=waiting_ms
    )
    return QueueSnapshot(at=at, stats=stats, jobs=())


def test_speed_is_measured_without_the_idle_time_before_the_work() -> None:
    meter = SpeedMeter(30.0)
    idle = (snapshot(at, 1000 + at, gpu0=0) for at in (0.0, 10.0, 20.0))
    assert [meter.add(one).total for one in idle] == [None, None, None]
    assert meter.add(snapshot(22.0, 1022.0, gpu0=0, waiting_ms=600_000)).total is None
    speed = meter.add(snapshot(24.0, 1024.0, gpu0=20_000, waiting_ms=580_000))
    assert speed.total == pytest.approx(10.0)
    assert estimate(replace(STATS, waiting_ms=580_000), speed, []).finish_s == pytest.approx(58.0)


def test_speed_is_measured_over_the_newest_snapshots() -> None:
    meter = SpeedMeter(30.0)
    for at in range(0, 100, 10):
        speed = meter.add(snapshot(at, 1000 + at, gpu0=at * at, waiting_ms=1))
    assert speed.total == pytest.approx((90**2 - 50**2) / 40_000)
    later = meter.add(snapshot(1000.0, 2000.0, gpu0=10_000, waiting_ms=1))
    assert later.total is None, "nothing is known of the time in which the server was not observed"


def test_speeds_are_differences_between_two_snapshots_of_one_daemon() -> None:
    before = snapshot(10.0, 100.0, gpu0=1_000, gpu1=50_000)
    now = snapshot(12.0, 102.0, gpu0=41_000, gpu1=50_000, gpu2=7_000)
    found = speeds(before, now)
    assert found.slots == {"gpu0": 20.0, "gpu1": 0.0, "gpu2": 0.0}
    assert found.total == pytest.approx(23.5)
    assert speeds(None, now).total is None
    assert speeds(before, snapshot(12.0, 1.0, gpu0=0)).total is None  # another daemon by now


@pytest.mark.parametrize(
    ("changes", "speed", "text"),
    [
        ({}, 0.0, "nothing"),
        ({"waiting_ms": 7_200_000}, 20.0, "2:00:00 of audio, done in about 6:00"),
        ({"waiting_ms": 7_200_000}, None, "2:00:00 of audio"),
        ({"unread_files": 1, "unread_bytes": 500}, 0.0, "0:00 of audio, 1 file not read yet"),
        # Files known have 2 ms of audio a byte.
        (
            {"waiting_ms": 1_000, "unread_files": 2, "unread_bytes": 500},
            0.5,
            "0:01 of audio, 2 files not read yet, done in about 0:04",
        ),
    ],
)
def test_remaining_work_contains_only_known_values(
    changes: dict[str, object], speed: float | None, text: str
) -> None:
    known = [replace(FACTS, size=1000, audio_ms=2000), replace(FACTS, size=10**9, audio_ms=0)]
    stats = replace(snapshot(0.0, 1.0).stats, **changes)
    assert remaining(estimate(stats, Speed(total=speed), known)) == text


def test_remaining_time_is_unknown_without_files_of_known_length() -> None:
    stats = replace(snapshot(0.0, 1.0).stats, unread_files=1, unread_bytes=500)
    assert estimate(stats, Speed(total=5.0), ()).finish_s is None
