"""docs/protocol.md is enough to write a client from: one that knows nothing of ours gets its subtitles."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import media
from daemon import DEADLINE_S, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = Path(__file__).with_name("foreign_client.py")
DEMO_ZH = Path(str(files("subtitled") / "demo" / "demo-zh.flac"))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("foreign")) as running:
        yield running.start()
        running.stop()


def run(daemon: Daemon, path: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, str(CLIENT), daemon.endpoint, str(path)]
    return subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)


def test_a_foreign_client_sends_a_file_and_gets_what_ours_would(daemon: Daemon) -> None:
    done = run(daemon, DEMO_ZH)
    assert (done.returncode, done.stderr) == (0, b"")
    job = daemon.jobs()[0]
    assert (job.source, job.state, job.size) == ("demo-zh.flac", "done", DEMO_ZH.stat().st_size)
    assert done.stdout == daemon.client.fetch(job.id)[1]
    assert b" --> " in done.stdout
    again = run(daemon, DEMO_ZH)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert daemon.jobs()[0].id == job.id


def test_a_file_of_many_windows_arrives_whole(daemon: Daemon, tmp_path: Path) -> None:
    """20 MB of silence: credit has to be waited for, and there is no speech."""
    path = media.write_sound(tmp_path / "long.wav", media.silence(650))
    assert path.stat().st_size > 2 * 8 * 2**20
    done = run(daemon, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_foreign_client_hears_why_not(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(b"no media")
    done = run(daemon, tmp_path / "noise.mp4")
    assert done.returncode == 1
    assert b"is failed" in done.stderr


def test_the_foreign_client_has_nothing_of_ours() -> None:
    tree = ast.parse(CLIENT.read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "hashlib", "sys", "pathlib", "typing", "msgpack", "zmq"}
