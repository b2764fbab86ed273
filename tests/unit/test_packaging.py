"""The wheel contains everything that the daemon needs, and asks for no torch."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from subtitled.config import schema
from subtitled.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=_ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return BytesParser().parsebytes(wheel.read(name))


def test_wheel_holds_the_default_configuration_and_the_units(wheel: zipfile.ZipFile) -> None:
    """`subtitled config init` and `install-service` work where only the package is installed."""
    assert wheel.read("subtitled/config/subtitled.toml") == schema.DEFAULT_FILE.read_bytes()
    for path in (_ROOT / "systemd").iterdir():
        assert wheel.read(f"subtitled/systemd/{path.name}") == path.read_bytes()


def test_wheel_holds_every_data_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    """Models, recordings, templates, scripts and licences."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "client", "daemon"], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    wanted = {name.partition("/")[2] for name in tracked.stdout.split("\0") if name}
    assert wanted - set(wheel.namelist()) == set()


def test_wheel_requires_no_torch(wheel: zipfile.ZipFile) -> None:
    required = metadata(wheel).get_all("Requires-Dist") or []
    assert required
    assert [line for line in required if line.startswith(("silero-vad", "torch"))] == [
        "torch==2.13.0; extra == 'demo-model'"
    ]


def test_version_comes_from_one_place(wheel: zipfile.ZipFile) -> None:
    declared = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert VERSION == declared == metadata(wheel)["Version"]
    assert f"## [{declared}]" in (_ROOT / "CHANGELOG.md").read_text("utf-8")
