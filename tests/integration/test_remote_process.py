"""`subtitled worker` as a process: its end, its notifications to systemd, its options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

import media
from daemon import eventually
from faults.planned_faults import ModelFault, PlannedFaults
from head_and_workers import Head, RemoteWorker
from integration.test_systemd import Manager
from subtitle.keys import Key, load_key, new_pair, save_key
from subtitled.config.load import load_config
from subtitled.errors import ExitCode

pytestmark = pytest.mark.long

FAULTY = Path(__file__).parents[1] / "faults" / "remote_worker_main.py"


def test_worker_notifies_systemd_of_its_state(tmp_path: Path) -> None:
    """Ready comes when the daemon has taken it and its model is loaded; its loop alone sends the pings."""
    with Manager(tmp_path / "notify") as manager, Head(tmp_path) as head:
        environ = {**os.environ, **manager.environ}
        with RemoteWorker(head, "gpu2", environ=environ) as worker:
            worker.wait_for_log("session.waiting")
            assert manager.count("READY=1") == 0
            head.start()
            manager.wait_for("READY=1".__eq__, "READY")
            head.wait_for_workers("gpu2/cpu0")
            manager.wait_for(lambda line: line.startswith("STATUS=joined tcp://"), "its name")
            before = manager.count("WATCHDOG=1")
            eventually(lambda: manager.count("WATCHDOG=1") > before + 2, "pings")
            worker.terminate()
            assert worker.wait_for_exit() == ExitCode.OK
            assert manager.states() == ["READY=1", "STOPPING=1"]


def test_a_broken_gpu_elsewhere_ends_its_worker_and_nothing_else(tmp_path: Path) -> None:
    """With status 70, after which systemd starts it again; what it held is done by another."""
    plan = PlannedFaults(tmp_path / "plan")
    plan.set(ModelFault(kind="cuda"))
    program = (str(FAULTY), str(plan.folder))
    with Head(tmp_path) as head, RemoteWorker(head, "gpu2", program=program) as worker:
        head.start()
        head.wait_for_workers("gpu2/cpu0")
        source = head.drop(media.DEMO / "demo.flac", "a.flac")
        assert worker.wait_for_exit() == ExitCode.CUDA
        stopped = head.wait_for_log("worker.stopped", worker="gpu2/cpu0.1")
        assert "illegal memory access" in stopped["cause"]
        with RemoteWorker(head, "gpu3"):
            assert head.wait_for(source).state == "done"


def test_a_second_signal_ends_a_worker_at_once(tmp_path: Path) -> None:
    plan = PlannedFaults(tmp_path / "plan")
    plan.set(ModelFault(kind="hang"))
    program = (str(FAULTY), str(plan.folder))
    with Head(tmp_path) as head, RemoteWorker(head, "gpu2", program=program) as worker:
        head.start()
        head.wait_for_workers("gpu2/cpu0")
        head.drop(media.DEMO / "demo.flac", "a.flac")
        eventually(lambda: head.states()["gpu2/cpu0"] == "busy", "the worker has work")
        worker.terminate()
        worker.wait_for_log("worker.leaving")
        worker.terminate()
        assert worker.wait_for_exit() == ExitCode.OK


def test_worker_restarts_itself_for_a_daemon_with_other_decoding_settings(tmp_path: Path) -> None:
    """In a new process with the same id, which its supervisor still watches."""
    with Head(tmp_path) as head, RemoteWorker(head, "gpu2") as worker:
        head.start()
        head.wait_for_workers("gpu2/cpu0")
        head.stop()
        head.write_config(model=replace(head.config.model, beam_size=1))
        head.start()
        head.wait_for_workers("gpu2/cpu0")
        assert len(worker.log("model.loaded")) == 2
        worker.terminate()
        assert worker.wait_for_exit() == ExitCode.OK


def test_a_key_for_a_host_is_made_with_the_line_that_lets_it_in(tmp_path: Path) -> None:
    file = tmp_path / "subtitled.toml"
    file.write_text(
        f'[state]\ndir = "{tmp_path}/state"\n[remote]\nlisten = "tcp://127.0.0.1:8700"\n', "utf-8"
    )
    for name in ("gpu2.lan", "gpu3"):
        command = [
            *(sys.executable, "-m", "subtitled", "keys", "new", name, "--worker"),
            "--config",
            str(file),
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        line = done.stdout if name == "gpu2.lan" else done.stdout.partition("[remote.keys]\n")[2]
        file.write_text(f"{file.read_text('utf-8')}{line}", "utf-8")
    keys = load_config(str(file), {}, check_paths=False).remote.keys
    assert keys == {name: load_key(tmp_path / f"{name}.toml").public for name in ("gpu2.lan", "gpu3")}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--connect", "head:8700"), "tcp://HOST:PORT"),
        (("--connect", "tcp://h:1", "--device", "tpu"), '"auto", "cpu", "cuda:N"'),
        (("--connect", "tcp://h:1", "--device", "cpu", "--place", "a/b"), "letters"),
        (("--connect", "tcp://h:1", "--key", "none.toml"), "cannot be read"),
    ],
)
def test_a_worker_that_cannot_begin_says_why(tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    public, secret = new_pair()
    save_key(tmp_path / "key.toml", Key(name="x", public=public, secret=secret, server=public))
    command = [sys.executable, "-m", "subtitled", "worker", "--key", "key.toml", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in {ExitCode.USAGE, ExitCode.FAILED}
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
