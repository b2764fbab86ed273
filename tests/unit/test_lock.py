"""The locks, installed with --no-deps --require-hashes: requirements.lock by all targets, the other by those that test."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_FIRST, _SECOND = "requirements.lock", "requirements-test.lock"
_BOTH = pytest.mark.parametrize("lock", [_FIRST, _SECOND])


def entries(lock: str) -> dict[str, str]:
    """Give each entry of a lock, its continuation lines joined, by package name (and marker, if any)."""
    text = (_ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    return {line.partition("--hash")[0].strip(): line for line in text.splitlines() if line.strip()}


def packages(lock: str) -> set[str]:
    return {entry.partition("==")[0] for entry in entries(lock)}


@_BOTH
def test_every_entry_is_pinned_and_hashed(lock: str) -> None:
    bad = [
        entry
        for entry, line in entries(lock).items()
        if not re.match(r"[a-z0-9-]+==[^ ;]+", entry) or not re.search(r"--hash=sha256:[0-9a-f]{64}", line)
    ]
    assert bad == []


@_BOTH
def test_the_lock_names_no_index_and_no_address(lock: str) -> None:
    text = (_ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|@", text)


@_BOTH
def test_torch_is_left_out(lock: str) -> None:
    """Nothing imports it, and it would install a second CUDA stack."""
    assert packages(lock) & {"torch", "torchaudio"} == set()
    assert not [name for name in packages(lock) if name.startswith("nvidia-") and name != "nvidia-ml-py"]


def test_the_locks_hold_all_that_the_project_declares() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    used = [
        *project["project"]["dependencies"],
        *(line for extra in ("daemon", "http", "zh") for line in extras[extra]),
        *groups["build"],
    ]
    tested = [*groups["dev"], *extras["ray"], *extras["url"]]
    assert _names(used) - packages(_FIRST) == set()
    assert _names(tested) - packages(_FIRST) - packages(_SECOND) == set()


def test_the_second_lock_only_adds_to_the_first() -> None:
    """It is installed over it: another version there would be what is tested, and not what is used."""
    both = packages(_FIRST) & packages(_SECOND)
    assert {name: sorted(_versions(_SECOND, name) - _versions(_FIRST, name)) for name in both} == {
        name: [] for name in both
    }


def test_the_demo_installs_no_tools() -> None:
    assert packages(_FIRST) & {"pytest", "mypy", "ruff", "hypothesis", "ray"} == set()


@_BOTH
def test_nothing_in_the_lock_is_for_other_systems_alone(lock: str) -> None:
    assert [
        entry for entry in entries(lock) if re.search(r"sys_platform == '(win32|emscripten)'", entry)
    ] == []


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in requirements}


def _versions(lock: str, name: str) -> set[str]:
    return {entry.split(" ")[0] for entry in entries(lock) if entry.startswith(f"{name}==")}
