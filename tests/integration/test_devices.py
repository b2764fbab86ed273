"""A device that fails at its start leaves the others working."""

from __future__ import annotations

from typing import TYPE_CHECKING

import media
from daemon import Daemon, eventually

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import os, sys
from subtitled.asr.cuda import Device
from subtitled.config.load import load_config
from subtitled.server.build import build_server

devices = [
    Device(slot="gpu0", kind="cuda", visible="GPU-nowhere", name="a GPU that is not there"),
    Device(slot="cpu0", kind="cpu", visible="", name="CPU 0"),
]
sys.exit(build_server(lambda: (load_config(sys.argv[1], os.environ), devices), os.environ).run())
"""


def test_a_gpu_that_cannot_be_used_is_reported_and_the_others_work(tmp_path: Path) -> None:
    """No such GPU here, nor its libraries: the daemon names what is wrong, and continues with what there is."""
    with Daemon(tmp_path, command=lambda file: ("-c", PROGRAM, str(file))) as daemon:
        source = daemon.drop(media.clip(), "talk.flac")
        daemon.spawn()

        def failed() -> str | None:
            ends = [
                e
                for e in [*daemon.log("worker.broken"), *daemon.log("worker.exited")]
                if "gpu0" in e["worker"]
            ]
            return str(ends[0]["cause"]) if ends else None

        cause = eventually(failed, "the GPU's worker has failed")
        assert "libcublas" in cause or "CUDA" in cause
        daemon.wait_for_log("daemon.ready")
        assert daemon.wait_for(source).state == "done"
        daemon.stop()
