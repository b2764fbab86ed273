"""Random processes of a real daemon are killed and stopped while it works, and more; then nothing may be missing.

Workers, layout process, gateway and daemon are killed or stopped; a power cut loses what the database did not sync; as root
the mount of the inbox or of the outputs hangs or loses its server.

`python tests/integration/chaos/chaos.py --minutes 10` (or `make chaos MINUTES=10`) prints kills by kind, restarts, segments
decoded more than once, and losses.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import urllib.request
from http import HTTPStatus
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/, when this file runs alone

import media
from daemon import (
    ENDED,
    TWO_SLOTS,
    Daemon,
    InboxFolder,
    eventually,
    free_port,
    process_state,
    worker_processes,
)
from faults.lying_disk_main import restore
from hung_mount import ForbiddenError, HungMount
from subtitle import UnreachableError
from subtitled.config import schema
from subtitled.cues.render import read_json

RATE = 16_000
ROUND_TIMEOUT_S = 300.0
LYING_DISK = Path(__file__).parents[2] / "faults" / "lying_disk_main.py"

# Random kills hit any file: the limits that protect a daemon from a file that kills workers are raised.
RECOVERY = schema.RecoveryConfig(
    attempts=20,
    prepare_attempts=20,
    crash_budget=100,
    heartbeat_s=0.2,
    silence_s=3.0,
    lease_min_s=8.0,
    prepare_stall_s=10.0,
)
INBOX = InboxFolder(options={"language": "en", "settle_s": 0.1})


class Tally:
    """What was done to the daemon, and the result."""

    def __init__(self) -> None:
        self.faults: collections.Counter[str] = collections.Counter()
        self.files = 0
        self.segments = 0
        self.decoded_again = 0
        self.restarts = 0
        self.orphans = 0
        """Stopped workers that have outlived their daemon."""
        self.losses: list[str] = []

    def __str__(self) -> str:
        faults = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.faults.items()))
        return (
            f"{self.files} files, {self.segments} segments; {faults or 'no faults'}; "
            f"{self.restarts} worker restarts, {self.orphans} stopped workers outlived their daemon; "
            f"{self.decoded_again} segments decoded more than once; "
            f"losses: {len(self.losses)}"
        )


def make_recordings(folder: Path, count: int, seed: int) -> list[Path]:
    """Make `count` files out of the demo recording: sentences of it, in another order in each."""
    pcm, sentences = media.recording(), media.true_text()
    pause = np.zeros(RATE // 2, np.int16)
    rng = random.Random(seed)
    paths = []
    for number in range(count):
        parts = [pause]
        for said in rng.sample(sentences, rng.randint(3, 9)):
            first, last = (time_ms * RATE // 1000 for time_ms in (said.start_ms, said.end_ms))
            parts += [pcm[first - 800 : last + 1600], pause]
        paths.append(folder / f"talk {seed}-{number:03d}.flac")
        soundfile.write(paths[-1], np.concatenate(parts), RATE)
    return paths


def run_undisturbed(folder: Path, sources: list[Path]) -> tuple[dict[str, str], float]:
    """Return the text of each source, by its stem, as a daemon in peace makes it, and the seconds of its start."""
    with Daemon(folder, inboxes=[INBOX], pool=TWO_SLOTS, recovery=RECOVERY) as daemon:
        started = time.monotonic()
        daemon.start()
        start_s = time.monotonic() - started
        for source in sources:
            daemon.drop(source, source.name)
        daemon.wait_for_jobs(len(sources), ROUND_TIMEOUT_S)
        texts = texts_of(daemon)
        daemon.stop()
    return texts, start_s


def texts_of(daemon: Daemon) -> dict[str, str]:
    """Return the subtitles' text of each file in the outbox, by the source's stem."""
    return {
        path.name.removesuffix(".en.json"): "\n".join(
            " ".join(cue.lines) for cue in read_json(path.read_bytes()).cues
        )
        for path in daemon.outbox.glob("*.en.json")
    }


class Disturbance:
    """Injects faults into a daemon, one at a time; `end` undoes those that last."""

    def __init__(self, daemon: Daemon, rng: random.Random, image: Path, tally: Tally) -> None:
        self._daemon = daemon
        self._rng = rng
        self._image = image
        """See `lying_disk_main`."""
        self._tally = tally
        self._mount: HungMount | None = None
        self._stopped_gateway: int | None = None

    def inject(self) -> None:
        """Kill or stop one process, cut the power, or let a mount hang; a killed daemon is started again."""
        draw = self._rng.random()
        self._end_lasting()
        if draw < 0.10:
            self._kill_daemon("daemon killed")
        elif draw < 0.16:
            self._kill_daemon("power cut")
        elif draw < 0.24:
            self._disturb_child("gateway", b"http")
        elif draw < 0.36:
            self._disturb_child("layout process", b"subtitled.output.layout_process")
        elif draw < 0.46:
            self._hang_mount()
        else:
            self._disturb_worker()

    def end(self) -> None:
        """Let everything answer again."""
        self._end_lasting(always=True)

    def _end_lasting(self, *, always: bool = False) -> None:
        """Continue a stopped gateway, and sometimes a mount that hangs, so that other faults meet it."""
        if self._stopped_gateway is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._stopped_gateway, signal.SIGCONT)
            self._stopped_gateway = None
        if self._mount is not None and (always or self._rng.random() < 0.3):
            self._mount.close()
            self._mount = None

    def _kill_daemon(self, kind: str) -> None:
        self._daemon.kill()
        if kind == "power cut" and not restore(self._image, Path(self._daemon.config.state.dir)):
            kind = "daemon killed"
        self._tally.faults[kind] += 1
        self._daemon.spawn()

    def _disturb_child(self, name: str, word: bytes) -> None:
        pid = child_of(self._daemon.pid, word)
        if pid is None:
            return  # it is not there, or just starting
        number = self._signal()
        if self._kill(pid, number, name) and number == signal.SIGSTOP and name == "gateway":
            self._stopped_gateway = pid

    def _hang_mount(self) -> None:
        if self._mount is not None or os.geteuid():
            return
        folder = self._rng.choice([self._daemon.inbox, self._daemon.outbox])
        try:
            self._mount = HungMount(folder)
        except ForbiddenError:
            return
        kind = "hangs"
        if self._rng.random() < 0.5:
            self._mount.lose_server()
            kind = "loses its server"
        self._tally.faults[f"{'inbox' if folder == self._daemon.inbox else 'output'} {kind}"] += 1

    def _disturb_worker(self) -> None:
        workers = worker_pids(self._daemon.pid)
        if not workers:
            return  # it is just starting
        identity = self._rng.choice(sorted(workers))
        role = "prepare" if identity.startswith("prepare") else "transcribe"
        self._kill(workers[identity], self._signal(), f"{role} worker")

    def _signal(self) -> signal.Signals:
        return signal.SIGSTOP if self._rng.random() < 0.2 else signal.SIGKILL

    def _kill(self, pid: int, number: signal.Signals, name: str) -> bool:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        self._tally.faults[f"{name} {'stopped' if number == signal.SIGSTOP else 'killed'}"] += 1
        return True


def child_of(parent: int, word: bytes) -> int | None:
    """Return the process id of a child with this word in its command line."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            fields = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word in words and int(fields[1]) == parent:
            return int(folder.name)
    return None


