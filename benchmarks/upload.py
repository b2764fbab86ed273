"""How fast a file goes through the clients' socket to the spool, and what others feel of it.

    python benchmarks/upload.py [--mb 1024] [--repeat 3] [--short]

A sender in a process of its own, with a plain socket and the messages of `subtitle`, uploads a file of random bytes to a
real daemon: over the local socket, over TCP on loopback, and over TCP with a key (CURVE). The clock runs from Submit to the answer
to Commit, after which the file is verified and on the disk (fsync). Meanwhile another process asks `Hello` every 5 ms.
`cpu` is processor time of the daemon; `growth` what its resident memory gained at most. The sender knows the file's SHA-256
beforehand.

To compare, in the same rounds:

    cp + sha256sum  the same file copied with `cp`, its copy hashed by `sha256sum`, then synced
    raw PUSH/PULL   the same chunks through a ZeroMQ PUSH and PULL of two processes, ipc, hashed and written by the receiver as
                    they come, then synced: nothing but the bytes
    no upload       the pings alone, for two seconds: what the machine does to them

The best wall time of each counts. To hold: at least 400 MB/s without keys, and pings under 20 ms.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq
from msgspec import Struct

from subtitle import messages as ms
from subtitle.keys import new_pair

if TYPE_CHECKING:
    from collections.abc import Callable

MB = 10**6
CHUNK_BYTES = 2**20
WAIT_MS = 120_000
PING_S = 0.005
QUIET_S = 2.0
WAYS = ("cp + sha256sum", "raw PUSH/PULL", "no upload", "ipc", "tcp", "tcp, key")

CONFIG = """\
[model]
name = "demo"
[pool]
devices = ["cpu"]
prepare_workers = 1
[[inbox]]
path = '{folder}/inbox'
output = '{folder}/outbox'
[listen]
clients = ['ipc://{folder}/clients.sock', 'tcp://127.0.0.1:{port}']
workers = 'ipc://{folder}/private/workers.sock'
metrics = ""
[state]
dir = '{folder}/state'
"""
CLIENT = """\
[[client]]
name = "bench"
key = '{public}'
role = "admin"
"""


class Figures(Struct, frozen=True):
    """One run of one way."""

    wall_s: float
    cpu_s: float = 0.0
    growth_mb: float = 0.0
    pings_ms: tuple[float, ...] = ()


class Place(Struct, frozen=True):
    """A running daemon, and how it is reached."""

    pid: int
    endpoint: str
    key: tuple[str, str, str] | None = None
    """Public and secret key of the client, public key of the server."""

    def connect(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        """Return a socket to the daemon."""
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        if self.key:
            for option, value in zip(
                (zmq.CURVE_PUBLICKEY, zmq.CURVE_SECRETKEY, zmq.CURVE_SERVERKEY), self.key, strict=True
            ):
                socket.setsockopt_string(option, value)
        socket.connect(self.endpoint)
        return socket


# -- the sender --------------------------------------------------------------------------------------------------------


def answer(socket: zmq.Socket[bytes]) -> ms.ToClient:
    """Return the next answer; SystemExit when there is none, or an Error."""
    if not socket.poll(WAIT_MS):
        raise SystemExit(f"no answer within {WAIT_MS} ms")
    message, _ = ms.to_client.decode(socket.recv_multipart())
    if isinstance(message, ms.Error):
        raise SystemExit(f"{message.code}: {message.message}")
    return message


def upload(place: Place, file: Path, sha256: str) -> float:
    """Send a file as the protocol says; return the seconds that it took. The job is cancelled after that."""
    with zmq.Context() as context, place.connect(context) as socket, file.open("rb") as source:
        size = file.stat().st_size
        started = time.perf_counter()
        submit = ms.Submit(request=1, name="bench.bin", size=size, sha256=sha256, allow_duplicate=True)
        socket.send_multipart(ms.to_server.encode(submit))
        accepted = answer(socket)
        if not isinstance(accepted, ms.Accepted):
            raise SystemExit(f"no upload: {accepted}")
        offset, credit = 0, accepted.window_bytes
        while offset < size:
            while socket.poll(0) or offset + CHUNK_BYTES > credit:
                message = answer(socket)
                if isinstance(message, ms.UploadCredit):
                    credit = message.offset + accepted.window_bytes
            chunk = source.read(CHUNK_BYTES)
            header = ms.Chunk(request=1, job=accepted.job, offset=offset)
            socket.send_multipart(ms.to_server.encode(header, (chunk,)), copy=False)
            offset += len(chunk)
        socket.send_multipart(ms.to_server.encode(ms.Commit(request=1, job=accepted.job)))
        while not isinstance(answer(socket), ms.JobInfo):
            pass
        took_s = time.perf_counter() - started
        # Its bytes are no media: what a worker would make of them is none of this measurement.
        socket.send_multipart(ms.to_server.encode(ms.Cancel(request=2, job=accepted.job)))
        socket.poll(WAIT_MS)
        return took_s


def ping(place: Place, stop: Any, found: Any) -> None:
    """Send `Hello` repeatedly until `stop` is set; put the response times in milliseconds."""
    times: list[float] = []
    with zmq.Context() as context, place.connect(context) as socket:
        while not stop.wait(PING_S):
            started = time.perf_counter()
            socket.send_multipart(ms.to_server.encode(ms.Hello(request=1)))
            if not isinstance(answer(socket), ms.Welcome):
                continue
            times.append((time.perf_counter() - started) * 1000)
    found.put(times)


# -- the rivals --------------------------------------------------------------------------------------------------------


def copy(file: Path, folder: Path, sha256: str) -> float:
    """Copy and hash with the system's commands."""
    target = folder / "copy"
    started = time.perf_counter()
    subprocess.run(["/bin/cp", str(file), str(target)], check=True)
    said = subprocess.run(["/usr/bin/sha256sum", str(target)], check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["/bin/sync", "-d", str(target)], check=True)
    took_s = time.perf_counter() - started
    _must(said.startswith(sha256.encode()), "the copy is the file")
    target.unlink()
    return took_s


