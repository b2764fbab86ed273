"""`subtitled doctor`, as a process, on real faults: found, and fixed by its remedies."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon import Daemon, eventually, free_port
from integration.test_disk_full import fill, small_disk
from media import DEMO
from subtitled.config import schema
from subtitled.config.load import to_toml
from subtitled.doctor.finding import Finding
from subtitled.doctor.packages import ImportProbe
from subtitled.doctor.subprocess_probe import run_probe

if TYPE_CHECKING:
    from collections.abc import Iterator

UNPRIVILEGED = 65_534
Found = dict[str, dict[str, Any]]


def doctor(*options: str, python: str = sys.executable, status: int = 0) -> Found:
    """Run the doctor and return its findings that are not ok by name; it must exit with `status`."""
    command = [python, "-m", "subtitled", "doctor", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["is_ok"] == (status == 0)
    return {found["name"]: found for found in answer["findings"] if found["state"] != "ok"}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that other users may enter, as pytest's own may not."""
    folder = Path(tempfile.mkdtemp(prefix="subtitled-doctor-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def is_ready(address: str) -> bool:
    """Say whether a daemon answers /readyz with 200."""
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=60):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False


def environment_without_a_library(folder: Path) -> tuple[str, Path]:
    """Make an environment like this one, whose soxr lacks its native part; return its Python, and that part's place."""
    real = Path(sys.prefix)
    packages = next(real.glob("lib/python3*/site-packages"))
    copy = folder / packages.relative_to(real)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    shutil.copy(real / "pyvenv.cfg", folder)
    (copy / "soxr").mkdir(parents=True)
    for entry in packages.iterdir():
        if entry.name != "soxr":
            (copy / entry.name).symlink_to(entry)
    (library,) = (packages / "soxr").glob("soxr_ext*.so")
    for entry in (packages / "soxr").iterdir():
        if entry != library and entry.name != "__pycache__":
            (copy / "soxr" / entry.name).symlink_to(entry)
    return str(folder / "bin" / "python"), library


def test_five_planted_faults_are_found_and_fixed_by_their_remedies(open_folder: Path) -> None:
    """A wrong compute type, a missing library, a read-only outbox, a full disk, a model without its tokenizer."""
    folder = open_folder
    inbox, outbox, state, model = (folder / name for name in ("inbox", "outbox", "state", "model"))
    for made in (inbox, outbox):
        made.mkdir()
    demo_model = Path(str(files("subtitled") / "demo" / "model"))
    shutil.copytree(demo_model, model)
    (model / "tokenizer.json").unlink()
    python, library = environment_without_a_library(folder / "environment")
    config_file = folder / "subtitled.toml"
    settings = schema.Config(
        model=schema.ModelConfig(name=str(model), compute_type="float16", cpu_threads=1),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
        inbox=(schema.InboxConfig(path=str(inbox), output=str(outbox)),),
        listen=schema.ListenConfig(
            clients=(f"ipc://{folder}/run/clients.sock",),
            workers=f"ipc://{folder}/run/private/workers.sock",
            metrics=f"127.0.0.1:{free_port()}",
        ),
        state=schema.StateConfig(dir=str(state), reserve_mb=2),
    )
    config_file.write_text(to_toml(settings), "utf-8")
    with small_disk(state, "4m"):
        filler = fill(state)
        outbox.chmod(0o555)
        if os.geteuid() == 0:
            for path in (state, inbox):
                os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
            (folder / "run").mkdir(0o750)
            os.chown(folder / "run", UNPRIVILEGED, UNPRIVILEGED)

        found = doctor("--config", str(config_file), python=python, status=1)
        faults = {name: fault["remedy"] for name, fault in found.items() if fault["state"] == "fault"}
        names = {"cpu0 compute types", "soxr", f"output {outbox}", f"space {state}", "model"}
        assert faults.keys() == names, found

        # Each is fixed by its remedy only.
        chosen = re.match(r'set model.compute_type = ("\w+")', faults["cpu0 compute types"])
        assert chosen is not None
        text = config_file.read_text("utf-8").replace(
            'compute_type = "float16"', f"compute_type = {chosen[1]}"
        )
        config_file.write_text(text, "utf-8")
        # What the command would fetch, without a network.
        assert re.match(rf"type: {python} -m pip install .* 'soxr==[0-9.]+'$", faults["soxr"])
        site = next((folder / "environment").glob("lib/python3*/site-packages"))
        (site / "soxr" / library.name).symlink_to(library)
        subprocess.run(faults[f"output {outbox}"].removeprefix("type: "), shell=True, check=True)  # noqa: S602 - as a person would
        assert re.match(rf"free \d+ MiB on the file system of {state}$", faults[f"space {state}"])
        filler.unlink()
        assert re.match(rf"copy tokenizer.json of .* to {model}$", faults["model"])
        shutil.copy(demo_model / "tokenizer.json", model)

        found = doctor("--config", str(config_file), python=python)
        assert found.keys() <= {"program"}, "a warning where that user cannot enter this environment"


@pytest.mark.long
def test_broken_worker_of_the_running_daemon_is_a_fault(tmp_path: Path) -> None:
    recovery = schema.RecoveryConfig(crash_budget=1)
    pool = schema.PoolConfig(devices=("cpu",), prepare_workers=1)
    with Daemon(tmp_path, pool=pool, recovery=recovery) as daemon:
        daemon.start()
        eventually(lambda: is_ready(daemon.metrics), "the daemon reports that it is ready")
        options = ("--config", str(daemon.config_file))
        assert doctor(*options) == {}
        os.kill(daemon.workers()["cpu0.1"], signal.SIGKILL)
        eventually(lambda: not is_ready(daemon.metrics), "the daemon reports that it is not ready")
        found = doctor(*options, status=1)
    assert "killed by SIGKILL" in found["worker cpu0"]["message"]
    assert "systemctl reload subtitled" in found["worker cpu0"]["remedy"]
    ready = found[f"metrics {daemon.metrics} readyz"]
    assert ready["message"].startswith("no transcribe worker is ready: cpu0 is broken")


def test_all_faults_of_a_configuration_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "subtitled.toml"
    file.write_text('[model]\nbeam_size = 0\n[vad]\nthresold = 0.5\n[inbox]\npath = "/x"\n', "utf-8")
    command = [sys.executable, "-m", "subtitled", "doctor", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    for key in ("model.beam_size", "vad.thresold", "inbox"):
        assert key in done.stdout
    assert done.stdout.endswith("3 faults; 3 checks, 0 warnings. Fix the first fault first.\n")
    assert "\x1b" not in done.stdout


def test_each_model_is_checked_and_its_memory_measured(tmp_path: Path) -> None:
    for name in ("whole", "lacking", "truncated"):
        shutil.copytree(DEMO / "model", tmp_path / name)
    (tmp_path / "lacking" / "tokenizer.json").unlink()
    with (tmp_path / "truncated" / "model.bin").open("r+b") as weights:
        weights.truncate(1_000_000)
    models = tuple(
        schema.NamedModelConfig(name=name, source=str(tmp_path / name))
        for name in ("whole", "lacking", "truncated")
    )
    settings = schema.Config(
        model=schema.ModelConfig(name="demo", cpu_threads=1),
        models=models,
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
        inbox=(),
        listen=schema.ListenConfig(
            clients=(f"ipc://{tmp_path}/c.sock",), workers=f"ipc://{tmp_path}/private/w.sock", metrics=""
        ),
        state=schema.StateConfig(dir=str(tmp_path / "state"), reserve_mb=0),
    )
    config_file = tmp_path / "subtitled.toml"
    config_file.write_text(to_toml(settings), "utf-8")
    command = [sys.executable, "-m", "subtitled", "doctor", "--json", "--config", str(config_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = {entry["name"]: entry for entry in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert found["model whole"]["state"] == "ok"
    assert re.fullmatch(
        rf"{tmp_path}/whole, as int8, loaded in [\d.]+ s, \d+ MiB", found["cpu0 model whole"]["message"]
    )
    assert found["model lacking"]["state"] == "fault"
    assert "has no tokenizer.json" in found["model lacking"]["message"]
    assert "cpu0 model lacking" not in found
    assert found["model truncated"]["state"] == "ok", "its files have the right names"
    assert "invalid payload size" in found["cpu0 model truncated"]["message"]
    assert "configuration" not in {name for name, entry in found.items() if entry["state"] == "fault"}
    assert found["cpu0 memory"]["message"].startswith("all 2 models need ")


def test_file_option_processes_a_file_through_every_stage(tmp_path: Path) -> None:
    settings = schema.Config(
        model=schema.ModelConfig(name="demo", cpu_threads=1),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
    )
    file = tmp_path / "subtitled.toml"
    file.write_text(to_toml(settings), "utf-8")
    options = ("doctor", "--config", str(file), "--file")
    command = [sys.executable, "-m", "subtitled", *options, str(DEMO / "demo-zh.flac")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = re.findall(r"^  ok +(\S+(?: \S+)?)  ", done.stdout, re.MULTILINE)
    assert stages == ["open", "track", "decode", "VAD", "plan", "cpu0 model", "engine", "cues"]
    assert "language zh" in done.stdout

    (tmp_path / "talk.mp4").write_text("no film", "utf-8")
    found = doctor("--config", str(file), "--file", str(tmp_path / "talk.mp4"), status=1)
    assert list(found) == ["open"], "the first fault ends it"
    assert found["open"]["remedy"]


def planted(folder: Path, module: str, text: str) -> dict[str, str]:
    """Put a module before the real one, and return the environment in which it is found."""
    folder.mkdir()
    (folder / f"{module}.py").write_text(text, "utf-8")
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_native_code_that_crashes_is_a_finding(tmp_path: Path) -> None:
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    environ = planted(tmp_path / "planted", "av", crash)
    (found,) = run_probe("packages", ImportProbe(), timeout_s=120, environ=environ)
    assert isinstance(found, Finding)
    assert (found.name, found.state, found.message) == ("av", "fault", "killed by SIGSEGV")
    assert "pip install" in found.remedy


def test_native_code_that_hangs_is_a_finding(tmp_path: Path) -> None:
    environ = planted(tmp_path / "planted", "av", "import threading\nthreading.Event().wait()\n")
    (found,) = run_probe("packages", ImportProbe(), timeout_s=3, environ=environ)
    assert isinstance(found, Finding)
    assert (found.state, found.message) == ("fault", "not done within 3 s")
