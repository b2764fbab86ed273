"""Whatever clients send, the daemon keeps running, answers others and stays within its memory limit.

After each test, with the same daemon: its process is the one that was started, another client's ping is answered, its memory
went never beyond what docs/protocol.md names, and its file descriptors are back.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
import pytest
import zmq

import zmtp
from daemon import Daemon, eventually, is_running
from subtitle import messages as ms
from subtitle.codec import VERSION
from subtitle.keys import new_pair
from subtitled.api.connection import MAX_WATCHERS
from subtitled.api.connection_limits import ALLOWANCE_BYTES, MAX_CONNECTIONS
from subtitled.api.upload_writer import MAX_QUEUED
from subtitled.api.uploads import CHUNK_BYTES, WINDOW_BYTES
from subtitled.config import schema
from subtitled.config.load import to_toml
from subtitled.network.auth import server_key, server_key_path
from subtitled.network.sockets import open_listeners

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB = 2**20
QUEUE_MB = 16
MAX_OPEN = 4
ENOUGH_BYTES = QUEUE_MB * MIB + MAX_OPEN * WINDOW_BYTES + ALLOWANCE_BYTES
"""What clients can have the daemon hold before they are hung up on."""
OVERSHOOT_BYTES = 1024 * MIB
"""What may come between two looks at the memory."""
KNOWN_CONNECTIONS = 20
"""Most connections that the module's own clients have open."""
PAIRS = {name: new_pair() for name in ("anna", "bert", "carl")}


@pytest.fixture(scope="module")
def port() -> str:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as probe:
        return f"tcp://127.0.0.1:{probe.bind_to_random_port('tcp://127.0.0.1')}"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, port: str) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    with Daemon(
        folder,
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1, queue_mb=QUEUE_MB),
        uploads=schema.UploadsConfig(max_open=MAX_OPEN),
    ) as running:
        local = running.config.listen.clients
        listen = msgspec.structs.replace(running.config.listen, clients=(*local, port))
        clients = tuple(schema.ClientConfig(name=name, key=pair[0]) for name, pair in PAIRS.items())
        configure(running, listen=listen, client=clients)
        running.start()
        yield running
        running.stop()


def configure(daemon: Daemon, **sections: object) -> None:
    daemon.config = msgspec.structs.replace(daemon.config, **sections)
    daemon.config_file.write_text(to_toml(daemon.config), "utf-8")


@pytest.fixture(autouse=True)
def _unharmed(daemon: Daemon) -> Iterator[None]:
    """Say after each test that the daemon is none the worse."""
    pid = daemon.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM starts again: proc(5)
    before_bytes, before_files = memory(pid, "VmRSS"), descriptors(pid)
    yield
    assert is_running(pid), daemon.tail()
    assert daemon.client.ping()
    assert memory(pid, "VmHWM") < before_bytes + ENOUGH_BYTES + OVERSHOOT_BYTES
    eventually(lambda: descriptors(pid) <= before_files + 8, "its descriptors are back")
    eventually(lambda: memory(pid, "VmRSS") < before_bytes + ENOUGH_BYTES, "its memory is back")
    assert not [line for line in daemon.log() if line["event"] == "daemon.stopped"]


def memory(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) * 1024


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


class Peer:
    """A client that says what it likes, by the local socket or with a key; a context manager."""

    def __init__(self, endpoint: str, *, name: str = "", server: str = "", identity: bytes = b"") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if identity:
            self.socket.setsockopt(zmq.ROUTING_ID, identity)
        if name:
            public, secret = PAIRS[name]
            self.socket.setsockopt_string(zmq.CURVE_PUBLICKEY, public)
            self.socket.setsockopt_string(zmq.CURVE_SECRETKEY, secret)
            self.socket.setsockopt_string(zmq.CURVE_SERVERKEY, server)
        self.socket.connect(endpoint)
        self._request = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._context.term()

    def send(self, message: ms.ToServer, *blobs: bytes) -> None:
        """Send a message."""
        self.socket.send_multipart(ms.to_server.encode(message, blobs))

    def answer(self) -> ms.ToClient:
        """Return what comes next."""
        assert self.socket.poll(60_000), "no answer"
        return ms.to_client.decode(self.socket.recv_multipart())[0]

    def request(self, message: ms.ToServer, *blobs: bytes) -> ms.ToClient:
        """Send a message and return its answer; Credit and Event, which may come at any time, are none."""
        self.send(message, *blobs)
        while True:
            found = self.answer()
            if found.request in {0, message.request} and not isinstance(found, ms.UploadCredit | ms.Event):
                return found

    def submit(self, body: bytes = b"nothing", *, size: int | None = None, **more: object) -> ms.Accepted:
        """Begin an upload."""
        self._request += 1
        found = self.request(
            ms.Submit(
                request=self._request,
                name="x.wav",
                size=len(body) if size is None else size,
                sha256=hashlib.sha256(body + os.urandom(8) if size is not None else body).hexdigest(),
                **more,  # type: ignore[arg-type]
            )
        )
        assert isinstance(found, ms.Accepted), found
        return found

    def is_refused(self, code: str, message: ms.ToServer, *blobs: bytes) -> bool:
        """Say that a message is answered with this Error."""
        found = self.request(message, *blobs)
        assert isinstance(found, ms.Error), found
        assert len(found.message) < 500
        assert found.code == code, found
        return True


