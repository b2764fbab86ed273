"""A daemon with nothing to do frees its models' memory, and does the next file all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import media
from daemon import Daemon
from subtitled.config import schema

if TYPE_CHECKING:
    from pathlib import Path


def test_a_model_is_unloaded_when_idle_and_loaded_for_the_next_file(tmp_path: Path) -> None:
    with Daemon(
        tmp_path,
        model=schema.ModelConfig(name="demo", cpu_threads=1, batch_size=4, beam_size=1, idle_unload_s=0.5),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
    ) as daemon:
        daemon.start()
        daemon.wait_for_log("model.unloaded", worker="cpu0.1")
        clip = media.write_sound(tmp_path / "clip.wav", media.speech(3.2))
        assert daemon.wait_for(daemon.drop(clip, "clip.wav")).state == "done"
        assert daemon.log("model.loaded")[0]["worker"] == "cpu0.1"
        counted = daemon.scrape()
        assert counted['subtitled_model_unloads_total{model="demo",slot="cpu0"}'] >= 1
        assert counted['subtitled_model_loads_total{model="demo",slot="cpu0"}'] >= 2
        assert daemon.log("worker.exited") == []
        daemon.stop()
