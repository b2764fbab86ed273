"""Faults that cannot be provoked from outside: a GPU that breaks or is full, a disk that refuses."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import zmq

import media
from daemon import Daemon
from faults.failing_disk import failing_disk
from faults.failing_model import load_faulty, mark
from faults.planned_faults import DiskFault, ModelFault, PlannedFaults
from subtitled.asr.engine import Engine, OutOfMemoryError
from subtitled.asr.prompts import PromptRequest
from subtitled.config import schema
from subtitled.core import protocol as pr
from subtitled.core.plan import SegmentSound, Span
from subtitled.core.records import Job, Options, SegmentKey
from subtitled.core.states import JobState
from subtitled.errors import ExitCode, FileWriteError, NoSpaceError
from subtitled.files.atomic_files import is_temporary, move_whole, write_whole
from subtitled.inboxes.arrivals import new_job_id
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from subtitle import JobFacts
    from subtitled.core.protocol import SegmentResult

pytestmark = pytest.mark.long

SERVER = Path(__file__).parents[1] / "faults" / "daemon_main.py"
WORKER = SERVER.with_name("worker_main.py")
MODEL = schema.ModelConfig(name="demo", cpu_threads=1, beam_size=1, batch_size=4)
ENGLISH = PromptRequest(language="en")
ILLEGAL = "CUDA failed with error an illegal memory access was encountered"
MARKED_S = (10, 12)
"""Where the marked speech of `talk` is."""


@pytest.fixture
def plan(tmp_path: Path) -> PlannedFaults:
    return PlannedFaults(tmp_path / "faults")


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Return 30 s of speech in several segments, one of them with a mark."""
    pcm = media.speech(30)
    first, last = (second * media.RATE for second in MARKED_S)
    pcm = np.concatenate([pcm[:first], mark(pcm[first:last]), pcm[last:]])
    return media.write_sound(tmp_path / "talk.flac", pcm)


@pytest.fixture
def daemon(tmp_path: Path, plan: PlannedFaults) -> Iterator[Daemon]:
    """Give a daemon with one GPU, and a disk, that fail by plan; its backoff is the real one."""
    with Daemon(
        tmp_path,
        model=MODEL,
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
        command=lambda config_file: (str(SERVER), str(config_file), str(plan.folder)),
    ) as running:
        yield running.start()


def segments(daemon: Daemon, event: str, after_seq: int = 0) -> Counter[str]:
    """Return how often each segment met with `event`, by its index."""
    return Counter(
        entry.name
        for entry in daemon.journal()
        if entry.subject == "segment" and entry.event == event and entry.seq > after_seq
    )


# -- the engine -------------------------------------------------------------------------------------------


def engine(plan: PlannedFaults, *, runs_to_grow: int = 50) -> Engine:
    model = load_faulty(plan, "demo", compute_type="auto", cpu_threads=1)
    return Engine(model, beam_size=1, batch_size=4, runs_to_grow=runs_to_grow)


def decode(
    engine: Engine,
    stretches: Sequence[float],
    *,
    word_timestamps: bool = False,
    speech_s: float = 30.0,
) -> list[SegmentResult]:
    """Decode so many seconds from the beginning of the recording, each a segment with speech in its first seconds."""
    sounds = [SegmentSound((Span(0, round(min(stretch, speech_s) * media.RATE)),)) for stretch in stretches]
    features = [engine.features(media.speech(stretch)) for stretch in stretches]
    return engine.transcribe(
        features, [ENGLISH] * len(features), sounds=sounds, word_timestamps=word_timestamps
    )


def batches(plan: PlannedFaults) -> list[tuple[int, bool]]:
    """Return the size of each batch that was decoded, and whether there was memory for it."""
    return [(call.batch, not call.fault) for call in plan.calls()]


def test_batch_that_does_not_fit_is_halved_and_grows_again(plan: PlannedFaults) -> None:
    plan.set(ModelFault(kind="memory", min_batch=2, times=2))
    engine_ = engine(plan, runs_to_grow=4)
    first = decode(engine_, [4.0] * 4, speech_s=1.9)
    assert batches(plan) == [(4, False), (2, False), *[(1, True)] * 4]
    second = decode(engine_, [4.0] * 4, speech_s=1.9)
    assert batches(plan)[6:] == [(2, True), (2, True)]
    decode(engine_, [4.0] * 4, speech_s=1.9)
    third = decode(engine_, [4.0] * 4, speech_s=1.9)
    assert batches(plan)[8:] == [(2, True), (2, True), (4, True)]
    assert [[phrase.text for phrase in result.phrases] for result in first + second + third] == [
        [" Good morning and welcome."]
    ] * 12


