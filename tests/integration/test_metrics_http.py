"""/metrics, /healthz and /readyz over real HTTP."""

from __future__ import annotations

import os
import signal
import socket
import urllib.error
import urllib.request
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon import Daemon, eventually
from media import clip
from subtitled.asr.cuda import Device
from subtitled.config import schema
from subtitled.errors import SubtitledError
from subtitled.observability.metrics import Metrics
from subtitled.observability.metrics_http import MAX_CONNECTIONS, MetricsServer
from subtitled.observability.monitor import STUCK_S, Health, HealthState

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

NEW = {
    "subtitled_build_info",
    "subtitled_oldest_ready_seconds",
    "subtitled_queue_audio_seconds",
    "subtitled_retries_total",
    "subtitled_stage_seconds_bucket",
    "subtitled_worker_broken",
    "subtitled_worker_busy_ratio",
}


def get(address: str, path: str) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def families(address: str) -> dict[str, Metric]:
    """Return the metrics as Prometheus' own client library reads them."""
    return {metric.name: metric for metric in text_string_to_metric_families(get(address, "/metrics")[1])}


def test_working_daemon_is_healthy_and_exports_its_metrics(tmp_path: Path) -> None:
    recovery = schema.RecoveryConfig(crash_budget=1)
    pool = schema.PoolConfig(devices=("cpu",), prepare_workers=1)
    with Daemon(tmp_path, pool=pool, recovery=recovery) as daemon:
        daemon.start()
        eventually(lambda: get(daemon.metrics, "/readyz") == (200, "ok\n"), "the daemon is ready")
        assert get(daemon.metrics, "/healthz") == (200, "ok\n")
        assert get(daemon.metrics, "/other")[0] == 404
        job = daemon.wait_for(daemon.drop(clip(), "talk.flac"))
        assert job.state == "done"

        found = families(daemon.metrics)
        stages = {
            sample.labels["stage"]: sample.value
            for sample in found["subtitled_stage_seconds"].samples
            if sample.name.endswith("_count")
        }
        assert stages.keys() == {"decode", "vad", "features", "transcribe", "write"}
        assert min(stages.values()) >= 1
        build = found["subtitled_build_info"].samples[0]
        assert build.labels.keys() >= {"version", "python", "ctranslate2", "faster_whisper"}
        busy = next(s for s in found["subtitled_worker_busy_ratio"].samples if s.labels["slot"] == "cpu0")
        assert 0 <= busy.value <= 1
        assert not any(name.startswith("subtitled_gpu") for name in found), "there is no GPU"

        # A slot that is put aside for its failures leaves no worker.
        os.kill(daemon.workers()["cpu0.1"], signal.SIGKILL)
        eventually(lambda: get(daemon.metrics, "/readyz")[0] == 503, "the daemon is not ready")
        assert get(daemon.metrics, "/readyz")[1].startswith(
            "no transcribe worker is ready: cpu0 is broken (quarantined after 1 failures"
        )
        assert get(daemon.metrics, "/healthz")[0] == 200
        broken = families(daemon.metrics)["subtitled_worker_broken"].samples
        assert {s.labels["slot"]: s.value for s in broken} == {"cpu0": 1, "prepare0": 0}


def test_every_metric_name_is_valid_for_prometheus() -> None:
    """The names of the daemon's metrics hold units, and each has a text; the client library parses all."""
    metrics = Metrics()
    metrics.retries.labels("segment").inc()
    metrics.stage_seconds.labels("vad").observe(0.1)
    metrics.worker_broken.labels("gpu0").set(0)
    metrics.busy_ratio.labels("gpu0").set(0)
    with closing(MetricsServer("127.0.0.1:0", metrics, Health())) as probes:
        found = families(f"127.0.0.1:{probes.port}")
    assert all(metric.documentation for metric in found.values())
    assert {sample.name for metric in found.values() for sample in metric.samples} >= NEW


def test_stuck_loop_is_reported_while_it_is_stuck() -> None:
    now = 0.0
    health = Health(clock=lambda: now)
    with closing(MetricsServer("127.0.0.1:0", Metrics(), health)) as probes:
        address = f"127.0.0.1:{probes.port}"
        health.state = HealthState(has_worker=True)
        assert [get(address, path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
        now = STUCK_S + 2
        stuck = (503, "the loop has been stuck for 12 s\n")
        assert [get(address, path) for path in ("/healthz", "/readyz")] == [stuck, stuck]
        health.record_turn()
        assert [get(address, path)[0] for path in ("/healthz", "/readyz")] == [200, 200]


def test_idle_connection_does_not_block_others() -> None:
    with closing(MetricsServer("127.0.0.1:0", Metrics(), Health())) as probes:
        silent = HTTPConnection("127.0.0.1", probes.port)
        silent.connect()
        assert get(f"127.0.0.1:{probes.port}", "/healthz") == (200, "ok\n")
        silent.close()


def test_port_in_use_is_named_with_the_remedy() -> None:
    with closing(MetricsServer("127.0.0.1:0", Metrics(), Health())) as probes:
        taken = f"127.0.0.1:{probes.port}"
        with pytest.raises(
            SubtitledError, match=f'listen.metrics = "{taken}": Address already in use; choose'
        ):
            MetricsServer(taken, Metrics(), Health())


def test_gpus_without_a_driver_have_no_metrics() -> None:
    metrics = Metrics()
    metrics.gpus.devices = (Device(slot="gpu0", kind="cuda", visible="GPU-00000000", name="a GPU"),)
    found = {metric.name for metric in metrics.registry.collect()}
    assert not any(name.startswith("subtitled_gpu") for name in found)


def test_more_connections_than_the_limit_are_closed_and_free_ones_serve_again() -> None:
    metrics = Metrics()
    with closing(MetricsServer("127.0.0.1:0", metrics, Health())) as server:
        address = ("127.0.0.1", server.port)
        idle = [socket.create_connection(address, timeout=60) for _ in range(MAX_CONNECTIONS)]
        with socket.create_connection(address, timeout=60) as refused:
            assert refused.recv(1) == b""
        for connection in idle:
            connection.close()
        eventually(lambda: _is_served(server.port), "the port serves again")


def _is_served(port: int) -> bool:
    try:
        return get(f"127.0.0.1:{port}", "/metrics")[0] == 200
    except OSError:
        return False
