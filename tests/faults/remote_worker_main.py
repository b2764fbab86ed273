"""A worker on another host whose model fails by plan: `remote_worker_main.py FOLDER worker --connect … --key …`, as `subtitled worker`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.failing_model import load_faulty
from faults.planned_faults import PlannedFaults
from subtitle.keys import load_key
from subtitled import log
from subtitled.workers.remote_connection import WorkerPlace
from subtitled.workers.remote_worker import RemoteWorker, RemoteWorkerSettings


def main(argv: list[str]) -> int:
    """Run it on a device that passes for a GPU."""
    folder, _, *options = argv
    plan = PlannedFaults(Path(folder))
    given = dict(zip(options[::2], options[1::2], strict=True))

    def load(name: str, *, device: str, compute_type: str, cpu_threads: int, streams: int) -> object:
        del device, streams  # there is none
        return load_faulty(plan, name, compute_type=compute_type, cpu_threads=cpu_threads)

    log.configure("info", "json", sys.stderr)
    settings = RemoteWorkerSettings(
        endpoint=given["--connect"],
        key=load_key(given["--key"]),
        place=WorkerPlace(name=given["--place"], device="a GPU"),
        device="cuda",
        model="",
        cpu_threads=1,
        stop_timeout_s=60.0,
    )
    return RemoteWorker(settings, os.environ, load=load).run()


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)
