"""PCM in shared memory: who may do what with it, what is kept, and that its memory returns to the kernel."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq

import media
from daemon import Daemon, eventually
from subtitled.config import schema
from subtitled.core.protocol import LeaseItem, SharedPcm, Transcribe
from subtitled.core.records import SegmentKey
from subtitled.workers import pcm_store
from subtitled.workers.pcm_store import SPARE_BYTES, PcmStore
from subtitled.workers.shared_pcm import (
    MAX_PLACES,
    PLACE_BYTES,
    Arena,
    ArenaWriter,
    DescriptorReceiver,
    DescriptorSenders,
    lease_audio,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW_BYTES = 960_000
WORKER = "prepare0.1"
WRITERS: list[ArenaWriter] = []
"""Of the running test."""


def used_bytes(arena: Arena) -> int:
    """Return the memory that an arena takes."""
    return os.fstat(arena.read_fd).st_blocks * 512


def open_memfds() -> int:
    """Return how many descriptors of arenas this process has."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor that lists them
            links.append(str(link.readlink()))
    return sum("subtitled-pcm" in link for link in links)


def key(index: int, job: str = "job") -> SegmentKey:
    return SegmentKey(job, index)


class Prepared:
    """A store, and a worker that writes a file's segments to its arena."""

    def __init__(self, store: PcmStore, feed: int = 1) -> None:
        self.store = store
        self.feed = feed
        arena = store.open(WORKER, feed)
        assert arena is not None
        self.arena = arena
        self.writer = ArenaWriter(os.dup(arena.write_fd))
        WRITERS.append(self.writer)

    def prepare(self, index: int, size: int = WINDOW_BYTES) -> int:
        """Write a segment of bytes that are its index, and report it; return its place."""
        place = self.writer.write(bytes([index]) * size)
        assert place is not None
        self.store.keep(key(index), WORKER, size, place=place, frame=None)
        return place

    def grant(self) -> None:
        """Report the places that are free, as a grant of credit does."""
        self.writer.free(self.store.take_free_places(WORKER, self.feed))


@pytest.fixture
def store() -> Iterator[PcmStore]:
    store, before = PcmStore(), open_memfds()
    yield store
    store.close()
    while WRITERS:
        WRITERS.pop().close()
    assert open_memfds() == before


@contextmanager
def connection(worker: str = "cpu0.1") -> Iterator[tuple[DescriptorSenders, DescriptorReceiver]]:
    """Yield the two ends of a worker's socket."""
    senders = DescriptorSenders()
    receiver = DescriptorReceiver(senders.open(worker).detach())
    yield senders, receiver
    senders.close(worker)
    receiver.close()


def lease(number: int, *places: SharedPcm | None) -> Transcribe:
    items = tuple(
        LeaseItem(key=key(index), language="en", task="transcribe", shared=place)
        for index, place in enumerate(places)
    )
    return Transcribe(lease=number, items=items, word_timestamps=False)


# -- what a process can do -----------------------------------------------------------------------------------


def test_reader_gets_what_was_written_and_cannot_change_it(store: PcmStore) -> None:
    file = Prepared(store)
    file.prepare(1)
    file.prepare(2, size=320)
    store.keep(key(3), WORKER, 4, place=None, frame=zmq.Frame(b"wire"))
    descriptors, places = store.shared([key(2), key(3), key(1)])
    with connection() as (senders, receiver):
        assert senders.send("cpu0.1", 7, descriptors)
        second, third, first = lease_audio(lease(7, *places), [b"wire"], receiver.receive)
    assert bytes(first) == b"\1" * WINDOW_BYTES
    assert (bytes(second), third) == (b"\2" * 320, b"wire")
    assert memoryview(first).readonly
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(descriptors[0], b"x", 0)


def test_no_process_can_make_the_memory_shorter_or_longer(store: PcmStore) -> None:
    """A reader of a mapping whose end is cut off would be killed with SIGBUS."""
    arena = Prepared(store).arena
    for size in (0, PLACE_BYTES * MAX_PLACES + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.write_fd, size)


def test_segment_that_has_no_place_is_left_to_the_socket(store: PcmStore) -> None:
    writer = Prepared(store).writer
    assert writer.write(bytes(PLACE_BYTES + 1)) is None
    writer.free([MAX_PLACES])
    assert writer.write(b"late") is None
    assert writer.write(b"next") == 0


# -- descriptors ---------------------------------------------------------------------------------------------


def test_descriptors_of_messages_that_were_lost_are_closed(store: PcmStore) -> None:
    arena = Prepared(store).arena
    before = open_memfds()
    with connection() as (senders, receiver):
        for tag in (1, 2, 3):
            assert senders.send("cpu0.1", tag, [arena.read_fd])
        [descriptor] = receiver.receive(3)
        assert open_memfds() == before + 1
        os.close(descriptor)
        with pytest.raises(BlockingIOError):
            receiver.receive(4)
        senders.close("cpu0.1")
        with pytest.raises(OSError, match="no descriptors with the tag 4: the daemon has closed the socket"):
            receiver.receive(4)


def test_descriptors_that_cannot_be_sent_are_reported() -> None:
    """To a worker that does not read, to one that has ended, to one that is unknown."""
    senders = DescriptorSenders()
    theirs = senders.open("cpu0.1")
    while senders.send("cpu0.1", 1, [0]):
        pass
    theirs.close()
    assert not senders.send("cpu0.1", 1, [0])
    senders.close("cpu0.1")
    senders.close("cpu0.1")
    assert not senders.send("cpu0.1", 1, [0])


# -- what is kept --------------------------------------------------------------------------------------------