def worker_pids(daemon: int) -> dict[str, int]:
    """Return the process id of each worker, by its identity."""
    return {settings["identity"]: pid for pid, settings in worker_processes(daemon).items()}


def run_disturbed(
    folder: Path, sources: list[Path], *, seed: int, pause_s: float, tally: Tally
) -> dict[str, str]:
    """Return the text of each source, made with a fault about every `pause_s` seconds."""
    rng = random.Random(seed)
    image = folder / "image"
    http = schema.HttpConfig(listen=f"127.0.0.1:{free_port()}")
    with Daemon(
        folder,
        inboxes=[INBOX],
        pool=TWO_SLOTS,
        recovery=RECOVERY,
        http=http,
        command=lambda config_file: (str(LYING_DISK), str(config_file), str(image)),
    ) as daemon:
        daemon.start()
        for source in sources:
            daemon.drop(source, source.name)
        disturbance = Disturbance(daemon, rng, image, tally)
        deadline = time.monotonic() + ROUND_TIMEOUT_S
        while time.monotonic() < deadline:
            time.sleep(rng.uniform(0.5, 1.5) * pause_s)
            if _has_ended(daemon, len(sources)):
                break
            disturbance.inject()
        disturbance.end()
        eventually(lambda: _answers(daemon), "the daemon answers")
        eventually(lambda: _serves(http.listen), "the gateway answers", 120)
        jobs = daemon.wait_for_jobs(len(sources), ROUND_TIMEOUT_S)
        eventually(lambda: not daemon.arenas(), "the shared memory of all files is freed")
        _check_files(daemon, sources, [job.state for job in jobs], tally)
        texts = texts_of(daemon)
        daemon.stop()
        end_orphans(daemon, tally)
    return texts