@pytest.fixture
def local(daemon: Daemon) -> Iterator[Peer]:
    with Peer(daemon.endpoint) as peer:
        yield peer
        end_uploads(daemon)


def end_uploads(daemon: Daemon) -> None:
    for job in daemon.client.list(("receiving",)):
        daemon.client.cancel(job.id)


@pytest.fixture
def keyed(daemon: Daemon, port: str) -> Iterator[dict[str, Peer]]:
    server = server_key(server_key_path(daemon.config)).public
    with Peer(port, name="anna", server=server) as anna, Peer(port, name="bert", server=server) as bert:
        yield {"anna": anna, "bert": bert}
        end_uploads(daemon)


def socket_file(daemon: Daemon) -> Path:
    return Path(daemon.endpoint.removeprefix("ipc://"))


# -- uploads out of order ------------------------------------------------------------------------------------


def test_chunk_before_its_submit_is_refused(local: Peer) -> None:
    assert local.is_refused("WRONG_STATE", ms.Chunk(request=1, job="0123456789abcdef", offset=0), b"x")


def test_commit_of_an_incomplete_file_is_refused_and_the_upload_continues(local: Peer) -> None:
    job = local.submit(b"body").job
    assert local.is_refused("WRONG_STATE", ms.Commit(request=1, job=job))
    local.send(ms.Chunk(request=1, job=job, offset=0), b"body")
    assert isinstance(local.request(ms.Commit(request=1, job=job)), ms.JobInfo)
    assert local.is_refused("WRONG_STATE", ms.Chunk(request=1, job=job, offset=4), b"more")
    assert isinstance(local.request(ms.Commit(request=1, job=job)), ms.JobInfo)


@pytest.mark.parametrize(
    ("offset", "length", "code"),
    [
        (1, 10, "WRONG_STATE"),
        (2**62, 10, "WRONG_STATE"),
        (0, CHUNK_BYTES + 1, "TOO_BIG"),
        (0, 0, "BAD_FORMAT"),
        (0, 1001, "TOO_BIG"),
    ],
)
def test_chunk_at_a_wrong_offset_or_of_a_wrong_length_is_refused(
    local: Peer, offset: int, length: int, code: str
) -> None:
    job = local.submit(size=1000).job
    assert local.is_refused(code, ms.Chunk(request=1, job=job, offset=offset), bytes(length))


def test_chunk_without_exactly_one_blob_is_refused(local: Peer) -> None:
    job = local.submit(size=1000).job
    for blobs in ((), (b"x", b"y"), (b"",) * 4):
        assert local.is_refused("BAD_FORMAT", ms.Chunk(request=1, job=job, offset=0), *blobs)


def test_repeated_chunk_is_written_once(local: Peer) -> None:
    job = local.submit(b"twice").job
    local.send(ms.Chunk(request=1, job=job, offset=0), b"twice")
    assert local.is_refused("WRONG_STATE", ms.Chunk(request=1, job=job, offset=0), b"twice")
    assert isinstance(local.request(ms.Commit(request=1, job=job)), ms.JobInfo)


def test_bytes_with_another_hash_end_the_upload(daemon: Daemon, local: Peer) -> None:
    job = local.submit(size=3).job
    local.send(ms.Chunk(request=1, job=job, offset=0), b"abc")
    assert local.is_refused("HASH_MISMATCH", ms.Commit(request=1, job=job))
    assert local.is_refused("WRONG_STATE", ms.Commit(request=1, job=job))
    folder = daemon.folder / "state" / "uploads" / job
    eventually(lambda: not folder.exists(), "its file is gone")


