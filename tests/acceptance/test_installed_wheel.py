"""The wheel works where only it is installed: in an empty folder, with an empty home, without the sources."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 300


@pytest.mark.long
def test_wheel_alone_runs_the_demo_the_completion_and_the_units(tmp_path: Path) -> None:
    """Its dependencies come from the environment of the tests: the network is not needed."""
    environment, home, folder = tmp_path / "environment", tmp_path / "home", tmp_path / "empty"
    home.mkdir()
    folder.mkdir()
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home)}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run(sys.executable, "-m", "venv", "--without-pip", environment)
    packages = environment / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    # Only this line: the .pth file of the editable installation in that folder is not read.
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin/python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel)

    program = environment / "bin/subtitled"
    where = run(environment / "bin/python", "-c", "import subtitled; print(subtitled.__file__)")
    assert Path(where.strip()).is_relative_to(packages)
    text = run(program, "demo")
    assert "Good morning and welcome." in text
    assert "欢迎收听公园广播。" in text
    assert list(folder.iterdir()) == []
    assert "_subtitle_completion" in run(environment / "bin/subtitle", "completion", "bash")
    units = run(program, "install-service", "--dry-run", "--config", tmp_path / "none.toml")
    assert f"ExecStart={program} run" in units
