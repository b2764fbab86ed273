"""A worker process does what the worker protocol says, seen from the daemon's side of the socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
import numpy as np
import pytest
import zmq
from msgspec import structs

import media
from daemon import Daemon, eventually, is_running
from subtitled.config import schema
from subtitled.core.plan import Plan, PlanPiece, PlanSettings
from subtitled.core.protocol import (
    Abandon,
    AbandonLease,
    Drain,
    EngineSettings,
    ExitReason,
    FeedCredit,
    FileAbandoned,
    Heartbeat,
    ItemResult,
    LeaseAbandoned,
    LeaseItem,
    LeaseRefused,
    Media,
    ModelUnloaded,
    PlanComplete,
    Prepare,
    Prepared,
    PrepareRefused,
    SegmentResult,
    SegmentsTranscribed,
    SharedPcm,
    ToWorker,
    Transcribe,
    Transcribed,
    WorkerLeaving,
    WorkerReady,
    WorkerSettings,
    from_worker,
    to_worker,
)
from subtitled.core.records import SegmentKey
from subtitled.errors import ExitCode
from subtitled.runtime import sandbox
from subtitled.version import VERSION
from subtitled.workers.flac import encode
from subtitled.workers.shared_pcm import Arena, ArenaWriter, DescriptorSenders
from subtitled.workers.supervisor import WORKER_COMMAND

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

M = TypeVar("M")

DEADLINE_S = 180.0
WINDOW = 30 * media.RATE
SETTINGS = PlanSettings(
    threshold=0.5, min_silence_ms=160, pad_ms=200, min_speech_ms=100, max_segment_s=8, window_samples=WINDOW
)
PLENTY = 1 << 30


class Worker:
    """A worker process and the ROUTER that it speaks to; a context manager."""

    def __init__(
        self,
        role: str,
        *,
        parent: str | None = None,
        device: str = "",
        cpu_threads: int = 0,
        readable: Sequence[Path] = (media.DEMO, Path(tempfile.gettempdir())),
        memory_mib: int = 2048,
        max_hours: float = 0,
        **engine: Any,
    ) -> None:
        """`parent` is a program that starts the worker, instead of this process; `engine` are its EngineSettings."""
        self._folder = tempfile.TemporaryDirectory(prefix="subtitled-test-")
        endpoint = f"ipc://{self._folder.name}/workers.sock"
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(endpoint)
        self._descriptors = DescriptorSenders()
        theirs = self._descriptors.open("slot.7")
        self.settings = WorkerSettings(
            identity="slot.7",
            role=role,
            endpoint=endpoint,
            parent_pid=os.getpid(),
            heartbeat_s=0.1,
            log_level="info",
            log_format="json",
            device=device,
            cpu_threads=cpu_threads,
            engine=EngineSettings(**engine),
            readable=tuple(map(str, readable)),
            memory_bytes=memory_mib << 20,
            max_hours=max_hours,
            descriptors=theirs.fileno() if parent is None else -1,
        )
        self._log = Path(self._folder.name, "worker.log")
        command = [*WORKER_COMMAND, msgspec.json.encode(self.settings).decode()]
        if parent is not None:
            command = [sys.executable, "-c", parent, *command]
        with self._log.open("wb") as log, theirs:
            # The current folder is the one of a daemon that systemd started.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
                cwd="/",
                pass_fds=(theirs.fileno(),),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._socket.close()
        self._descriptors.close("slot.7")
        self._folder.cleanup()

    def send_descriptor(self, tag: int, descriptor: int) -> None:
        """Send a descriptor, for the message with that number."""
        assert self._descriptors.send("slot.7", tag, [descriptor])

    def memfds(self) -> int:
        """Return how many descriptors of shared memory the process has."""
        links = Path(f"/proc/{self.process.pid}/fd").iterdir()
        return sum("subtitled-pcm" in str(link.readlink()) for link in links)

    def send(self, message: ToWorker, blobs: Sequence[bytes] = ()) -> None:
        """Send a message; the worker has spoken before."""
        self._socket.send_multipart([b"slot.7", *to_worker.encode(message, blobs)])

    def receive(self, timeout_s: float = DEADLINE_S) -> tuple[Any, list[bytes]] | None:
        """Return the next message, heartbeats too; None when none came in time."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        identity, *frames = self._socket.recv_multipart()
        assert identity == b"slot.7"
        message, blobs = from_worker.decode(frames)
        return message, [bytes(blob) for blob in blobs]

    def expect(self, kind: type[M]) -> tuple[M, list[bytes]]:
        """Return the next message of a kind; only heartbeats and results of running leases may come before it."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            received = self.receive(deadline - time.monotonic())
            assert received is not None, f"no {kind.__name__}; the log: {self.log()}"
            message, blobs = received
            if isinstance(message, Heartbeat | SegmentsTranscribed) and kind is not type(message):
                continue
            assert isinstance(message, kind), f"{message}; the log: {self.log()}"
            return message, blobs
        raise AssertionError(f"no {kind.__name__}; the log: {self.log()}")

    def exit_status(self) -> int:
        """Wait for the end of the process."""
        return self.process.wait(DEADLINE_S)

    def log(self) -> str:
        """Return what the worker wrote."""
        return self._log.read_text("utf-8", "replace")


@pytest.fixture(scope="module")
def transcriber() -> Iterator[Worker]:
    with Worker("transcribe", device="cpu", model="demo", cpu_threads=1, beam_size=1, batch_size=4) as worker:
        yield worker
        # After all tests it still works, and exits when it is drained, with its leases done.
        worker.send(lease_of(99, ["en"]), [pcm(0.4, 3.2)])
        worker.send(Drain())
        assert worker.expect(Transcribed)[0].lease == 99
        assert worker.exit_status() == ExitCode.OK


@pytest.fixture(scope="module")
def ready(transcriber: Worker) -> WorkerReady:
    """Return the first word of the module's transcribe worker."""
    return transcriber.expect(WorkerReady)[0]