def test_memory_that_runs_out_late_in_a_batch_loses_no_speech(plan: PlannedFaults) -> None:
    """The windows were decoded, their words not aligned: the batch is done again from where it began."""
    engine_ = engine(plan)
    whole = decode(engine_, [5.0, 6.0], word_timestamps=True)
    assert all(result.phrases for result in whole)
    plan.set(ModelFault(kind="memory", call="align", times=1))
    again = decode(engine_, [5.0, 6.0], word_timestamps=True)
    assert [call.batch for call in plan.calls("align") if call.fault] == [2]
    assert [[phrase.text for phrase in result.phrases] for result in again] == [
        [phrase.text for phrase in result.phrases] for result in whole
    ]


@pytest.mark.parametrize("call", ["encode", "generate", "align"])
def test_segment_that_does_not_fit_alone_is_refused(plan: PlannedFaults, call: str) -> None:
    plan.set(ModelFault(kind="memory", call=call))  # type: ignore[arg-type]
    with pytest.raises(OutOfMemoryError, match="out of memory with a single segment"):
        decode(engine(plan), [4.0], word_timestamps=True)


def test_broken_context_is_not_tried_again(plan: PlannedFaults) -> None:
    plan.set(ModelFault(kind="cuda"))
    with pytest.raises(RuntimeError, match=ILLEGAL):
        decode(engine(plan), [4.0, 4.0])
    assert [call.fault for call in plan.calls()] == ["cuda"]


# -- the worker process -----------------------------------------------------------------------------------


def test_worker_with_a_broken_context_says_so_and_exits_with_status_70(plan: PlannedFaults) -> None:
    plan.set(ModelFault(kind="cuda"))
    with tempfile.TemporaryDirectory(prefix="subtitled-test-") as folder, zmq.Context() as context:
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.RCVTIMEO, 60_000)
        socket.bind(f"ipc://{folder}/workers")
        settings = pr.WorkerSettings(
            identity="gpu0.1",
            role="transcribe",
            endpoint=f"ipc://{folder}/workers",
            parent_pid=os.getpid(),
            heartbeat_s=1.0,
            log_level="info",
            log_format="json",
            device="cuda",
            cpu_threads=1,
            engine=pr.EngineSettings(model="demo", beam_size=1, batch_size=4),
        )
        command = [sys.executable, str(WORKER), str(plan.folder), msgspec.json.encode(settings).decode()]
        said: list[pr.FromWorker] = []
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while not said or not isinstance(said[-1], pr.ExitReason):
                _, *frames = socket.recv_multipart()
                said.append(pr.from_worker.decode(frames)[0])
                if isinstance(said[-1], pr.WorkerReady):
                    for lease in (1, 2):
                        order = pr.Transcribe(
                            lease=lease,
                            items=(
                                pr.LeaseItem(key=SegmentKey("a", lease), language="en", task="transcribe"),
                            ),
                            word_timestamps=False,
                        )
                        pcm = media.speech(4).tobytes()
                        socket.send_multipart([b"gpu0.1", *pr.to_worker.encode(order, (pcm,))])
            assert process.wait(60) == ExitCode.CUDA.value
        socket.close()
    assert said[-1] == pr.ExitReason(cause=ILLEGAL)
    # The second lease waited with it; nothing is decoded in a broken context.
    assert len(plan.calls()) == 1
    assert not [message for message in said if isinstance(message, pr.Transcribed | pr.LeaseRefused)]


# -- the daemon: GPUs -------------------------------------------------------------------------------------


