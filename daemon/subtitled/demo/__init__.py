"""`subtitled demo`: transcribes two bundled recordings on this machine and translates them, with the bundled models.

It starts a daemon with two CPU workers in a temporary folder, copies the recordings into its inbox, shows their progress with
the client, and prints the subtitles from its outbox, in English and in Chinese.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from subtitle import Client, JobFacts, SubtitleError
from subtitled.config import schema
from subtitled.config.load import to_toml
from subtitled.config.model_files import DEMO, DEMO_TRANSLATION
from subtitled.errors import SubtitledError
from subtitled.standalone.private_daemon import PrivateDaemon, PrivateDaemonError

RECORDINGS = ("demo.flac", "demo-zh.flac")
JOBS_TIMEOUT_S = 300
ENDED = ("done", "failed", "cancelled")


def run_demo(*, keep: bool) -> int:
    """Run the demo, print its results, and return an exit status."""
    console = Console(highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="subtitled-demo-"))
    with PrivateDaemon(folder) as daemon:
        try:
            _run(daemon, console)
        except (SubtitledError, SubtitleError) as error:
            console.print(f"The demo failed: {error}", markup=False)
            console.print(f"The end of the daemon's log:\n{daemon.log_tail()}", markup=False)
            return 1
        finally:
            if keep:
                console.print(f"The demo's files are in {folder}", markup=False)
            else:
                daemon.stop()
                shutil.rmtree(folder, ignore_errors=True)
    return 0


def _run(daemon: PrivateDaemon, console: Console) -> None:
    folder = daemon.folder
    for name in ("inbox", "outbox"):
        (folder / name).mkdir()
    console.print("Starting a daemon with two CPU workers and the bundled demo models ...")
    daemon.start(to_toml(_config(daemon)))
    with Client(daemon.endpoint, timeout_s=2.0) as client:
        daemon.wait_until_ready(client, with_workers=True)
        started = time.monotonic()
        for name in RECORDINGS:
            console.print(f"Copying {name} to the inbox", markup=False)
            shutil.copy(str(files("subtitled") / "demo" / name), folder / "inbox" / name)
        jobs = _wait_until_done(client, daemon, console)
        wall_s = time.monotonic() - started
        details = [client.status(job.id) for job in jobs]
        slots = sorted({w.slot for w in client.stats().workers if w.role == "transcribe"})
    status = daemon.stop()
    failed = [job for job in details if job.state != "done"]
    if failed:
        raise PrivateDaemonError("; ".join(f"{job.source}: {job.state}: {job.cause}" for job in failed))
    if status != 0:
        raise PrivateDaemonError(f"the daemon did not stop cleanly: status {status}")
    for job in sorted(details, key=lambda job: job.source):
        for path in map(Path, job.outputs):
            if path.suffix == ".srt":
                console.print(f"\n{path.name}\n", style="bold", markup=False)
                console.print(path.read_text("utf-8"), markup=False)
    segments = sum(sum(job.segments.values()) for job in details)
    audio_s = sum(job.audio_ms for job in details) / 1000
    console.print(
        f"Complete: {len(details)} files | {segments} segments | {len(slots)} devices: {', '.join(slots)} | "
        f"{audio_s:.1f} s of audio in {wall_s:.1f} s | Speed: {audio_s / wall_s:.1f}x real time",
        markup=False,
    )


def _config(daemon: PrivateDaemon) -> schema.Config:
    return schema.Config(
        model=schema.ModelConfig(name=DEMO),
        models=(schema.NamedModelConfig(name="translation", source=DEMO_TRANSLATION),),
        pool=schema.PoolConfig(devices=("cpu", "cpu"), prepare_workers=2),
        inbox=(
            schema.InboxConfig(
                path=str(daemon.folder / "inbox"),
                output=str(daemon.folder / "outbox"),
                formats=("srt", "json"),
                translate_to=("en", "zh"),
                settle_s=0.5,
            ),
        ),
        listen=schema.ListenConfig(clients=(daemon.endpoint,), workers=daemon.workers_endpoint, metrics=""),
        state=schema.StateConfig(dir=str(daemon.folder / "state")),
        log=schema.LogConfig(format="console"),
    )


def _wait_until_done(client: Client, daemon: PrivateDaemon, console: Console) -> tuple[JobFacts, ...]:
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
            daemon.check()
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
    raise PrivateDaemonError(f"the jobs were not done within {JOBS_TIMEOUT_S} s")
