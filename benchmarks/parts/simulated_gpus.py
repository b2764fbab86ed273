"""The daemon with GPUs that only wait: `simulated_gpus.py CONFIG GPUS A B [PROFILE]`.

Like `subtitled run` except for the supervisor: each slot's worker is opened in one of two processes, see `waiting`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec

from parts.waiting import Timing
from subtitled.asr.cuda import Device
from subtitled.config import load as configuration
from subtitled.config.schema import Config
from subtitled.server.build import build_server
from subtitled.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from subtitled.core.protocol import WorkerSettings

HOSTS = 2
"""Processes for all workers together."""
WAITING = Path(__file__).with_name("waiting.py")


class SimulatedSupervisor(Supervisor):
    """A supervisor whose workers share a few processes."""

    def __init__(self, environ: Mapping[str, str], folder: str, timing: Timing) -> None:
        super().__init__(environ)
        command = (sys.executable, str(WAITING), folder, str(timing.a_s), str(timing.b_s))
        self._hosts, self._lines = [], []
        for _ in range(HOSTS):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._hosts.append(subprocess.Popen(command, stdin=theirs.fileno()))
            self._lines.append(ours)
        self._opened = {"prepare": 0, "transcribe": 0}

    def spawn(self, settings: WorkerSettings, *, visible_devices: str) -> None:
        """Open a worker in one of the processes; there is no process of its own to watch."""
        del visible_devices
        place = self._opened[settings.role]
        self._opened[settings.role] += 1
        with self.descriptors.open(settings.identity) as theirs:
            host = self._lines[place % len(self._lines)]
            socket.send_fds(host, [msgspec.json.encode(settings)], [theirs.fileno()])

    def kill(self, worker: str) -> None:
        """Raise RuntimeError: a simulated worker is never overdue."""
        raise RuntimeError(f"worker {worker} is overdue")

    def kill_all(self) -> None:
        """End the hosts, and wait until they have written what was done."""
        for lines in self._lines:
            lines.close()
        for host in self._hosts:
            host.wait()


def serve(config_file: str, folder: str, *, gpus: int, timing: Timing, profile: str | None) -> int:
    """Run the daemon with so many GPUs that only wait."""

    def load() -> tuple[Config, list[Device]]:
        places = range(gpus)
        devices = [Device(slot=f"gpu{n}", kind="cuda", visible="", name="a GPU that waits") for n in places]
        return configuration.load_config(config_file, os.environ), devices

    server = build_server(load, os.environ, SimulatedSupervisor(os.environ, folder, timing))
    if profile is None:
        return server.run()
    import cProfile

    profiler = cProfile.Profile()
    try:
        return profiler.runcall(server.run)
    finally:
        profiler.dump_stats(profile)


def main(argv: list[str]) -> int:
    """Run as `subtitled run` does; with PROFILE a profile for pstats is written there."""
    config_file, gpus, a_s, b_s, *profile = argv
    timing = Timing(float(a_s), float(b_s))
    folder = str(Path(config_file).parent)
    return serve(config_file, folder, gpus=int(gpus), timing=timing, profile=profile[0] if profile else None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