@pytest.fixture(scope="module")
def preparer() -> Iterator[Worker]:
    """Run a worker that has no file after each test."""
    with Worker("prepare") as worker:
        assert worker.expect(WorkerReady)[0] == WorkerReady(version=VERSION, credit=1)
        yield worker
        worker.send(Drain())
        assert worker.exit_status() == ExitCode.OK


def pcm(start_s: float, end_s: float) -> bytes:
    """Return a stretch of the English recording, as it travels."""
    return media.recording()[int(start_s * media.RATE) : int(end_s * media.RATE)].astype("<i2").tobytes()


def lease_of(number: int, languages: Sequence[str | None], *, word_timestamps: bool = False) -> Transcribe:
    items = tuple(
        LeaseItem(key=SegmentKey("job", index), language=language, task="transcribe")
        for index, language in enumerate(languages)
    )
    return Transcribe(lease=number, items=items, word_timestamps=word_timestamps)


def order(path: Path, feed: int = 1, **more: Any) -> Prepare:
    """Return the order to read a file as it is now."""
    found = path.stat()
    fields: dict[str, Any] = {
        "feed": feed,
        "path": bytes(path),
        "root": b"",
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "settings": SETTINGS,
        "language": None,
        "plans": None,
        "done": frozenset(),
        "credit_bytes": PLENTY,
        **more,
    }
    return Prepare(**fields)


def result_of(item: ItemResult) -> SegmentResult:
    """Return a segment's result."""
    return msgspec.msgpack.decode(item.result, type=SegmentResult)


def all_prepared(
    worker: Worker, feed: int = 1, arena: Arena | None = None
) -> tuple[list[tuple[Plan, bytes]], Media]:
    """Return the segments that a worker sends for its order, or writes to `arena`, up to the end of the plan."""
    segments = []
    while True:
        received = worker.receive()
        assert received is not None
        message, blobs = received
        match message:
            case Prepared():
                assert message.feed == feed
                if arena is not None and message.place is not None:
                    blobs.append(arena.frame(message.place, message.plan.samples * 2).bytes)
                [blob] = blobs
                segments.append((message.plan, blob))
            case PlanComplete():
                assert message.feed == feed
                return segments, msgspec.msgpack.decode(message.media, type=Media)
            case Heartbeat():
                pass
            case _:
                raise AssertionError(message)


