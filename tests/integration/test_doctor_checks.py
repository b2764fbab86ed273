"""The doctor's single checks, on real folders, keys, sockets and a hub on loopback."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from fake_model_hub import FakeModelHub
from integration.test_disk_full import small_disk
from media import DEMO
from subtitled.config import schema
from subtitled.doctor import folders, host, sockets
from subtitled.doctor.daemon_user import DaemonUser
from subtitled.doctor.devices import DeviceProbe, InferenceProbe, library_findings
from subtitled.doctor.finding import ChosenDevices, Finding, ok
from subtitled.doctor.model import CheckedModel
from subtitled.doctor.subprocess_probe import run_probe
from subtitled.network.auth import server_key
from subtitled.runtime import sandbox

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NVML = """
class NVMLError(Exception):
    pass

class Memory:
    free, total, used = 70 * 2**30, 80 * 2**30, 10 * 2**30

class Rates:
    gpu = 42

NVML_TEMPERATURE_GPU = 0
NVML_DEVICE_MIG_ENABLE = 1

def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return b"550.54"
def nvmlSystemGetCudaDriverVersion(): return 12040
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetHandleByUUID(uuid): return 0 if uuid == "GPU-aaaaaaaa" else 1
def nvmlDeviceGetUUID(gpu): return ["GPU-aaaaaaaa", "GPU-bbbbbbbb"][gpu]
def nvmlDeviceGetName(gpu): return "NVIDIA Test"
def nvmlDeviceGetUtilizationRates(gpu): return Rates
def nvmlDeviceGetTemperature(gpu, sensor): return 61

def nvmlDeviceGetMigMode(gpu):
    raise NVMLError("Not Supported")

def nvmlDeviceGetMemoryInfo(gpu):
    if gpu:
        raise NVMLError("GPU is lost")
    return Memory
"""
"""A driver with two GPUs, the second of which is lost: in the place of NVML's own module, in another process."""
ME = DaemonUser(uid=os.geteuid(), gid=os.getegid(), name="me", home="/", why="who asks")


def troubles(findings: Iterable[object]) -> dict[str, Finding]:
    """Return the findings that are not ok, by name."""
    return {found.name: found for found in findings if isinstance(found, Finding) and found.state != "ok"}


@pytest.fixture
def settings(tmp_path: Path) -> schema.Config:
    """Give a configuration all of whose folders are in `tmp_path`, and there."""
    for name in ("inbox", "out"):
        (tmp_path / name).mkdir()
    return schema.Config(
        inbox=(schema.InboxConfig(path=str(tmp_path / "inbox"), output=str(tmp_path / "out")),),
        state=schema.StateConfig(dir=str(tmp_path / "state"), reserve_mb=0),
        listen=schema.ListenConfig(
            clients=("tcp://127.0.0.1:0",), workers=f"ipc://{tmp_path}/private/w.sock", metrics=""
        ),
    )


def test_checks_leave_no_file_in_correct_folders(settings: schema.Config, tmp_path: Path) -> None:
    assert troubles(folders.check(settings, ME)) == {}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inbox", "out"]


def test_missing_folder_has_the_command_that_creates_it(settings: schema.Config, tmp_path: Path) -> None:
    (tmp_path / "out").rmdir()
    found = troubles(folders.check(settings, ME))
    assert found[f"output {tmp_path}/out"].remedy == f"type: install -d -o me {tmp_path}/out"
    assert len(found) == 1


def test_an_archive_on_another_file_system_is_a_warning(settings: schema.Config, tmp_path: Path) -> None:
    with small_disk(tmp_path / "inbox" / "done", "64k"):
        found = troubles(folders.check(settings, ME))
    (warning,) = found.values()
    assert (warning.state, warning.name) == ("warning", f"inbox {tmp_path}/inbox")
    assert "done/ is on another file system" in warning.message