def test_sender_that_ignores_credit_is_stopped_at_the_window(daemon: Daemon, local: Peer) -> None:
    """What was refused is not written, nor is what comes after it."""
    size = 64 * CHUNK_BYTES
    job = local.submit(size=size).job
    offset = 0
    for _ in range(64):
        local.send(ms.Chunk(request=1, job=job, offset=offset), bytes(CHUNK_BYTES))
        offset += CHUNK_BYTES
    local.send(ms.Hello(request=99))
    refused = 0
    while not isinstance(found := local.answer(), ms.Welcome):
        if isinstance(found, ms.Error):
            assert found.code in {"TOO_BIG", "WRONG_STATE"}
            refused += 1
    assert daemon.client.status(job).received_bytes == size - refused * CHUNK_BYTES


def test_window_of_single_bytes_is_refused(local: Peer) -> None:
    """Each chunk that waits takes memory of its own, however short."""
    count = 40 * MAX_QUEUED
    job = local.submit(size=count).job
    for offset in range(count):
        local.send(ms.Chunk(request=1, job=job, offset=offset), b"x")
    local.send(ms.Hello(request=99))
    while not isinstance(found := local.answer(), ms.Welcome):
        assert isinstance(found, ms.UploadCredit | ms.Error)
        if isinstance(found, ms.Error):
            assert found.code in {"TOO_BIG", "WRONG_STATE", "RATE_LIMITED"}


def test_job_of_another_user_is_not_accessible(daemon: Daemon, keyed: dict[str, Peer]) -> None:
    anna, bert = keyed["anna"], keyed["bert"]
    job = anna.submit(b"anna's").job
    for code, message in (
        ("WRONG_STATE", ms.Chunk(request=1, job=job, offset=0)),
        ("NOT_FOUND", ms.Commit(request=1, job=job)),
        ("NOT_FOUND", ms.Status(request=1, job=job)),
        ("NOT_FOUND", ms.Cancel(request=1, job=job)),
        ("NOT_FOUND", ms.Retry(request=1, job=job)),
        ("NOT_FOUND", ms.Delete(request=1, job=job)),
        ("NOT_FOUND", ms.Fetch(request=1, job=job)),
        ("NOT_FOUND", ms.SaveCues(request=1, job=job, version=0)),
        ("NOT_FOUND", ms.ListCueVersions(request=1, job=job)),
    ):
        assert bert.is_refused(code, message, b"evil")
    other = bert.submit(b"anna's").job
    assert other != job, "the same bytes of another are another job"
    anna.send(ms.Chunk(request=1, job=job, offset=0), b"anna's")
    done = anna.request(ms.Commit(request=1, job=job))
    assert isinstance(done, ms.JobInfo)
    assert done.job.owner == "anna"
    assert daemon.client.status(other).received_bytes == 0


def test_names_from_clients_stay_in_their_folder(daemon: Daemon, local: Peer) -> None:
    uploads = daemon.folder / "state" / "uploads"
    for number, name in enumerate(
        ("../../../x.wav", "/etc/passwd", "..", ".", "", "\0", "a\0b", "~root", "x" * 1000, "\u202e", "con\n")
    ):
        found = local.request(
            ms.Submit(
                request=number + 100, name=name, size=1, sha256=hashlib.sha256(b"%d" % number).hexdigest()
            )
        )
        assert isinstance(found, ms.Accepted), name
        (path,) = (uploads / found.job).iterdir()
        assert path.is_file()
        assert not path.name.startswith((".", "~"))
        assert path.name.isprintable()
        daemon.client.cancel(found.job)


# -- numbers -------------------------------------------------------------------------------------------------


def test_ten_thousand_short_lived_clients_leave_no_resources(daemon: Daemon) -> None:
    hello = frames(ms.to_server.encode(ms.Hello(request=1)))
    for number in range(10_000):
        with zmtp.Wire(socket_file(daemon)) as wire:
            wire.send(hello if number % 2 else hello[:-3])