def push(endpoint: str, file: Path) -> None:
    """Send the bytes of a file; runs in a process of its own."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket, file.open("rb") as source:
        socket.setsockopt(zmq.SNDHWM, 8)
        socket.connect(endpoint)
        while chunk := source.read(CHUNK_BYTES):
            socket.send(chunk, copy=False)
        socket.send(b"")


def pull(file: Path, folder: Path, sha256: str) -> float:
    """Take the bytes of a file from another process, hash and write them."""
    endpoint, target, digest = f"ipc://{folder}/raw.sock", folder / "raw", hashlib.sha256()
    with zmq.Context() as context, context.socket(zmq.PULL) as socket, target.open("wb", buffering=0) as sink:
        socket.setsockopt(zmq.RCVHWM, 8)
        socket.bind(endpoint)
        sender = multiprocessing.get_context("spawn").Process(target=push, args=(endpoint, file))
        sender.start()
        first = chunk = socket.recv(copy=False).buffer
        started = time.perf_counter()
        while chunk:
            digest.update(chunk)
            sink.write(chunk)
            chunk = socket.recv(copy=False).buffer
        del first
        os.fsync(sink.fileno())
        took_s = time.perf_counter() - started
        sender.join()
    _must(digest.hexdigest() == sha256, "what was pulled is the file")
    target.unlink()
    return took_s


# -- the daemon --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with zmq.Context() as context, context.socket(zmq.PULL) as probe:
        return probe.bind_to_random_port("tcp://127.0.0.1")


def with_daemon(folder: Path, *, has_key: bool, measure: Callable[[int, str, int, Any], Figures]) -> Figures:
    """Run a fresh daemon in a folder, and measure."""
    (folder / "inbox").mkdir(parents=True)
    (folder / "outbox").mkdir()
    port = free_port()
    public, secret = new_pair()
    configuration = folder / "subtitled.toml"
    configuration.write_text(
        CONFIG.format(folder=folder, port=port) + (CLIENT.format(public=public) if has_key else "")
    )
    command = [sys.executable, "-m", "subtitled", "run", "--config", str(configuration)]
    with (folder / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_until_ready(daemon, Place(daemon.pid, f"ipc://{folder}/clients.sock"))
        key = None
        if has_key:
            table = tomllib.loads((folder / "state" / "server.key").read_text("utf-8"))
            key = (public, secret, table["public"])
        return measure(daemon.pid, f"ipc://{folder}/clients.sock", port, key)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)


def _wait_until_ready(daemon: subprocess.Popen[bytes], place: Place) -> None:
    with zmq.Context() as context, place.connect(context) as socket:
        while True:
            if daemon.poll() is not None:
                raise SystemExit(f"the daemon ended with status {daemon.returncode}")
            socket.send_multipart(ms.to_server.encode(ms.Stats(request=1)))
            stats = answer(socket)
            if isinstance(stats, ms.StatsInfo) and all(worker.state == "idle" for worker in stats.workers):
                return
            time.sleep(0.1)


def measure_upload(way: str, file: Path, folder: Path, sha256: str, warmup: tuple[Path, str]) -> Figures:
    """Upload a file to a fresh daemon, that has taken a small one before; return the figures."""

    def measure(pid: int, local: str, port: int, key: tuple[str, str, str] | None) -> Figures:
        place = Place(pid, f"tcp://127.0.0.1:{port}" if way.startswith("tcp") else local, key)
        spawn = multiprocessing.get_context("spawn")
        stop, found, took = spawn.Event(), spawn.Queue(), spawn.Queue()
        _in_process(spawn, took, place, *warmup)
        pinger = spawn.Process(target=ping, args=(place, stop, found))
        pinger.start()
        Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")  # resets VmHWM: proc(5)
        before_mb, before_s = _memory_mb(pid, "VmRSS"), _cpu_s(pid)
        if way == "no upload":
            time.sleep(QUIET_S)
            wall_s = QUIET_S
        else:
            wall_s = _in_process(spawn, took, place, file, sha256)
        cpu_s, peak_mb = _cpu_s(pid) - before_s, _memory_mb(pid, "VmHWM")
        stop.set()
        pings = tuple(found.get(timeout=60))
        pinger.join()
        return Figures(wall_s, cpu_s, peak_mb - before_mb, pings)

    return with_daemon(folder, has_key="key" in way, measure=measure)


def _in_process(spawn: Any, took: Any, place: Place, file: Path, sha256: str) -> float:
    sender = spawn.Process(target=_send, args=(took, place, file, sha256))
    sender.start()
    sender.join()
    if sender.exitcode:
        raise SystemExit("the sender failed")
    return float(took.get(timeout=60))


def _send(took: Any, place: Place, file: Path, sha256: str) -> None:
    took.put(upload(place, file, sha256))


def _memory_mb(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    return int(line.split()[1]) * 1024 / MB


def _must(is_so: bool, what: str) -> None:
    if not is_so:
        raise SystemExit(f"it is not so that {what}")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- the table ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Make the file, run each way so many times, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=1024, help="length of the file in MiB")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="one round with 32 MiB: it runs, no more")
    parser.add_argument("--dir", type=Path, help="where the file, its copies and the spool lie")
    options = parser.parse_args()
    mb, repeat = (32, 1) if options.short else (options.mb, options.repeat)
    with tempfile.TemporaryDirectory(prefix="upload-", dir=options.dir) as name:
        folder = Path(name)
        warmup, file = _make(folder / "warmup", 8), _make(folder / "file", mb)
        runs: dict[str, list[Figures]] = {way: [] for way in WAYS}
        for number in range(repeat):
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                runs[way].append(_run(way, *file, folder / f"{WAYS.index(way)}-{number}", folder, warmup))
        load = os.getloadavg()[0]
        print(f"{mb} MiB, best of {repeat}, load average {load:.1f} on {os.cpu_count()} cores")
        _print_table(runs, mb * 2**20)


def _make(path: Path, mb: int) -> tuple[Path, str]:
    """Write a file of random bytes; return it and its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(mb):
            block = os.urandom(2**20)
            digest.update(block)
            file.write(block)
        os.fsync(file.fileno())
    return path, digest.hexdigest()