# -- transcribe ----------------------------------------------------------------------------------------------


def test_ready_message_has_what_the_worker_can_do(ready: WorkerReady) -> None:
    assert ready.version == VERSION
    assert (ready.credit, ready.device, ready.model) == (1, "cpu", "demo")
    assert ready.window_samples == WINDOW
    assert set(ready.languages) == {"en", "zh"}
    assert ready.is_cpu
    assert ready.load_s > 0


@pytest.mark.usefixtures("ready")
def test_a_lease_is_answered_item_by_item(transcriber: Worker) -> None:
    """Each in its language; without a language the detected one is returned; a silent segment has no speech."""
    chinese = media.recording("demo-zh.flac")[: 3 * media.RATE].astype("<i2").tobytes()
    blobs = [pcm(0.4, 3.2), chinese, media.silence(2).tobytes(), pcm(4.0, 7.0)]
    transcriber.send(lease_of(1, ["en", None, None, None]), blobs)
    answer, _ = transcriber.expect(Transcribed)
    assert answer.lease == 1
    assert [(item.key.job, item.key.index) for item in answer.items] == [("job", index) for index in range(4)]
    assert answer.decode_s > 0
    assert answer.features_s > 0
    first, second, third, fourth = map(result_of, answer.items)
    assert "morning and welcome" in "".join(phrase.text for phrase in first.phrases)
    assert (first.language, first.language_probability) == ("en", 1.0)
    assert "公园" in "".join(phrase.text for phrase in second.phrases)
    assert second.language == "zh"
    assert 0.5 < second.language_probability <= 1
    assert not third.is_speech
    assert third.phrases == ()
    assert fourth.is_speech
    assert fourth.language == "en"


@pytest.mark.usefixtures("ready")
def test_segments_are_answered_while_others_of_their_lease_are_decoded(transcriber: Worker) -> None:
    """Two batches: the answer to the lease repeats the results of the first one."""
    transcriber.send(lease_of(31, ["en"] * 5), [media.silence(1).tobytes()] * 4 + [pcm(0.4, 3.2)])
    some, _ = transcriber.expect(SegmentsTranscribed)
    answer, _ = transcriber.expect(Transcribed)
    assert [some.lease, answer.lease] == [31, 31]
    assert some.items == answer.items[:4]


@pytest.mark.usefixtures("ready")
def test_leases_are_answered_in_order_and_more_than_a_batch_is_no_matter(transcriber: Worker) -> None:
    transcriber.send(lease_of(2, ["en"] * 6), [pcm(0.4, 3.2)] * 6)
    transcriber.send(lease_of(3, ["en"], word_timestamps=True), [pcm(0.4, 3.2)])
    first, _ = transcriber.expect(Transcribed)
    second, _ = transcriber.expect(Transcribed)
    assert (first.lease, second.lease) == (2, 3)
    assert len({result_of(item).phrases for item in first.items}) == 1
    assert [phrase.words for phrase in result_of(first.items[0]).phrases] == [()]
    [phrase] = result_of(second.items[0]).phrases
    assert [word.text.strip() for word in phrase.words][:3] == ["Good", "morning", "and"]


@pytest.mark.usefixtures("ready")
def test_flac_is_heard_as_its_pcm_is(transcriber: Worker) -> None:
    """Both may be in one lease; what cannot be read is refused, and the worker stays well."""
    sound = pcm(0.4, 3.2)
    plain = lease_of(11, ["en", "en"])
    mixed = structs.replace(plain, items=(structs.replace(plain.items[0], codec="flac"), plain.items[1]))
    transcriber.send(mixed, [encode(sound), sound])
    answer, _ = transcriber.expect(Transcribed)
    assert len({result_of(item) for item in answer.items}) == 1
    assert "morning and welcome" in "".join(phrase.text for phrase in result_of(answer.items[0]).phrases)
    transcriber.send(structs.replace(mixed, lease=12), [encode(sound)[:1000], sound])
    refused, _ = transcriber.expect(LeaseRefused)
    assert refused.lease == 12
    assert "FLAC of 1000 bytes" in refused.cause


