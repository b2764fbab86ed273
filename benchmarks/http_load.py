"""What many uploads by HTTP at once, and a large one, do to the gateway and to the daemon behind it.

    python benchmarks/http_load.py [--uploads 200] [--mb 2000] [--repeat 3] [--short]

A daemon that has started its gateway takes so many requests `POST /v1/audio/transcriptions` in the same moment, each with a WAV
file of eight seconds, which are held until the text is there; then one `POST /api/jobs` with a body of so many megabytes, of no announced
length. Meanwhile the daemon is asked `Hello` every 5 ms by its own protocol, and so is a process that has nothing to do (`echo`):
what that is late by is the machine's doing. Clients are processes of their own.

To hold: none lost, each with its text; pings under 50 ms; the gateway under 150 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from parts.pings import Pings, Times
from parts.processes import family, machine, peak_mb
from parts.served import Served
from parts.speech import DEMO, RATE, recording, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MB = 10**6
CLIP_S = 8
QUIET_S = 3.0
BOUNDARY = "a-boundary-that-is-in-no-file"
ROWS = ("no upload", "many", "large")


class Run(Struct, frozen=True):
    """One run of one row."""

    wall_s: float
    gateway_mb: float
    daemon: Times
    echo: Times
    answered: int = 0


# -- the clients -------------------------------------------------------------------------------------------------------


async def _post(url: str, path: str, headers: str, body: Iterator[bytes]) -> tuple[int, bytes]:
    """Send one request and return the status and the body of its answer."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n{headers}\r\n"
    writer.write(head.encode())
    for piece in body:
        writer.write(piece)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    status, _, rest = answer.partition(b"\r\n")
    return int(status.split()[1]), rest.partition(b"\r\n\r\n")[2]


def send_many(url: str, file: Path, count: int, found: Any) -> None:
    """Send a file so many times at once; put the seconds until all are answered, and the answers."""
    form = (
        f"--{BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: audio/wav\r\n\r\n"
    )
    content = file.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()

    async def one(number: int) -> tuple[int, str]:
        body = form.format(name=f"{number}.wav").encode() + content
        headers = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n"
        status, answer = await _post(url, "/v1/audio/transcriptions", headers, iter([body]))
        return status, msgspec.json.decode(answer).get("text", "")

    async def all_of_them() -> list[tuple[int, str]]:
        return await asyncio.gather(*map(one, range(count)))

    started = time.perf_counter()
    answers = asyncio.run(all_of_them())
    found.put((time.perf_counter() - started, answers))


def send_large(url: str, mb: int, found: Any) -> None:
    """Send one body of zeros in chunks; put the seconds until it is answered, and the answer."""
    piece = b"%x\r\n" % MB + bytes(MB) + b"\r\n"

    def body() -> Iterator[bytes]:
        for _ in range(mb):
            yield piece
        yield b"0\r\n\r\n"

    started = time.perf_counter()
    answer = asyncio.run(_post(url, "/api/jobs?name=large.bin", "Transfer-Encoding: chunked\r\n", body()))
    found.put((time.perf_counter() - started, [(answer[0], "")]))


# -- the measurement ---------------------------------------------------------------------------------------------------