def _run(way: str, file: Path, sha256: str, into: Path, folder: Path, warmup: tuple[Path, str]) -> Figures:
    match way:
        case "cp + sha256sum":
            return Figures(copy(file, folder, sha256))
        case "raw PUSH/PULL":
            return Figures(pull(file, folder, sha256))
        case _:
            return measure_upload(way, file, into, sha256, warmup)


def _print_table(runs: dict[str, list[Figures]], size: int) -> None:
    print(f"{'':<16}{'MB/s':>6}{'of':>12}{'cpu':>9}{'growth':>9}{'ping':>10}{'99 %':>10}{'longest':>10}")
    for way, figures in runs.items():
        speeds = sorted(size / MB / run.wall_s for run in figures)
        line = f"{way:<16}{speeds[-1]:>6.0f}{f'{speeds[0]:.0f}-{speeds[-1]:.0f}':>12}"
        if way == "no upload":
            line = f"{way:<34}"
        pings = sorted(time_ms for run in figures for time_ms in run.pings_ms)
        if pings:
            best = min(figures, key=lambda run: run.wall_s)
            growth = max(run.growth_mb for run in figures)
            line += f"{best.cpu_s:>7.1f} s{growth:>6.0f} MB"
            for found in (statistics.median(pings), pings[len(pings) * 99 // 100], pings[-1]):
                line += f"{found:>7.1f} ms"
        print(line)


if __name__ == "__main__":
    main()