def test_work_of_a_broken_gpu_goes_out_again_to_its_next_process(
    daemon: Daemon, plan: PlannedFaults, talk: Path
) -> None:
    plain = daemon.drop(talk, "plain.flac")
    assert daemon.wait_for(plain).state == "done"
    plan.set(ModelFault(kind="cuda", times=1))
    job = daemon.wait_for(daemon.drop(talk, "talk.flac"))
    assert job.state == "done"
    assert texts(daemon, "talk.en") == texts(daemon, "plain.en")
    assert ILLEGAL in daemon.wait_for_log("worker.exited", worker="gpu0.1")["cause"]
    [broken] = [place for place, call in enumerate(plan.calls()) if call.fault]
    pid = plan.calls()[broken].pid
    assert {call.pid for call in plan.calls()[broken + 1 :]} == {worker_pid(plan)} != {pid}
    done = [entry.name for entry in daemon.journal() if entry.job == job.id and entry.event == "done"]
    assert len(done) == len(set(done)) == job.segments["done"]
    assert {lease["worker"] for lease in daemon.log("lease.lost")} == {"gpu0.1"}
    shown = daemon.client.operate(log_lines=1000, log_level="error", log_text="worker.lost").log
    assert any('"worker": "gpu0.1"' in line and ILLEGAL in line for line in shown), "its own line"


def worker_pid(plan: PlannedFaults) -> int:
    """Return the process that decoded last."""
    return plan.calls()[-1].pid


def texts(daemon: Daemon, name: str) -> list[str]:
    return [phrase.text for segment in daemon.transcript(name).segments for phrase in segment.phrases]


def test_full_gpu_goes_on_with_smaller_batches(daemon: Daemon, plan: PlannedFaults, talk: Path) -> None:
    plan.set(ModelFault(kind="memory", min_batch=2))
    job = daemon.wait_for(daemon.drop(talk, "talk.flac"))
    assert job.state == "done"
    assert any(call.fault for call in plan.calls())
    assert {call.batch for call in plan.calls() if not call.fault} == {1}
    assert not daemon.log("segment.lost")
    assert not daemon.log("worker.exited")


def see_the_failure(daemon: Daemon, job: JobFacts, cause: str) -> None:
    """See that the failed `talk.flac` has its finished part, and that the hole is named wherever one looks."""
    assert job.state == "failed"
    assert job.segments["failed"] == 1
    assert job.cause == f"1 of {sum(job.segments.values())} segments could not be transcribed"
    text = (daemon.inbox / "failed" / "talk.flac.error.txt").read_text("utf-8")
    assert job.cause in text
    missing = [row.split(" ", 2) for row in job.missing]
    assert missing
    for start_ms, end_ms, why in missing:
        assert cause in why
        assert f"{clock(int(start_ms))} - {clock(int(end_ms))}  {why}" in text
    assert any(int(start) < MARKED_S[1] * 1000 and int(end) > MARKED_S[0] * 1000 for start, end, _ in missing)
    partial = (daemon.outbox / "talk.en.partial.srt").read_text("utf-8")
    assert "Good morning" in partial
    assert sorted(path.name for path in daemon.outbox.iterdir()) == [
        "talk.en.partial.json",
        "talk.en.partial.srt",
    ]
    assert not (daemon.inbox / "talk.flac").exists()


def see_the_retry(daemon: Daemon, job: JobFacts) -> None:
    """See that only the hole is decoded, that the whole takes the place of the part."""
    before = segments(daemon, "done")
    seq = daemon.journal()[-1].seq
    [failed] = segments(daemon, "exhausted")
    daemon.client.retry(job.id)
    daemon.wait_for_jobs(1)
    done = daemon.client.status(job.id)
    assert (done.state, done.cause, done.missing) == ("done", "", ())
    assert segments(daemon, "leased", seq) == {failed: 1}
    assert segments(daemon, "done") == before + Counter([failed])
    assert not daemon.transcript("talk.en").missing
    outputs = {daemon.outbox / "talk.en.srt", daemon.outbox / "talk.en.json"}
    assert set(daemon.outbox.iterdir()) == outputs
    assert set(done.outputs) == {str(path) for path in outputs}
    assert [path.name for path in (daemon.inbox / "failed").iterdir()] == []
    assert (daemon.inbox / "done" / "talk.flac").is_file()


def clock(time_ms: int) -> str:
    return f"00:00:{time_ms // 1000:02d}.{time_ms % 1000:03d}"


def test_segment_that_never_fits_fails_and_retried_alone(
    daemon: Daemon, plan: PlannedFaults, talk: Path
) -> None:
    plan.set(ModelFault(kind="memory", is_marked=True))
    job = daemon.wait_for(daemon.drop(talk, "talk.flac"))
    see_the_failure(daemon, job, "out of memory with a single segment")
    assert [worker.incarnation for worker in daemon.stats().workers] == [1, 1]
    assert set(segments(daemon, "lost").values()) <= {1, 2}
    plan.set()
    see_the_retry(daemon, job)