@pytest.mark.usefixtures("ready")
def test_audio_in_shared_memory_gives_the_same_text(transcriber: Worker) -> None:
    """Also beside audio in a blob; the memory is not held after the lease."""
    sound, arena = pcm(0.4, 3.2), Arena()
    writer = ArenaWriter(os.dup(arena.write_fd))
    plain = lease_of(41, ["en", "en", "en"])
    shared = [SharedPcm(descriptor=0, place=writer.write(sound) or 0, size=len(sound)) for _ in range(2)]
    items = (
        structs.replace(plain.items[0], shared=shared[0]),
        plain.items[1],
        structs.replace(plain.items[2], shared=shared[1]),
    )
    transcriber.send_descriptor(41, arena.read_fd)
    transcriber.send(structs.replace(plain, items=items), [sound])
    answer, _ = transcriber.expect(Transcribed)
    assert len({result_of(item) for item in answer.items}) == 1
    assert "morning and welcome" in "".join(phrase.text for phrase in result_of(answer.items[0]).phrases)
    transcriber.send(lease_of(42, ["en"]), [sound])
    assert transcriber.expect(Transcribed)[0].lease == 42
    assert transcriber.memfds() == 0
    arena.close()
    writer.close()


@pytest.mark.usefixtures("ready")
def test_a_language_that_the_model_does_not_have_is_refused(transcriber: Worker) -> None:
    transcriber.send(lease_of(4, ["de"]), [pcm(0.4, 3.2)])
    refused, _ = transcriber.expect(LeaseRefused)
    assert refused.lease == 4
    assert "language 'de': the model does not support it" in refused.cause
    transcriber.send(lease_of(5, ["en"]), [pcm(0.4, 3.2)])
    assert transcriber.expect(Transcribed)[0].lease == 5


@pytest.mark.usefixtures("ready")
def test_heartbeats_go_on_while_the_model_works(transcriber: Worker) -> None:
    transcriber.send(lease_of(6, ["en"] * 4), [pcm(0.4, 8.0)] * 4)
    beats = 0
    while not isinstance(message := (transcriber.receive() or (None, []))[0], Transcribed):
        beats += isinstance(message, Heartbeat)
    assert beats >= 2


