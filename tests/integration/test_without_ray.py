"""What a machine without the extra `ray` has: everything but Ray, and the word on how to install it."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from subtitled.errors import ExitCode

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with links to all packages that are installed, but Ray's."""
    folder = tmp_path_factory.mktemp("bare")
    for installed in map(Path, site.getsitepackages()):
        for package in installed.iterdir():
            if package.name != "ray" and not package.name.startswith("ray-"):
                (folder / package.name).symlink_to(package)
    return folder


def python(bare: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these packages, and this repository's, alone."""
    path = os.pathsep.join(map(str, (ROOT / "client", ROOT / "daemon", bare)))
    command = (sys.executable, "-S", *words)
    environ = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)


def test_the_engine_ray_says_what_to_install(bare: Path, tmp_path: Path) -> None:
    file = tmp_path / "subtitled.toml"
    file.write_text('inbox = []\n[pool]\nengine = "ray"\n[remote]\nlisten = "tcp://127.0.0.1:8700"\n')
    done = python(bare, "-m", "subtitled", "run", "--config", str(file))
    assert done.returncode == ExitCode.FATAL
    assert 'pool.engine: "ray" is not allowed ("local", until Ray is installed' in done.stderr
    assert "pip install 'subtitled[ray]'" in done.stderr


def test_the_daemon_and_its_commands_need_no_ray(bare: Path) -> None:
    modules = (
        "subtitled.cli, subtitled.server.build, subtitled.workers.remote_worker, subtitled.doctor.checks"
    )
    done = python(bare, "-c", f"import {modules}")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_daemon_imports_nothing_of_ray_where_it_is_installed() -> None:
    """Ray's threads, handlers of signals and exits are for a process of their own."""
    modules = (
        "subtitled.cli, subtitled.server.build, subtitled.workers.remote_worker, subtitled.doctor.checks"
    )
    program = f"import sys, {modules}; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
