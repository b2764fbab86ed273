"""`subtitled demo`: transcribes two bundled recordings on this machine with the bundled model.

It starts a daemon with two CPU workers in a temporary folder, copies the recordings into its inbox, shows their progress with
the client, and prints the subtitles from its outbox.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from subtitle import Client, JobFacts, SubtitleError, UnreachableError

RECORDINGS = ("demo.flac", "demo-zh.flac")
START_TIMEOUT_S = 60
JOBS_TIMEOUT_S = 300
STOP_TIMEOUT_S = 20
MAX_SOCKET_BYTES = 107
"""sun_path of unix(7), without its terminating NUL."""
ENDED = ("done", "failed", "cancelled")

CONFIG = """\
[model]
name = "demo"
[pool]
devices = ["cpu", "cpu"]
prepare_workers = 2
[[inbox]]
path = '{folder}/inbox'
output = '{folder}/outbox'
formats = ["srt", "json"]
settle_s = 0.5
[listen]
clients = ['ipc://{folder}/clients.sock']
workers = 'ipc://{folder}/private/workers.sock'
metrics = ""
[state]
dir = '{folder}/state'
[log]
format = "console"
"""


class DemoError(Exception):
    """The demo failed; the message gives the reason."""


def run_demo(*, keep: bool) -> int:
    """Run the demo, print its results, and return an exit status."""
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="subtitled-demo-"))
    try:
        _round_trip(folder, console)
    except (DemoError, SubtitleError) as error:
        console.print(f"The demo failed: {error}", markup=False)
        log = folder / "daemon.log"
        if log.is_file():
            console.print(
                f"The end of the daemon's log:\n{log.read_text('utf-8', 'replace')[-4000:]}", markup=False
            )
        return 1
    finally:
        if keep:
            console.print(f"The demo's files are in {folder}", markup=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _round_trip(folder: Path, console: Console) -> None:
    longest = folder / "private" / "workers.sock"
    if len(os.fsencode(longest)) > MAX_SOCKET_BYTES:
        raise DemoError(
            f"{longest}: a socket's path may have {MAX_SOCKET_BYTES} bytes at most; set TMPDIR to a folder with a shorter path"
        )
    for name in ("inbox", "outbox"):
        (folder / name).mkdir()
    (folder / "subtitled.toml").write_text(CONFIG.format(folder=folder), encoding="utf-8")
    console.print("Starting a daemon with two CPU workers and the bundled demo model ...")
    command = [sys.executable, "-m", "subtitled", "run", "--config", str(folder / "subtitled.toml")]
    with (folder / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with Client(f"ipc://{folder}/clients.sock", timeout_s=2.0) as client:
            _wait_until_ready(client, daemon)
            started = time.monotonic()
            for name in RECORDINGS:
                console.print(f"Copying {name} to the inbox", markup=False)
                shutil.copy(str(files("subtitled") / "demo" / name), folder / "inbox" / name)
            jobs = _wait_until_done(client, daemon, console)
            wall_s = time.monotonic() - started
            details = [client.status(job.id) for job in jobs]
            slots = sorted({w.slot for w in client.stats().workers if w.role == "transcribe"})
    finally:
        status = _stop(daemon)
    failed = [job for job in details if job.state != "done"]
    if failed:
        raise DemoError("; ".join(f"{job.source}: {job.state}: {job.cause}" for job in failed))
    if status != 0:
        raise DemoError(f"the daemon did not stop cleanly: status {status}")
    for job in sorted(details, key=lambda job: job.source):
        for path in map(Path, job.outputs):
            if path.suffix == ".srt":
                console.print(f"\n{path.name}\n", style="bold", markup=False)
                console.print(path.read_text("utf-8"), markup=False)
    segments = sum(sum(job.segments.values()) for job in details)
    audio_s = sum(job.audio_ms for job in details) / 1000
    console.print(
        f"Complete: {len(details)} files | {segments} segments | {len(slots)} devices: {', '.join(slots)} | "
        f"{audio_s:.1f} s of audio in {wall_s:.1f} s | Speed: {audio_s / wall_s:.1f}x realtime",
        markup=False,
    )


def _wait_until_ready(client: Client, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if daemon.poll() is not None:
            raise DemoError(f"the daemon ended with status {daemon.returncode}")
        try:
            workers = client.stats().workers
        except UnreachableError:
            continue
        if all(worker.state == "idle" for worker in workers):
            return
        time.sleep(0.05)
    raise DemoError(f"the daemon was not ready within {START_TIMEOUT_S} s")


def _wait_until_done(
    client: Client, daemon: subprocess.Popen[bytes], console: Console
) -> tuple[JobFacts, ...]:
    """Show the progress of all jobs until all have ended."""
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} segments"),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    deadline = time.monotonic() + JOBS_TIMEOUT_S
    with Progress(*columns, console=console) as progress:
        bars = {}
        while time.monotonic() < deadline:
            if daemon.poll() is not None:
                raise DemoError(f"the daemon ended with status {daemon.returncode}")
            jobs = client.list()
            for job in jobs:
                if job.id not in bars:
                    bars[job.id] = progress.add_task(Path(job.source).name, total=0, state=job.state)
                done = job.segments.get("done", 0) + job.segments.get("skipped", 0)
                progress.update(
                    bars[job.id], completed=done, total=sum(job.segments.values()), state=job.state
                )
            if len(jobs) == len(RECORDINGS) and all(job.state in ENDED for job in jobs):
                return jobs
            time.sleep(0.1)
    raise DemoError(f"the jobs were not done within {JOBS_TIMEOUT_S} s")


def _stop(daemon: subprocess.Popen[bytes]) -> int:
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
    try:
        return daemon.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        return daemon.wait()
