"""The worker process with a model that fails by plan: `worker_main.py FOLDER SETTINGS`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.failing_model import load_faulty
from faults.planned_faults import PlannedFaults
from subtitled.workers import process as worker
from subtitled.workers import transcribe as worker_transcribe


def main(argv: list[str]) -> int:
    """Run as `subtitled.workers.process` does, but for the model."""
    folder, settings = argv
    plan = PlannedFaults(Path(folder))

    def load(name: str, *, device: str, compute_type: str, cpu_threads: int, streams: int) -> object:
        del device, streams  # there is none
        return load_faulty(plan, name, compute_type=compute_type, cpu_threads=cpu_threads)

    return worker.main([settings], transcribe=partial(worker_transcribe.run, load=load))


if __name__ == "__main__":
    main(sys.argv[1:])
