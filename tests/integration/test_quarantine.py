"""A real daemon with a GPU that fails again and again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import media
from daemon import Daemon
from faults.planned_faults import ModelFault, PlannedFaults
from subtitled.config import schema

pytestmark = pytest.mark.long

SERVER = Path(__file__).parents[1] / "faults" / "daemon_main.py"


@pytest.fixture
def plan(tmp_path: Path) -> PlannedFaults:
    return PlannedFaults(tmp_path / "faults")


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    return media.write_sound(tmp_path / "talk.flac", media.speech(20))


def daemon_with(
    tmp_path: Path, plan: PlannedFaults, recovery: schema.RecoveryConfig, *, gpus: int = 1
) -> Daemon:
    """Return a daemon that is not started, with a GPU that fails by plan."""
    return Daemon(
        tmp_path,
        model=schema.ModelConfig(name="demo", cpu_threads=1, beam_size=1, batch_size=4),
        pool=schema.PoolConfig(devices=("cpu",) * gpus, prepare_workers=1),
        recovery=recovery,
        command=lambda config_file: (str(SERVER), str(config_file), str(plan.folder)),
    )


def test_gpu_that_kills_every_lease_is_put_aside_and_comes_back_automatically(
    tmp_path: Path, plan: PlannedFaults, talk: Path
) -> None:
    recovery = schema.RecoveryConfig(attempts=20, crash_budget=2, quarantine_s=0.5)
    with daemon_with(tmp_path, plan, recovery) as daemon:
        daemon.start()
        plan.set(ModelFault(kind="death"))
        path = daemon.drop(talk, "talk.flac")
        line = daemon.wait_for_log("worker.broken", worker="gpu0.2")
        assert line["level"] == "error"
        assert (
            "after 2 failures in a row, the last one: killed by SIGSEGV; it is restarted in 0.5 s"
            in line["cause"]
        )
        assert "SIGHUP" in line["cause"]
        daemon.wait_for_log("worker.broken", worker="gpu0.3")
        plan.set()
        assert daemon.wait_for(path).state == "done"
        ways_back = [entry.event for entry in daemon.journal() if entry.before == "broken"]
        assert set(ways_back) == {"elapsed"}
        daemon.stop()


def test_slot_whose_model_cannot_be_loaded_is_left_alone_and_the_others_go_on(
    tmp_path: Path, plan: PlannedFaults, talk: Path
) -> None:
    with daemon_with(tmp_path, plan, schema.RecoveryConfig(), gpus=2) as daemon:
        daemon.start()
        plan.set(ModelFault(kind="model", call="load"))
        gpu = next(call.pid for call in plan.calls("load"))
        os.kill(gpu, signal.SIGKILL)
        line = daemon.wait_for_log("worker.broken")
        assert line["worker"] in {"gpu0.2", "gpu1.2"}
        assert "the model is gone" in line["cause"]
        assert daemon.wait_for(daemon.drop(talk, "talk.flac")).state == "done"
        slots = {worker.slot: worker for worker in daemon.stats().workers}
        broken = slots.pop(line["worker"].partition(".")[0])
        assert (broken.state, broken.incarnation) == ("broken", 2), "it is not started again automatically"
        assert {worker.incarnation for worker in slots.values()} == {1}
        plan.set()
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_until_ready()
        daemon.stop()


def test_daemon_does_not_end_when_its_only_gpu_is_put_aside_before_it_was_ready(
    tmp_path: Path, plan: PlannedFaults, talk: Path
) -> None:
    """A server that boots before its network, or its driver, must go on automatically; SIGHUP need not be waited for."""
    plan.set(ModelFault(kind="death", call="load"))
    recovery = schema.RecoveryConfig(crash_budget=2, quarantine_s=3600)
    with daemon_with(tmp_path, plan, recovery) as daemon:
        daemon.spawn()
        daemon.wait_for_log("worker.broken", worker="gpu0.2")
        [gpu] = [worker for worker in daemon.stats().workers if worker.role == "transcribe"]
        assert gpu.state == "broken"
        assert "quarantined after 2 failures in a row" in gpu.cause
        plan.set()
        os.kill(daemon.pid, signal.SIGHUP)
        assert daemon.wait_for(daemon.drop(talk, "talk.flac")).state == "done"
        daemon.stop()