def test_half_open_handshakes_do_not_block_other_clients(daemon: Daemon, keyed: dict[str, Peer]) -> None:
    """Existing connections stay, and the other listener stays open; no client takes the daemon's last descriptor."""
    wires = []
    for _ in range(MAX_CONNECTIONS + MAX_CONNECTIONS // 4):
        try:
            wires.append(zmtp.Wire(socket_file(daemon), is_greeting=False))
        except FileNotFoundError:  # refused: the limit is reached, and the socket's name is moved away
            assert len(wires) >= MAX_CONNECTIONS - KNOWN_CONNECTIONS
            break
    for wire in wires:
        wire.send(zmtp.GREETING[:20])
    assert daemon.client.ping()
    assert isinstance(keyed["anna"].request(ms.Hello(request=5)), ms.Welcome)
    eventually(lambda: descriptors(daemon.pid) < MAX_CONNECTIONS + 500, "the surplus is hung up on")
    for wire in wires:
        wire.close()


def test_flood_of_requests_is_rate_limited(local: Peer) -> None:
    codes = set()
    for number in range(2000):
        local.send(ms.Hello(request=number))
        while local.socket.poll(0):
            codes.add(getattr(local.answer(), "code", "welcome"))
    local.send(ms.Hello(request=5000))
    while (last := local.answer()).request != 5000:
        codes.add(getattr(last, "code", "welcome"))
    assert codes == {"welcome", "RATE_LIMITED"}


def test_client_that_never_reads_does_not_block_others(daemon: Daemon) -> None:
    with zmtp.Wire(socket_file(daemon)) as wire:
        wire.send(frames(ms.to_server.encode(ms.Watch(request=1, after_seq=0))))
        for number in range(5000):
            wire.send(frames(ms.to_server.encode(ms.List(request=number, limit=1000))))
        assert daemon.client.ping()


def test_closed_watchers_do_not_prevent_new_ones(daemon: Daemon, local: Peer) -> None:
    """They get no entries: nothing happens to the jobs that they watch."""
    for _ in range(MAX_WATCHERS + 10):
        with zmtp.Wire(socket_file(daemon)) as wire:
            wire.send(frames(ms.to_server.encode(ms.Watch(request=1, job="nosuch"))))
    local.send(ms.Watch(request=7, after_seq=0))
    assert isinstance(local.answer(), ms.Event)


# -- frames without end --------------------------------------------------------------------------------------


def frames(parts: Sequence[bytes | memoryview]) -> bytes:
    """Return a whole message as it goes over the wire."""
    last = len(parts) - 1
    return b"".join(zmtp.frame(bytes(part), 0 if n == last else zmtp.MORE) for n, part in enumerate(parts))


@pytest.mark.parametrize(
    ("length", "at_once"), [(2 * MIB, 1), (300, 2_000), (0, 100_000)], ids=["long", "short", "empty"]
)
def test_endless_message_closes_its_connection(daemon: Daemon, length: int, at_once: int) -> None:
    """ZeroMQ shows nothing of it, and would keep it until the memory is full."""
    part = zmtp.frame(bytes(length), zmtp.MORE) * at_once
    before = len(daemon.log("client.disconnected"))
    with zmtp.Wire(socket_file(daemon)) as wire:
        sent = 0
        while wire.send(part):
            sent += len(part)
            assert sent < 8 * 2**30, "it took eight gigabytes"
    eventually(lambda: len(daemon.log("client.disconnected")) > before, "it is logged")


def test_message_of_half_a_million_frames_is_answered_once(daemon: Daemon) -> None:
    with zmtp.Wire(socket_file(daemon)) as wire:
        wire.send(frames([VERSION]).replace(b"\0", b"\1", 1) + zmtp.frame(b"", zmtp.MORE) * 500_000)
        wire.send(zmtp.frame(b"") + frames(ms.to_server.encode(ms.Hello(request=77))))
        seen = b""
        while b"Welcome" not in seen:
            found = wire.socket.recv(65_536)
            assert found, "hung up"
            seen += found
        assert seen.count(b"BAD_FORMAT") == 1


def test_zeromq_sends_no_heartbeats(tmp_path: Path) -> None:
    """A heartbeat that is due on a connection with a full queue, whose client has hung up, aborts the process.

    tests/fuzz found it. The queue of the daemon's socket is full whenever its loop waits for a disk.
    """
    with zmq.Context() as context:
        (listener,) = open_listeners(context, [f"ipc://{tmp_path}/c"], None)
        try:
            assert listener.socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
            assert listener.socket.getsockopt(zmq.TCP_KEEPALIVE) == 1
        finally:
            listener.socket.close()


# -- what is no ZMTP -----------------------------------------------------------------------------------------

GARBAGE = {
    "nothing": b"",
    "a web browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "ones": b"\xff" * 10_000,
    "zeros": b"\0" * 10_000,
    "noise": bytes(range(256)) * 64,
    "half a greeting": zmtp.GREETING[:11],
    "ZMTP 1": b"\x01\x00\x02\x00x" * 50,
    "ZMTP 2": b"\xff" + bytes(8) + b"\x7f\x01\x05\x00\x00" + b"\x00\x01x",
    "ZMTP 255": zmtp.GREETING.replace(b"\x03", b"\xff"),
    "PLAIN": zmtp.GREETING.replace(b"NULL", b"PLAI"),
    "message before READY": zmtp.GREETING + zmtp.frame(b"x"),
    "READY without end": zmtp.GREETING + zmtp.frame(b"\x05READY\x0bSocket-Type\xff\xff\xff\xffDEALER", 4),
    "READY cut off": zmtp.GREETING + zmtp.frame(b"\x05READY\xff", 4),
    "READY as a PUB": zmtp.GREETING + zmtp.frame(b"\x05READY\x0bSocket-Type\0\0\0\x03PUB", 4),
    "empty command": zmtp.GREETING + zmtp.ready() + zmtp.frame(b"", 4),
    "unknown command": zmtp.GREETING + zmtp.ready() + zmtp.frame(b"\x04EVIL", 4),
    "PING without time": zmtp.GREETING + zmtp.ready() + zmtp.frame(b"\x04PING", 4) * 1000,
    "PING with a long context": zmtp.GREETING
    + zmtp.ready()
    + zmtp.frame(b"\x04PING\xff\xff" + bytes(60_000), 4),
    "SUBSCRIBE": zmtp.GREETING + zmtp.ready() + zmtp.frame(b"\x09SUBSCRIBEx", 4),
    "ERROR": zmtp.GREETING + zmtp.ready() + zmtp.frame(b"\x05ERROR\xffx", 4),
    "READY twice": zmtp.GREETING + zmtp.ready() + zmtp.ready(),
    "flags of the future": zmtp.GREETING + zmtp.ready() + b"\xf8\x01x",
    "frame of 2^63": zmtp.GREETING + zmtp.ready() + struct.pack(">BQ", 2, 2**63) + b"x",
    "frame of -1": zmtp.GREETING + zmtp.ready() + struct.pack(">BQ", 3, 2**64 - 1) + b"x",
    "long identity": zmtp.GREETING + zmtp.ready(b"i" * 100_000) + zmtp.frame(b"x"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_on_either_socket_is_harmless(daemon: Daemon, port: str, name: str) -> None:
    for where in (socket_file(daemon), port):
        with zmtp.Wire(where, is_greeting=False) as wire:
            wire.send(GARBAGE[name])
            wire.hang_up_half()
            wire.read_to_end()


# -- keys ----------------------------------------------------------------------------------------------------


def test_client_with_a_key_cannot_choose_a_routing_id(daemon: Daemon, port: str) -> None:
    server = server_key(server_key_path(daemon.config)).public
    with Peer(port, name="anna", server=server, identity=b"me") as peer:
        assert peer.is_refused("BAD_FORMAT", ms.Hello(request=1))


def test_unknown_key_gets_no_answer(daemon: Daemon, port: str) -> None:
    server = server_key(server_key_path(daemon.config)).public
    PAIRS["eve"] = new_pair()
    with Peer(port, name="eve", server=server) as eve:
        eve.send(ms.Hello(request=1))
        eventually(lambda: daemon.scrape()["subtitled_refused_keys_total"] > 0, "it is counted")
        assert not eve.socket.poll(0)


def test_revoked_key_gets_no_further_entries(daemon: Daemon, port: str, keyed: dict[str, Peer]) -> None:
    """Though it is still connected, and watches."""
    server = server_key(server_key_path(daemon.config)).public
    clients = daemon.config.client
    with Peer(port, name="carl", server=server) as carl:
        assert isinstance(carl.request(ms.Hello(request=1)), ms.Welcome)
        carl.send(ms.Watch(request=2, after_seq=-1))
        job = carl.submit(b"carl's").job
        while carl.socket.poll(500):
            carl.answer()
        reload(daemon, client=tuple(client for client in clients if client.name != "carl"))
        carl.send(ms.Chunk(request=1, job=job, offset=0), b"carl's")
        carl.send(ms.Hello(request=3))
        daemon.client.cancel(job)
        assert isinstance(keyed["anna"].request(ms.Hello(request=1)), ms.Welcome)
        assert not carl.socket.poll(500)
        reload(daemon, client=clients)
        assert isinstance(carl.request(ms.Hello(request=4)), ms.Welcome)


def reload(daemon: Daemon, **sections: object) -> None:
    """Have the daemon read another configuration."""
    loaded = len(daemon.log("config.loaded"))
    configure(daemon, **sections)
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(lambda: len(daemon.log("config.loaded")) > loaded, "the configuration is read")