def measure(folder: Path, row: str, clip: Path, uploads: int, mb: int) -> Run:
    """Run one row on a fresh daemon; SystemExit if anything is lost."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {"SUBTITLED_HTTP__LISTEN": f"127.0.0.1:{port}", "SUBTITLED_UPLOADS__MAX_FILE_MB": "10000"}
    devices = ("cpu",) * (os.cpu_count() or 1)
    with Served(
        folder / "daemon", model=str(DEMO / "model"), threads=1, devices=devices, environ=environ
    ) as daemon:
        daemon.wait_until_ready()
        gateway = _gateway_of(daemon)
        _, [(status, said)] = _in_process(send_many, url, clip, 1)
        if status != 200 or not words(said):
            raise SystemExit(f"the first upload was answered with {status}: {said!r}")
        with Pings(daemon.endpoint, folder) as pings:
            match row:
                case "many":
                    wall_s, answers = _in_process(send_many, url, clip, uploads)
                    _must_be([(200, said)] * uploads, answers)
                case "large":
                    wall_s, answers = _in_process(send_large, url, mb)
                    _must_be([(201, "")], answers)
                case _:
                    time.sleep(QUIET_S)
                    wall_s, answers = QUIET_S, []
        return Run(wall_s, peak_mb([gateway]), pings.daemon, pings.echo, len(answers))


def _in_process(call: Callable[..., None], *words: Any) -> tuple[float, list[tuple[int, str]]]:
    spawn = multiprocessing.get_context("spawn")
    found = spawn.Queue()
    sender = spawn.Process(target=call, args=(*words, found))
    sender.start()
    answers: tuple[float, list[tuple[int, str]]] = found.get(timeout=600)
    sender.join()
    return answers


def _must_be(wanted: list[tuple[int, str]], found: list[tuple[int, str]]) -> None:
    wrong = [answer for answer, right in zip(found, wanted, strict=True) if answer != right]
    if wrong:
        raise SystemExit(f"{len(wrong)} of {len(wanted)} were lost or wrong, such as {wrong[0]}")


def _gateway_of(daemon: Served) -> int:
    """Return the process id of the gateway that a daemon has started, which answers."""
    for _ in daemon.until_given_up():
        for pid in family(daemon.pid):
            if b"\0http\0" in Path(f"/proc/{pid}/cmdline").read_bytes() and "http.listening" in daemon.log():
                return pid
    raise AssertionError("unreachable: it is given up by an error")


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _write_clip(folder: Path) -> Path:
    import soundfile

    clip = folder / "clip.wav"
    soundfile.write(clip, recording()[: CLIP_S * RATE], RATE)
    return clip


# -- the table ---------------------------------------------------------------------------------------------------------


def _print_row(name: str, runs: list[Run]) -> None:
    """Print a row: the best wall time, the largest memory, and the pings of the round whose longest is shortest."""
    calm = min(runs, key=lambda run: run.daemon.longest)
    gateway_mb = max(run.gateway_mb for run in runs)
    line = f"{name:<20}{min(run.wall_s for run in runs):>7.1f} s{gateway_mb:>6.0f} MB"
    for times in (calm.daemon, calm.echo):
        line += f"  {times.median:>6.1f}{times.most:>7.1f}{times.longest:>7.1f} ms"
    print(line + f"  {max(run.daemon.longest for run in runs):>8.1f} ms")


def main() -> None:
    """Run each row so many times, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uploads", type=int, default=200)
    parser.add_argument("--mb", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="one round with 8 uploads and 64 MB: it runs")
    parser.add_argument("--dir", type=Path, help="where the spool lies")
    options = parser.parse_args()
    uploads, mb, repeat = (8, 64, 1) if options.short else (options.uploads, options.mb, options.repeat)
    print(machine())
    print(f"best of {repeat}; of the pings the quietest round, and at last the longest of all rounds")
    print(
        f"{'':<20}{'wall':>9}{'gateway':>9}  {'ping':>6}{'99 %':>7}{'longest':>10}  {'echo':>6}{'99 %':>7}{'longest':>10}"
    )
    names = {"many": f"{uploads} x {CLIP_S} s at once", "large": f"{mb} MB"}
    with tempfile.TemporaryDirectory(prefix="http-", dir=options.dir) as name:
        clip = _write_clip(Path(name))
        for row in ROWS:
            runs = []
            for number in range(repeat):
                folder = Path(name) / f"{row}-{number}".replace(" ", "-")
                folder.mkdir()
                runs.append(measure(folder, row, clip, uploads, mb))
            _print_row(names.get(row, row), runs)


if __name__ == "__main__":
    main()