def test_memory_of_dropped_segments_is_written_again_or_freed(store: PcmStore) -> None:
    file = Prepared(store)
    count = SPARE_BYTES // WINDOW_BYTES + 4
    for index in range(count):
        file.prepare(index)
    for index in range(count):
        store.drop(key(index))
        assert used_bytes(file.arena) <= (count - index - 1) * PLACE_BYTES + SPARE_BYTES
    assert 0 < used_bytes(file.arena) <= SPARE_BYTES + PLACE_BYTES
    before = used_bytes(file.arena)
    file.grant()
    assert file.prepare(100) == 0
    assert used_bytes(file.arena) == before
    assert file.prepare(101, size=320) == 1
    assert used_bytes(file.arena) < before - WINDOW_BYTES + 2 * PLACE_BYTES // 16
    assert bytes(store.frame(key(100)).buffer) == bytes([100]) * WINDOW_BYTES


def test_a_place_is_not_written_again_before_its_segment_is_dropped(store: PcmStore) -> None:
    file = Prepared(store)
    for index in range(20):
        file.prepare(index, size=64)
        if index % 3 == 0:
            store.drop(key(index))
            file.grant()
    for index in range(20):
        if index % 3:
            assert bytes(store.frame(key(index)).buffer) == bytes([index]) * 64


def test_end_of_a_file_frees_all_but_the_segments_that_wait(store: PcmStore) -> None:
    """Also what was written and never reported; the last segment that is dropped frees the rest."""
    file = Prepared(store)
    for index in range(4):
        file.prepare(index)
    file.writer.write(bytes(WINDOW_BYTES))
    store.drop(key(0))
    store.finish(WORKER, feed=2)
    assert used_bytes(file.arena) > 4 * WINDOW_BYTES
    store.finish(WORKER, feed=1)
    assert 3 * WINDOW_BYTES <= used_bytes(file.arena) <= 3 * PLACE_BYTES
    assert bytes(store.frame(key(3)).buffer) == b"\3" * WINDOW_BYTES
    kept = os.dup(file.arena.read_fd)  # as by a worker that hangs
    for index in range(1, 4):
        store.drop(key(index))
    assert os.fstat(kept).st_blocks == 0
    os.close(kept)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.arena.read_fd)
    assert store.sizes() == {}


def test_segment_that_is_sent_twice_is_kept_once(store: PcmStore) -> None:
    """After the loss of a worker the next one may send segments again that the lost one has sent."""
    first = Prepared(store)
    first.prepare(0)
    store.finish(WORKER)
    second = Prepared(store, feed=2)
    assert second.prepare(0) == 0
    second.grant()
    assert second.prepare(1) == 0
    store.keep(key(1), WORKER, 4, place=None, frame=zmq.Frame(b"wire"))
    assert store.sizes() == {key(0): WINDOW_BYTES, key(1): WINDOW_BYTES}
    assert bytes(store.frame(key(1)).buffer) == b"\1" * WINDOW_BYTES


@pytest.mark.parametrize("place", [0, -1, MAX_PLACES])
def test_a_worker_cannot_report_a_place_that_it_does_not_have(store: PcmStore, place: int) -> None:
    file = Prepared(store)
    file.prepare(0)
    with pytest.raises(LookupError, match=f"no place {place} in shared memory for segment 1"):
        store.keep(key(1), WORKER, 320, place=place, frame=None)
    with pytest.raises(LookupError, match=f"no place {place} in shared memory for segment 1"):
        store.keep(key(1), "prepare1.1", 320, place=place, frame=None)
    assert store.sizes() == {key(0): WINDOW_BYTES}


def test_files_beyond_the_limit_of_arenas_use_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcm_store, "MAX_ARENAS", 2)
    store = PcmStore()
    arenas = [store.open(f"prepare{number}.1", number) for number in range(3)]
    assert [arena is None for arena in arenas] == [False, False, True]
    store.finish("prepare0.1")
    assert store.open("prepare2.1", 4) is not None
    store.close()


def test_a_file_uses_the_socket_if_no_descriptor_is_left() -> None:
    def create() -> Arena:
        raise OSError(errno.EMFILE, "too many open files")

    assert PcmStore(create).open(WORKER, 1) is None


def test_an_arena_that_cannot_be_made_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_memfds()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, "cannot allocate memory")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="cannot allocate"):
        Arena()
    assert open_memfds() == before


# -- a whole daemon ------------------------------------------------------------------------------------------


def is_replaced(daemon: Daemon, slot: str) -> bool:
    return f"{slot}.2" in daemon.workers()


def test_segments_in_shared_memory_survive_their_workers(tmp_path: Path) -> None:
    """The worker that read the file is killed, and the one that holds a lease: the file is not read again."""
    talk = media.write_sound(tmp_path / "talk.flac", media.speech(8))
    with Daemon(
        tmp_path,
        model=schema.ModelConfig(name="demo", cpu_threads=1, beam_size=1),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
        recovery=schema.RecoveryConfig(silence_s=3600, lease_min_s=3600),
    ) as daemon:
        daemon.start()
        before = daemon.workers()
        os.kill(before["cpu0.1"], signal.SIGSTOP)
        source = daemon.drop(talk, "talk.flac")
        eventually(
            lambda: (job := daemon.job_of(source)) and job.state == "transcribing", "the file has been read"
        )
        assert daemon.arenas() == 1
        for slot in ("prepare0", "cpu0"):
            os.kill(before[f"{slot}.1"], signal.SIGKILL)
            eventually(partial(is_replaced, daemon, slot), f"{slot} is replaced")
        assert daemon.wait_for(source).state == "done"
        assert "morning and welcome" in str(daemon.transcript("talk.en").segments)
        assert daemon.log("job.requeued") == []
        eventually(lambda: not daemon.arenas(), "its memory is freed")
        daemon.stop()
