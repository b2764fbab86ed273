"""What the doctor makes of workers on other hosts."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from subtitle import WorkerFacts
from subtitled.config import schema
from subtitled.doctor import remote_workers
from subtitled.doctor.remote_workers import RayProbe, host_findings, nodes_finding, reach_finding
from subtitled.ray.nodes import RayNode
from unit.server_stats import STATS

KEYS = {"gpu2": "a" * 40}


def worker(slot: str = "gpu2/cuda0", state: str = "idle", **facts: Any) -> WorkerFacts:
    fields = {"incarnation": 1, "device": "", "leases": 0, "job": "", "cause": "", "model_digest": "0" * 64}
    return WorkerFacts(slot=slot, role="transcribe", state=state, **{**fields, **facts})


def findings(*workers: WorkerFacts) -> dict[str, tuple[str, str]]:
    """Return the state and the words of each finding, by name."""
    stats = replace(STATS, workers=workers)
    return {found.name: (found.state, found.message + found.remedy) for found in host_findings(KEYS, stats)}


def test_host_with_connected_workers_is_ok() -> None:
    found = findings(
        worker("gpu0"), worker(round_trip_ms=0.4), worker("gpu2/cuda1", "busy", round_trip_ms=0.6)
    )
    assert found["host gpu2"] == ("ok", "2 workers connected, round trip 0.6 ms")
    assert {state for state, _ in found.values()} == {"ok"}
    assert "0" * 64 in found["weights"][1]


def test_host_without_connected_workers_is_a_warning() -> None:
    state, words = findings()["host gpu2"]
    assert state == "warning"
    assert "journalctl" in words
    assert (
        "connection was lost"
        in findings(worker(state="stopped", cause="its connection was lost"))["host gpu2"][1]
    )


def test_broken_remote_worker_is_a_fault() -> None:
    state, words = findings(worker(state="broken", cause="CUDA"))["worker gpu2/cuda0"]
    assert (state, "CUDA" in words) == ("fault", True)


def test_clock_difference_is_a_warning_with_its_size() -> None:
    assert findings(worker(clock_ahead_ms=900.0))["host gpu2 clock"][0] == "ok"
    state, words = findings(worker(clock_ahead_ms=-61_000.0))["host gpu2 clock"]
    assert (state, "61.0 s behind" in words) == ("warning", True)


def test_two_models_are_a_fault() -> None:
    state, words = findings(worker(), worker("gpu3/cuda0", model_digest="1" * 64))["weights"]
    assert (state, "model.digest" in words) == ("fault", True)


def test_unreachable_remote_listener_is_a_fault() -> None:
    assert reach_finding("tcp://h:1", None).state == "ok"
    assert reach_finding("tcp://h:1", ConnectionRefusedError(111, "refused")).state == "fault"
    (off,) = remote_workers.check(schema.Config())
    assert (off.state, "remote.listen" in off.remedy) == ("fault", True)


def test_ray_nodes_with_room_are_ok() -> None:
    nodes = [
        RayNode(hostname="head", address="10.0.0.1", gpus=0, cpus=8),
        RayNode(hostname="gpu2", address="10.0.0.2", gpus=4, cpus=3),
    ]
    asked = RayProbe(address="auto", gpus=1, cpus=1)
    found = nodes_finding(nodes, asked)
    assert found.state == "ok"
    assert found.message.startswith("room for 3 workers in all: head (0 GPUs, 8 cores), gpu2 (4 GPUs")
    halves = nodes_finding(nodes, replace(asked, gpus=0.5, cpus=0))
    assert "room for 8 workers" in halves.message
    on_cpus = nodes_finding(nodes, replace(asked, gpus=0, cpus=2))
    assert "room for 5 workers" in on_cpus.message


def test_ray_nodes_without_room_are_a_warning() -> None:
    """No fault: an autoscaler may add a node when a worker is asked for."""
    nodes = [RayNode(hostname="head", address="10.0.0.1", gpus=0, cpus=8)]
    found = nodes_finding(nodes, RayProbe(address="auto", gpus=1, cpus=1))
    assert (found.state, found.message) == (
        "warning",
        "no node has 1 GPUs and 1 cores for a worker: head (0 GPUs, 8 cores)",
    )


def test_ray_workers_need_no_key_in_the_configuration() -> None:
    ours = schema.Config(
        remote=schema.RemoteConfig(listen="tcp://127.0.0.1:1"), pool=schema.PoolConfig(engine="ray")
    )
    assert {found.state for found in remote_workers.check(ours)} == {"ok", "skipped"}