def test_sub_folders_are_counted_for_their_watches(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert folders.count_folders(str(tmp_path)) == 3


def test_a_server_key_that_others_may_read_is_a_fault(settings: schema.Config, tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    settings = replace(settings, listen=replace(settings.listen, server_key=str(path)))
    assert troubles(sockets.check_server_key(settings, ME)) == {}
    assert not path.exists(), "the doctor makes none"
    server_key(path)
    assert troubles(sockets.check_server_key(settings, ME)) == {}
    path.chmod(0o644)
    fault = troubles(sockets.check_server_key(settings, ME))["server key"]
    assert (fault.state, fault.remedy) == ("fault", f"type: chmod 600 {path}")


def test_a_port_of_another_program_is_a_fault(settings: schema.Config) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        settings = replace(settings, listen=replace(settings.listen, metrics=taken))
        fault = troubles(sockets.check(settings, ME))[f"metrics {taken}"]
    assert (fault.state, fault.message) == ("fault", "another program uses it")


def test_gateway_port_of_another_program_is_a_fault(settings: schema.Config) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        settings = replace(settings, http=schema.HttpConfig(listen=taken))
        fault = troubles(sockets.check(settings, ME))[f"http {taken}"]
    assert (fault.state, fault.message) == ("fault", "another program uses it")


def test_sandbox_is_entered_and_each_missing_layer_is_a_warning() -> None:
    [found] = [found for found in host.check() if found.name == "sandbox"]
    is_known = platform.machine() in {"x86_64", "aarch64"}
    assert (found.state == "ok") is (sandbox.landlock_version() > 0 and is_known)
    lacking = host.sandbox_finding(["Landlock"], "")
    assert (lacking.state, lacking.message) == ("warning", "this kernel lacks Landlock")
    assert host.sandbox_finding([], "seccomp: Operation not permitted").state == "fault"


@pytest.mark.parametrize(
    ("status", "state", "what"),
    [
        (200, "warning", "loop/back is not on this machine yet; the first start downloads it"),
        (404, "fault", "404"),
        (503, "fault", "the hub does not answer"),
    ],
)
def test_missing_model_is_looked_up_on_the_hub(tmp_path: Path, status: int, state: str, what: str) -> None:
    with FakeModelHub(DEMO / "model", status=status) as hub:
        environ = {**os.environ, **hub.environ, "HF_HOME": str(tmp_path)}
        (found,) = run_probe("hub", CheckedModel(source="loop/back"), timeout_s=120, environ=environ)
    assert isinstance(found, Finding)
    assert found.state == state
    assert what in found.message
    assert found.remedy
    assert not hub.fetched, "nothing is downloaded"


@pytest.fixture
def with_driver(tmp_path: Path) -> dict[str, str]:
    """Give an environment in which there are GPUs."""
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "pynvml.py").write_text(NVML, "utf-8")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "driver")}


def test_gpus_are_reported_with_their_memory_and_chosen_by_the_configuration(
    with_driver: dict[str, str],
) -> None:
    driver, first, second, chosen = run_probe(
        "gpus", DeviceProbe(devices=("cuda:0",), visible=None), timeout_s=120, environ=with_driver
    )
    assert driver == ok("driver", "550.54, CUDA 12.4")
    assert first == ok("GPU 0", "NVIDIA Test, 71680 of 81920 MiB free, GPU-aaaaaaaa")
    assert isinstance(second, Finding)
    assert (second.state, second.message) == ("warning", "cannot be queried: GPU is lost")
    assert isinstance(chosen, ChosenDevices)
    assert [(device.slot, device.visible) for device in chosen.devices] == [("gpu0", "GPU-aaaaaaaa")]


def test_a_gpu_without_its_library_is_a_fault_before_a_model_is_loaded() -> None:
    if not list(library_findings("gpu0")):
        pytest.skip("this machine has the library")
    inference = InferenceProbe(
        slot="gpu0", kind="cuda", model="demo", compute_type="auto", cpu_threads=1, beam_size=1
    )
    (found,) = run_probe("infer", inference, timeout_s=120)
    assert isinstance(found, Finding)
    assert (found.name, found.state) == ("gpu0 libraries", "fault")
    assert found.message.startswith("libcublas.so.12 cannot be loaded")
    assert found.remedy.endswith("pip install --no-deps nvidia-cublas-cu12")


def test_missing_gpu_is_a_fault(with_driver: dict[str, str]) -> None:
    wanted = DeviceProbe(devices=("cuda:5",), visible=None)
    found = troubles(run_probe("gpus", wanted, timeout_s=120, environ=with_driver))["pool.devices"]
    assert (found.state, "cuda:5" in found.message) == ("fault", True)


def test_metrics_contain_the_drivers_values_of_each_gpu(with_driver: dict[str, str]) -> None:
    program = """if True:
        from prometheus_client import generate_latest
        from subtitled.asr.cuda import Device
        from subtitled.observability.metrics import Metrics
        metrics = Metrics()
        metrics.gpus.devices = tuple(
            Device(slot=f"gpu{place}", kind="cuda", visible=uuid, name="NVIDIA Test")
            for place, uuid in enumerate(("GPU-aaaaaaaa", "GPU-bbbbbbbb"))
        )
        print(generate_latest(metrics.registry).decode())
    """
    done = subprocess.run(
        [sys.executable, "-c", program], env=with_driver, capture_output=True, text=True, check=True
    )
    reported = {
        (sample.name.removeprefix("subtitled_gpu_"), sample.labels["slot"]): sample.value
        for family in text_string_to_metric_families(done.stdout)
        for sample in family.samples
        if sample.name.startswith("subtitled_gpu_")
    }
    assert reported == {
        ("utilization_ratio", "gpu0"): 0.42,
        ("utilization_ratio", "gpu1"): 0.42,
        ("temperature_celsius", "gpu0"): 61,
        ("temperature_celsius", "gpu1"): 61,
        ("memory_used_bytes", "gpu0"): 10 * 2**30,
        ("memory_total_bytes", "gpu0"): 80 * 2**30,
    }, "what a GPU cannot tell is left out"
