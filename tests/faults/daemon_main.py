"""The daemon with GPUs and a disk that fail by plan: `daemon_main.py CONFIG FOLDER`.

Each device of the configuration is a GPU to the daemon, whose worker decodes on the CPU.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.failing_disk import failing_disk
from faults.planned_faults import PlannedFaults
from subtitled.asr.cuda import Device
from subtitled.config import load as configuration
from subtitled.config.schema import Config
from subtitled.log import leave
from subtitled.server.build import build_server
from subtitled.workers.supervisor import Supervisor

WORKER = Path(__file__).with_name("worker_main.py")


def main(argv: list[str]) -> int:
    """Run as `subtitled run` does, but for the devices, the workers' program and the disk."""
    config_file, folder = argv

    def load() -> tuple[Config, list[Device]]:
        config = configuration.load_config(config_file, os.environ)
        places = range(len(config.pool.devices))
        return config, [
            Device(slot=f"gpu{place}", kind="cuda", visible="", name="a GPU that fails") for place in places
        ]

    supervisor = Supervisor(os.environ, command=(sys.executable, str(WORKER), folder))
    with failing_disk(PlannedFaults(Path(folder))):
        return build_server(load, os.environ, supervisor).run()


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