def test_segment_that_kills_three_workers_fails_and_retried_alone(
    daemon: Daemon, plan: PlannedFaults, talk: Path
) -> None:
    plan.set(ModelFault(kind="death", is_marked=True))
    job = daemon.wait_for(daemon.drop(talk, "talk.flac"))
    see_the_failure(daemon, job, "killed by SIGSEGV")
    assert len({call.pid for call in plan.calls() if call.fault}) == 3
    assert [line["worker"] for line in daemon.log("worker.exited")] == ["gpu0.1", "gpu0.2", "gpu0.3"]
    # The loss of a batch is held against each in it, but the others come back singly and are done.
    assert set(segments(daemon, "exhausted").values()) == {1}
    plan.set()
    see_the_retry(daemon, job)


def test_missing_speech_is_still_reported_after_a_restart(
    daemon: Daemon, plan: PlannedFaults, talk: Path
) -> None:
    plan.set(ModelFault(kind="memory", is_marked=True))
    job = daemon.wait_for(daemon.drop(talk, "talk.flac"))
    daemon.kill()
    daemon.start()
    see_the_failure(daemon, daemon.client.status(job.id), "out of memory with a single segment")
    plan.set()
    see_the_retry(daemon, job)


# -- the disk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_write_that_the_disk_refuses_leaves_the_file_as_it_was(
    tmp_path: Path, plan: PlannedFaults, call: str
) -> None:
    outputs = tmp_path / "outputs"
    write_whole(outputs / "a.srt", b"old")
    plan.set(DiskFault(call=call, errno=errno.EIO, below=str(outputs), times=1))  # type: ignore[arg-type]
    with (
        failing_disk(plan),
        pytest.raises(FileWriteError, match=r"a\.srt cannot be written: Input/output error"),
    ):
        write_whole(outputs / "a.srt", b"new")
    assert [path.name for path in outputs.iterdir()] == ["a.srt"]
    assert (outputs / "a.srt").read_bytes() == b"old"


def test_name_that_the_disk_does_not_keep_is_an_error(tmp_path: Path, plan: PlannedFaults) -> None:
    """The content is on the disk and in its place, but who says "written" promises that it stays there."""
    plan.set(DiskFault(call="fsync", errno=errno.EIO, below=str(tmp_path), is_folder=True))
    with (
        failing_disk(plan),
        pytest.raises(FileWriteError, match=r"a\.srt cannot be written: Input/output error"),
    ):
        write_whole(tmp_path / "out" / "a.srt", b"new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.srt"]
    assert (tmp_path / "out" / "a.srt").read_bytes() == b"new"


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EOPNOTSUPP])
def test_file_system_that_cannot_sync_a_folder_is_written_to(
    tmp_path: Path, plan: PlannedFaults, refusal: int
) -> None:
    """As some network mounts answer."""
    plan.set(DiskFault(call="fsync", errno=refusal, below=str(tmp_path), is_folder=True))
    with failing_disk(plan):
        write_whole(tmp_path / "a.srt", b"new")
    assert (tmp_path / "a.srt").read_bytes() == b"new"


def test_file_that_has_moved_is_said_to_have_moved(tmp_path: Path, plan: PlannedFaults) -> None:
    """Though the disk does not keep the names: the source is no longer where the job was reported."""
    source = tmp_path / "talk.flac"
    source.write_bytes(b"sound")
    plan.set(DiskFault(call="fsync", errno=errno.EIO, below=str(tmp_path), is_folder=True))
    with failing_disk(plan):
        assert move_whole(source, tmp_path / "done" / "talk.flac") == tmp_path / "done" / "talk.flac"
    assert not source.exists()


def test_job_whose_subtitles_cannot_be_made_durable_fails_and_can_be_retried(
    daemon: Daemon, plan: PlannedFaults, talk: Path
) -> None:
    plan.set(DiskFault(call="fsync", errno=errno.EIO, below=str(daemon.outbox)))
    job = daemon.wait_for(daemon.drop(talk, "talk.flac"))
    assert job.state == "failed"
    assert "talk.en.srt cannot be written: Input/output error" in job.cause
    assert job.cause in (daemon.inbox / "failed" / "talk.flac.error.txt").read_text("utf-8")
    assert list(daemon.outbox.iterdir()) == []
    plan.set()
    seq = daemon.journal()[-1].seq
    daemon.client.retry(job.id)
    daemon.wait_for_jobs(1)
    assert daemon.client.status(job.id).state == "done"
    assert not segments(daemon, "leased", seq)
    assert {path.name for path in daemon.outbox.iterdir()} == {"talk.en.srt", "talk.en.json"}