def end_orphans(daemon: Daemon, tally: Tally) -> None:
    """End the worker processes that have outlived all their daemons; only a stopped one may.

    The kernel ends a worker with its daemon once the worker has asked for that, which is nearly the first thing it does.
    One that is stopped before cannot, and is there until it is continued, when it sees that its parent is gone. Under
    systemd the control group ends it.
    """
    for pid, settings in worker_processes().items():
        if settings["endpoint"] != daemon.config.listen.workers:
            continue
        if process_state(pid) == "T":
            tally.orphans += 1
        else:
            tally.losses.append(f"{settings['identity']} has outlived its daemon")
        os.kill(pid, signal.SIGKILL)


def _answers(daemon: Daemon) -> bool:
    try:
        daemon.client.ping()
    except UnreachableError:
        return False
    return True


def _serves(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=10) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


def _has_ended(daemon: Daemon, count: int) -> bool:
    """Say whether all jobs have ended, from the database, since the daemon may be down."""
    states = [state for (state,) in daemon.query("SELECT state FROM jobs")]
    return len(states) == count and all(state in ENDED for state in states)


def _check_files(daemon: Daemon, sources: list[Path], states: list[str], tally: Tally) -> None:
    tally.files += len(sources)
    if len(states) != len(sources):
        tally.losses.append(f"{len(states)} jobs for {len(sources)} files")
    tally.losses += [f"a job ended as {state}" for state in states if state != "done"]
    names = {source.name for source in sources}
    archived = {path.name for path in (daemon.inbox / "done").iterdir()}
    if archived != names:
        tally.losses.append(f"done/ has {sorted(archived ^ names)} too many or too few")
    written = sorted(path.name for path in daemon.outbox.iterdir())
    wanted = sorted(f"{source.stem}.en.{form}" for source in sources for form in ("srt", "json"))
    if written != wanted:
        tally.losses.append(f"the outbox differs: {sorted(set(written) ^ set(wanted))}")
    decoded = collections.Counter(
        (entry.job, entry.name)
        for entry in daemon.journal()
        if entry.subject == "segment" and entry.event == "done"
    )
    tally.segments += len(decoded)
    tally.decoded_again += sum(count > 1 for count in decoded.values())
    tally.restarts += sum(entry.event == "elapsed" for entry in daemon.journal())


def compare(expected: dict[str, str], found: dict[str, str], tally: Tally) -> None:
    """Note every file whose text is not that of the undisturbed run."""
    for stem, text in expected.items():
        if found.get(stem) != text:
            tally.losses.append(f"{stem}: the text differs")


def run(folder: Path, *, count: int, minutes: float, pause_s: float, seed: int) -> Tally:
    """Run rounds of `count` files until `minutes` are over, one at least."""
    tally = Tally()
    deadline = time.monotonic() + minutes * 60
    for number in range(1_000_000):
        place = folder / f"round-{number}"
        for name in ("media", "undisturbed", "disturbed"):
            (place / name).mkdir(parents=True)
        sources = make_recordings(place / "media", count, seed + number)
        expected, start_s = run_undisturbed(place / "undisturbed", sources)
        # Where a process takes seconds to start, a fault every second leaves none that could do anything.
        pause = max(pause_s, start_s * 0.7)
        found = run_disturbed(place / "disturbed", sources, seed=seed + number, pause_s=pause, tally=tally)
        compare(expected, found, tally)
        if time.monotonic() >= deadline:
            break
    return tally


def main() -> int:
    """Run the long form and print the result; exit 0 only without losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between two faults")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}")
    with tempfile.TemporaryDirectory(prefix="subtitled-chaos-") as folder:
        tally = run(
            Path(folder),
            count=chosen.files,
            minutes=chosen.minutes,
            pause_s=chosen.pause,
            seed=chosen.seed,
        )
    print(tally)
    for loss in tally.losses:
        print(f"  {loss}")
    return 1 if tally.losses else 0


if __name__ == "__main__":
    sys.exit(main())