@pytest.mark.usefixtures("ready")
def test_a_running_lease_reports_its_steps_and_stops_when_it_is_abandoned(transcriber: Worker) -> None:
    """Between two calls of the model; a lease that waits behind it is dropped too."""
    transcriber.send(lease_of(21, ["en"] * 40), [pcm(0.4, 8.0)] * 40)
    steps = 0
    while not steps:
        beat, _ = transcriber.expect(Heartbeat)
        steps = sum(progress.steps for progress in beat.leases if progress.lease == 21)
    assert steps < 30
    transcriber.send(lease_of(22, ["en"]), [pcm(0.4, 3.2)])
    transcriber.send(lease_of(23, ["en"]), [pcm(0.4, 3.2)])
    for lease in (22, 21, 1):  # the last one is answered already
        transcriber.send(AbandonLease(lease=lease))
    assert {transcriber.expect(LeaseAbandoned)[0].lease for _ in range(2)} == {21, 22}
    assert transcriber.expect(Transcribed)[0].lease == 23


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"model": "/nonexistent/model"}, "no such folder"),
        ({"model": str(Path(media.__file__).parent)}, "the folder has no model.bin"),
        ({"model": "demo", "compute_type": "int4"}, "int4"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_fatal_with_its_reason(settings: dict[str, Any], cause: str) -> None:
    with Worker("transcribe", device="cpu", **settings) as worker:
        words, _ = worker.expect(ExitReason)
        assert cause in words.cause
        assert settings["model"] in words.cause
        assert worker.exit_status() == ExitCode.FATAL


def test_a_model_leaves_the_memory_and_comes_back_with_the_next_lease() -> None:
    """A message reports the unload, and the answer of the next lease the time of loading."""
    with Worker(
        "transcribe", device="cpu", model="demo", cpu_threads=1, beam_size=1, idle_unload_s=0.3
    ) as worker:
        worker.expect(WorkerReady)
        answers = []
        for number in (1, 2):
            worker.expect(ModelUnloaded)
            worker.send(lease_of(number, [None]), [pcm(0.4, 3.2)])
            answers.append(worker.expect(Transcribed)[0])
        assert all(answer.load_s > 0 for answer in answers)
        first, second = (result_of(answer.items[0]) for answer in answers)
        assert first == second
        assert "morning and welcome" in "".join(phrase.text for phrase in first.phrases)
        worker.expect(ModelUnloaded)
        worker.send(Drain())
        assert worker.exit_status() == ExitCode.OK


@pytest.mark.long
def test_each_thread_of_a_cpu_decodes_a_lease() -> None:
    """Short ones are answered before a long one that came first; all are answered before the worker goes."""
    with Worker("transcribe", device="cpu", model="demo", cpu_threads=2, batch_size=0) as worker:
        ready, _ = worker.expect(WorkerReady)
        assert (ready.streams, ready.credit) == (2, 2)
        assert ready.batch_size == 8
        worker.send(lease_of(1, ["en"] * 10), [pcm(0.4, 8.0)] * 10)
        worker.send(lease_of(2, ["en"]), [pcm(0.4, 1.4)])
        worker.send(lease_of(3, ["en"]), [pcm(0.4, 1.4)])
        worker.send(Drain())
        assert [worker.expect(Transcribed)[0].lease for _ in range(3)] == [2, 3, 1]
        assert worker.exit_status() == ExitCode.OK


def test_worker_loads_the_models_that_leases_name_and_unloads_others_for_them() -> None:
    """A model that is missing fails its lease; the worker and its other models go on."""
    demo = EngineSettings(model="demo", beam_size=1, batch_size=2)
    missing = EngineSettings(model="/nonexistent/model")
    with Worker("transcribe", device="cpu", model="demo", cpu_threads=1, beam_size=1) as worker:
        worker.expect(WorkerReady)

        def transcribe(number: int, model: str, **load: Any) -> Transcribed | LeaseRefused:
            order = msgspec.structs.replace(lease_of(number, [None]), model=model, **load)
            worker.send(order, [pcm(0.4, 3.2)])
            if load.get("engine") is missing:
                return worker.expect(LeaseRefused)[0]
            return worker.expect(Transcribed)[0]

        by_default = transcribe(1, "")
        loaded = transcribe(2, "other", is_load=True, engine=demo)
        assert isinstance(by_default, Transcribed)
        assert isinstance(loaded, Transcribed)
        assert loaded.loaded is not None
        assert (loaded.loaded.name, loaded.loaded.batch_size, loaded.evicted) == ("other", 2, ())
        assert loaded.loaded.load_s > 0
        assert loaded.free_bytes
        assert result_of(loaded.items[0]) == result_of(by_default.items[0])
        again = transcribe(3, "other")
        assert isinstance(again, Transcribed)
        assert again.loaded is None
        refused = transcribe(4, "gone", is_load=True, engine=missing)
        assert isinstance(refused, LeaseRefused)
        assert refused.is_model_fault
        assert "/nonexistent/model" in refused.cause
        back = transcribe(5, "third", is_load=True, engine=demo, evict=("", "other"))
        assert isinstance(back, Transcribed)
        assert back.evicted == ("", "other")
        default = transcribe(6, "", is_load=True)
        assert isinstance(default, Transcribed)
        assert default.loaded is not None
        assert result_of(default.items[0]) == result_of(by_default.items[0])
        worker.send(Drain())
        assert worker.exit_status() == ExitCode.OK


# -- prepare -------------------------------------------------------------------------------------------------


def test_a_file_is_planned_and_its_pcm_sent(preparer: Worker) -> None:
    preparer.send(order(media.DEMO / "demo.flac"))
    segments, facts = all_prepared(preparer)
    whole = media.recording()
    assert [plan.index for plan, _ in segments] == list(range(len(segments)))
    for plan, blob in segments:
        assert 0 < plan.samples <= WINDOW
        expected = np.concatenate([whole[p.start : p.start + p.samples] for p in plan.pieces])
        assert blob == expected.astype("<i2").tobytes()
    assert facts.decoded_samples == len(whole)
    assert facts.speech_samples == sum(plan.samples for plan, _ in segments)
    assert (facts.sample_rate, facts.channels) == (media.RATE, 1)
    # Once more, as after a restart: of the stored plans only what is wanted.
    plans = tuple(plan for plan, _ in segments)
    preparer.send(order(media.DEMO / "demo.flac", 2, plans=plans[2:], done=frozenset({3})))
    again, facts = all_prepared(preparer, 2)
    assert again == [segment for segment in segments[2:] if segment[0].index != 3]
    assert facts == Media()


def test_pcm_in_shared_memory_is_the_same_as_in_blobs(preparer: Worker) -> None:
    """Inside the sandbox; each file has memory of its own, which the worker does not hold longer than its file."""
    preparer.send(order(media.DEMO / "demo.flac"))
    segments, _ = all_prepared(preparer)
    for feed in (2, 3):
        arena = Arena()
        preparer.send_descriptor(feed, arena.write_fd)
        preparer.send(order(media.DEMO / "demo.flac", feed, has_memory=True))
        shared, _ = all_prepared(preparer, feed, arena)
        assert shared == segments
        arena.close()
    preparer.send(order(media.DEMO / "demo.flac", 4))
    preparer.expect(Prepared)
    assert preparer.memfds() == 0
    assert all_prepared(preparer, 4)[0] == segments[1:]


@pytest.mark.skipif(sandbox.landlock_version() == 0, reason="this kernel has no Landlock")
def test_file_replaced_by_a_link_to_a_secret_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    shutil.copy(media.DEMO / "demo.flac", tmp_path / "secret.flac")
    (tmp_path / "inbox" / "talk.flac").symlink_to(tmp_path / "secret.flac")
    with Worker("prepare", readable=[tmp_path / "inbox"]) as worker:
        worker.expect(WorkerReady)
        worker.send(order(tmp_path / "inbox" / "talk.flac", root=bytes(tmp_path)))
        refused, _ = worker.expect(PrepareRefused)
        assert "cannot be read by" in refused.cause


def test_file_replaced_by_a_link_out_of_its_inbox_is_not_read(tmp_path: Path) -> None:
    """Also where the sandbox would allow it: the other file lies in another inbox."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(media.DEMO / "demo.flac", tmp_path / name / f"{name}.flac")
    with Worker("prepare", readable=[tmp_path]) as worker:
        worker.expect(WorkerReady)
        message = order(tmp_path / "one" / "one.flac")
        (tmp_path / "one" / "one.flac").unlink()
        (tmp_path / "one" / "one.flac").symlink_to(tmp_path / "two" / "two.flac")
        os.utime(tmp_path / "two" / "two.flac", ns=(message.mtime_ns, message.mtime_ns))
        worker.send(structs.replace(message, root=bytes(tmp_path / "one")))
        refused, _ = worker.expect(PrepareRefused)
        assert "is a link that leads out of its inbox" in refused.cause


@pytest.mark.long
def test_file_that_takes_too_much_memory_is_refused_alone(tmp_path: Path) -> None:
    """A Matroska file whose attachment FFmpeg reads into memory; the next file is read."""
    large = tmp_path / "talk.mka"
    with large.open("wb") as file:
        file.write(bytes.fromhex("1a45dfa3 8b 4282 88 6d6174726f736b61".replace(" ", "")))
        file.write(bytes.fromhex("18538067 01ffffffffffffff".replace(" ", "")))
        size = 900 << 20
        data = b"\x46\x5c" + (size | 1 << 56).to_bytes(8, "big")
        inner = b"\x46\x6e\x81a" + b"\x46\x60\x89image/png" + b"\x46\xae\x81\x01" + data
        attached = b"\x61\xa7" + (len(inner) + size | 1 << 56).to_bytes(8, "big")
        outer = len(attached) + len(inner) + size
        file.write(bytes.fromhex("1941a469") + (outer | 1 << 56).to_bytes(8, "big") + attached + inner)
        file.truncate(file.tell() + size)
    with Worker("prepare", memory_mib=768) as worker:
        worker.expect(WorkerReady)
        worker.send(order(large))
        refused, _ = worker.expect(PrepareRefused)
        assert refused.feed == 1
        worker.send(order(media.DEMO / "demo.flac", 2))
        assert all_prepared(worker, 2)[0]


def test_audio_longer_than_the_limit_is_refused() -> None:
    with Worker("prepare", max_hours=0.01) as worker:  # 36 s
        worker.expect(WorkerReady)
        worker.send(order(media.DEMO / "demo-zh.flac"))  # 34 s
        all_prepared(worker)
        worker.send(order(media.DEMO / "demo.flac", 2))  # 58 s
        while isinstance(received := worker.receive(), tuple):
            if isinstance(received[0], PrepareRefused):
                assert "longer than pool.max_hours (0.01 h)" in received[0].cause
                return
    raise AssertionError("the worker did not answer")


def test_folder_replaced_since_the_start_is_left_to_a_new_process(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    shutil.copy(media.DEMO / "demo-zh.flac", tmp_path / "inbox" / "talk.flac")
    with Worker("prepare", readable=[tmp_path / "inbox"]) as worker:
        worker.expect(WorkerReady)
        worker.send(order(tmp_path / "inbox" / "talk.flac"))
        all_prepared(worker)
        (tmp_path / "inbox").rename(tmp_path / "old")
        shutil.copytree(tmp_path / "old", tmp_path / "inbox")
        worker.send(order(tmp_path / "inbox" / "talk.flac", 2))
        leaving, _ = worker.expect(WorkerLeaving)
        assert leaving.cause == "the folders of the configuration have changed"
        worker.send(Drain())
        assert worker.exit_status() == 0


def test_no_more_pcm_is_sent_than_there_is_credit_for(preparer: Worker) -> None:
    """The worker reports that it waits, which is not a stall."""
    preparer.send(order(media.DEMO / "demo.flac", credit_bytes=1))
    first, _ = preparer.expect(Prepared)
    assert first.plan.index == 0
    beat = preparer.expect(Heartbeat)[0]
    while not beat.is_waiting:
        beat = preparer.expect(Heartbeat)[0]
    assert beat.feed == 1
    assert beat.decoded_samples > 0
    preparer.send(FeedCredit(feed=7, bytes=PLENTY))  # of another file: it is not for this one
    assert preparer.expect(Heartbeat)[0].is_waiting
    preparer.send(FeedCredit(feed=1, bytes=first.plan.samples * 2))
    second, _ = preparer.expect(Prepared)
    assert second.plan.index == 1
    preparer.send(FeedCredit(feed=1, bytes=PLENTY))
    rest, _ = all_prepared(preparer)
    assert rest[0][0].index == 2


def test_an_abandoned_file_is_confirmed_and_the_next_one_is_read(preparer: Worker) -> None:
    preparer.send(order(media.DEMO / "demo.flac", credit_bytes=1))
    preparer.expect(Prepared)
    preparer.send(Abandon(feed=1))
    assert preparer.expect(FileAbandoned)[0].feed == 1
    preparer.send(order(media.DEMO / "demo-zh.flac", 2))
    segments, _ = all_prepared(preparer, 2)
    assert segments


def test_what_cannot_be_read_is_refused_with_its_reason(preparer: Worker, tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("Dear diary", "utf-8")
    changed = media.write_sound(tmp_path / "changed.wav", media.speech(4))
    gone = media.write_sound(tmp_path / "gone.wav", media.speech(4))
    orders = [order(text, 1), order(changed, 2), order(gone, 3)]
    changed.write_bytes(b"RIFF")
    gone.unlink()
    causes = {}
    for one in orders:
        preparer.send(one)
        refused, _ = preparer.expect(PrepareRefused)
        causes[refused.feed] = refused.cause
    assert "text.wav" in causes[1]
    assert "the file changed after it was accepted" in causes[2]
    assert "No such file" in causes[3]


# -- both ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["prepare", "transcribe"])
def test_a_worker_dies_with_its_parent(role: str) -> None:
    """Killed by the kernel: it needs no message, and none is lost in a hung process."""
    parent = (
        "import json, os, subprocess, sys, time\n"
        "settings = json.loads(sys.argv[-1]); settings['parent_pid'] = os.getpid()\n"
        "worker = subprocess.Popen([*sys.argv[1:-1], json.dumps(settings)])\n"
        "print(worker.pid, flush=True)\n"
        "worker.wait()\n"
    )
    with Worker(role, parent=parent, device="cpu", model="demo") as worker:
        worker.expect(WorkerReady)
        pid = int(worker.log().split()[0])
        assert is_running(pid)
        worker.process.kill()
        worker.process.wait()
        eventually(lambda: not is_running(pid), "the worker is gone")


def test_a_worker_whose_parent_is_gone_already_does_not_start() -> None:
    settings = WorkerSettings(
        identity="slot.1",
        role="prepare",
        endpoint="ipc:///tmp/subtitled-test-unused.sock",
        parent_pid=1 if os.getppid() != 1 else 2,
        heartbeat_s=1.0,
        log_level="info",
        log_format="json",
    )
    command = [*WORKER_COMMAND, msgspec.json.encode(settings).decode()]
    assert subprocess.run(command, timeout=DEADLINE_S, check=False).returncode == ExitCode.FAILED


# -- what the daemon makes of it -----------------------------------------------------------------------------


@pytest.fixture
def broken_model(tmp_path: Path) -> str:
    """Return a folder that looks like a model's and holds none."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (folder / name).write_bytes(b"{}")
    return str(folder)


@pytest.mark.parametrize("name", ["/nonexistent/model", "broken"])
def test_a_daemon_whose_model_is_wrong_ends_with_78_and_says_why(
    tmp_path: Path, broken_model: str, name: str
) -> None:
    """No loop of restarts: each worker was started once, and the daemon never said that it was ready."""
    model = schema.ModelConfig(name=broken_model if name == "broken" else name)
    with Daemon(tmp_path, model=model) as daemon:
        daemon.spawn()
        assert daemon.wait_for_exit() == ExitCode.FATAL
        assert "Traceback" not in daemon.tail()
        assert model.name in daemon.tail()
        assert daemon.log("daemon.ready") == []
        if daemon.log("worker.starting"):
            assert {entry["incarnation"] for entry in daemon.log("worker.starting")} == {1}
            causes = [entry["cause"] for entry in daemon.log("worker.broken")]
            assert [model.name in logged for logged in causes] == [True]


def test_invalid_message_on_the_workers_socket_is_dropped(tmp_path: Path) -> None:
    """Messages of an unknown sender, or in the name of a worker that is not running, change nothing."""
    with Daemon(tmp_path) as daemon:
        daemon.start()
        for identity, frames in (
            (b"unknown", [b"hello"]),
            (b"\xff\xfe", from_worker.encode(Heartbeat())),
            (b"cpu0.9", from_worker.encode(WorkerReady(version=VERSION, credit=2, window_samples=16_000))),
            (b"cpu7.1", from_worker.encode(Transcribed(lease=1, items=(), features_s=0, decode_s=0))),
            (b"prepare0.5", from_worker.encode(PrepareRefused(feed=1, cause="no"))),
            (
                b"prepare1.5",
                from_worker.encode(PlanComplete(feed=1, media=msgspec.msgpack.encode(Media()))),
            ),
            (b"prepare9.1", from_worker.encode(Prepared(feed=1, plan=Plan(0, (), ())))),
            (
                b"prepare0.1",
                from_worker.encode(Prepared(feed=1, plan=Plan(0, (PlanPiece(0, 9),), ())), [b"x"]),
            ),
        ):
            socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
            socket.setsockopt(zmq.IDENTITY, identity)
            socket.setsockopt(zmq.LINGER, 1000)
            socket.connect(daemon.config.listen.workers)
            socket.send_multipart([bytes(frame) for frame in frames])
            socket.close()
        source = daemon.drop(media.write_sound(tmp_path / "x.flac", media.speech(8)), "talk.flac")
        assert daemon.wait_for(source).state == "done"
        assert {worker.incarnation for worker in daemon.stats().workers} == {1}, daemon.tail()
        daemon.stop()