def test_failure_that_cannot_be_written_down_is_still_reported(
    daemon: Daemon, plan: PlannedFaults, talk: Path
) -> None:
    """The disk takes neither subtitles nor the reason; the daemon reports it in `status`, and continues."""
    # Not below the state folder: a database that cannot be synced stops the daemon.
    plan.set(
        *(
            DiskFault(call="fsync", errno=errno.EIO, below=str(folder))
            for folder in (daemon.inbox, daemon.outbox)
        )
    )
    job = daemon.wait_for(daemon.drop(talk, "talk.flac"))
    assert job.state == "failed"
    assert "Input/output error" in job.cause
    plan.set()
    daemon.client.retry(job.id)
    daemon.wait_for_jobs(1)
    assert daemon.client.status(job.id).state == "done"
    assert {path.name for path in daemon.outbox.iterdir()} == {"talk.en.srt", "talk.en.json"}


def test_disk_that_fills_up_half_way_is_waited_for(daemon: Daemon, plan: PlannedFaults, talk: Path) -> None:
    plan.set(DiskFault(call="write", errno=errno.ENOSPC, below=str(daemon.outbox)))
    path = daemon.drop(talk, "talk.flac")
    daemon.wait_for_log("disk.full")
    assert [job.state for job in daemon.jobs()] == ["writing"]
    # It is tried again every two seconds: an unfinished file may show up for a moment.
    assert all(is_temporary(path.name) for path in daemon.outbox.iterdir())
    plan.set()
    assert daemon.wait_for(path).state == "done"
    daemon.wait_for_log("disk.ok")
    assert len(daemon.log("disk.full")) == 1


def test_names_that_find_no_space_in_the_database_are_claimed_later(tmp_path: Path) -> None:
    """A full database is waited for, here as everywhere, and is no crash."""
    store = Store(str(tmp_path / "subtitled.sqlite"))
    job = Job(
        id="a",
        state=JobState.WRITING,
        source=b"/in/a",
        location=b"/in/a",
        size=1,
        mtime_ns=1,
        options=Options(),
        order=1,
    )
    names = [b"/out/" + bytes(200) + b"%d" % number for number in range(100)]
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NoSpaceError, match="free some space"):
        store.claim_outputs(job, names)
    assert store.outputs_of("a") == []
    store._db.execute("PRAGMA max_page_count = 1000000")
    store.claim_outputs(job, names)
    assert len(store.outputs_of("a")) == 100
    store.close()


def test_jobs_of_one_millisecond_have_ids_of_their_own() -> None:
    """One id twice would end the daemon, in the middle of a burst of files."""
    assert len({new_job_id(order) for order in range(10_000)}) == 10_000


def test_daemon_ends_when_its_inboxes_are_no_longer_watched(
    daemon: Daemon, plan: PlannedFaults, talk: Path
) -> None:
    """A bug of ours, here a pipe that cannot be written to: alive and deaf it would let every file lie."""
    pipes = [os.readlink(link) for link in Path(f"/proc/{daemon.pid}/fd").iterdir()]  # noqa: PTH115 - `pipe:[1]` is no path
    plan.set(
        *(
            DiskFault(call="write", errno=errno.EIO, below=pipe, times=1)
            for pipe in pipes
            if pipe.startswith("pipe:")
        )
    )
    path = daemon.drop(talk, "talk.flac")
    assert daemon.wait_for_exit() == ExitCode.FAILED
    assert "watches the inboxes has ended" in daemon.log("daemon.stopped")[0]["cause"]
    plan.set()
    daemon.start()
    assert daemon.wait_for(path).state == "done"
    daemon.stop()


def test_daemon_ends_when_its_database_cannot_be_written_and_loses_nothing(
    daemon: Daemon, talk: Path
) -> None:
    """A limit on the size of files is a disk that refuses to write; systemd would start the daemon again."""
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    path = daemon.drop(talk, "talk.flac")
    assert daemon.wait_for_exit() == ExitCode.FAILED
    daemon.start()
    assert daemon.wait_for(path).state == "done"
    daemon.stop()
