"""Hostile messages to the clients' socket get at most an Error, and leave nothing behind.

The seeds are fixed; `make fuzz` runs further ones, a million frames.
"""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import msgspec
import pytest
import zmq
from api_fuzzer import CODES, ApiFuzzer
from hypothesis import given, settings
from hypothesis import strategies as st
from message_generator import MessageGenerator, load_corpus

import zmtp
from daemon import Daemon, eventually, is_running
from subtitle import ServerError
from subtitle import messages as ms
from subtitle.errors import ProtocolError
from subtitled.config import schema

RUNS = 4
FRAMES = 12_000
LIVE_MESSAGES = 3_000
CORPUS = load_corpus()
GROWTH_BYTES = 300 * 2**20


@pytest.mark.parametrize("seed", range(RUNS))
def test_random_messages_break_no_invariant(tmp_path: Path, seed: int) -> None:
    """Reproduce a failure with `python tests/fuzz/fuzz.py 1 SEED`, as far as timing allows."""
    with ApiFuzzer(tmp_path, seed) as fuzzer:
        fuzzer.run(FRAMES)
        fuzzer.settle()
        # About half are answered on a quiet machine; how many exceed the rate limit depends on the clock.
        assert fuzzer.answers > fuzzer.messages / 8


@settings(max_examples=400)
@given(
    kept=st.sampled_from(CORPUS),
    at=st.integers(0, 10_000),
    put=st.binary(max_size=6),
    is_cut=st.booleans(),
    more=st.lists(st.binary(max_size=4), max_size=8),
)
def test_codec_decodes_a_message_or_raises_a_protocol_error(
    kept: bytes, at: int, put: bytes, is_cut: bool, more: list[bytes]
) -> None:
    frames = [*msgspec.msgpack.decode(kept), *more]
    number = at % len(frames) if frames else 0
    if frames:
        frame = frames[number]
        where = at % (len(frame) + 1)
        frames[number] = frame[:where] + put + (b"" if is_cut else frame[where + len(put) :])
    try:
        message, blobs = ms.to_server.decode(frames)
    except ProtocolError as error:
        refused = error
    else:
        assert isinstance(message, ms.ToServer)
        assert len(blobs) == len(frames) - 2
        return
    assert refused.code in CODES
    assert len(str(refused)) < 500


def test_corpus_is_small_and_valid_messagepack() -> None:
    assert sum(map(len, CORPUS)) < 8_000
    for kept in CORPUS:
        assert isinstance(msgspec.msgpack.decode(kept), list)


def test_daemon_survives_fuzzing_of_its_sockets(tmp_path: Path) -> None:
    """Messages over ZeroMQ, then damaged ZMTP streams; memory stays bounded."""
    media = tmp_path / "media"
    media.mkdir()
    rng = random.Random(4)
    with Daemon(
        tmp_path,
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1, queue_mb=16),
        uploads=schema.UploadsConfig(max_open=8, max_file_mb=1, max_spool_mb=8, paths=(str(media),)),
    ) as daemon:
        daemon.start()
        before = memory(daemon.pid)
        exchange(daemon, MessageGenerator(rng, CORPUS, folder=str(media)))
        send_damaged_streams(daemon, rng)
        assert is_running(daemon.pid)
        assert daemon.client.ping()
        assert memory(daemon.pid) < before + GROWTH_BYTES
        assert not list(media.iterdir())
        for job in daemon.client.list(("receiving", "queued", "preparing", "transcribing"), limit=1000):
            end(daemon, job.id)
        daemon.stop()
        assert "Traceback" not in daemon.log_file.read_text("utf-8")


def end(daemon: Daemon, job: str) -> None:
    """Cancel a job, unless it has ended already."""
    with contextlib.suppress(ServerError):
        daemon.client.cancel(job)


def exchange(daemon: Daemon, generator: MessageGenerator) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(daemon.endpoint)

        def receive() -> None:
            while socket.poll(0):
                message, _ = ms.to_client.decode(socket.recv_multipart())
                assert not isinstance(message, ms.Error) or message.code in CODES
                generator.receive(message)

        for _ in range(LIVE_MESSAGES):
            eventually(lambda: socket.poll(1000, zmq.POLLOUT), "the daemon accepts more messages")
            socket.send_multipart(generator.next_message() or [b""])
            receive()


def send_damaged_streams(daemon: Daemon, rng: random.Random) -> None:
    """Send valid ZMTP streams with a few bytes changed, or truncated."""
    where = Path(daemon.endpoint.removeprefix("ipc://"))
    for _ in range(500):
        stream = bytearray(zmtp.GREETING + zmtp.ready())
        for kept in rng.sample(CORPUS, 4):
            frames = msgspec.msgpack.decode(kept)
            stream += b"".join(
                zmtp.frame(part, zmtp.MORE * (n + 1 < len(frames))) for n, part in enumerate(frames)
            )
        for _ in range(rng.randrange(6)):
            stream[rng.randrange(len(stream))] = rng.randrange(256)
        with zmtp.Wire(where, is_greeting=False) as wire:
            wire.send(bytes(stream[: rng.randrange(len(stream)) if rng.random() < 0.3 else None]))


def memory(pid: int) -> int:
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) * 1024
