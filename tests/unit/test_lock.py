"""requirements.lock: what `make demo` installs with --no-deps --require-hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def entries() -> dict[str, str]:
    """Give each entry of the lock, its continuation lines joined, by package name (and marker, if any)."""
    text = (_ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    return {line.partition("--hash")[0].strip(): line for line in text.splitlines() if line.strip()}


def packages() -> set[str]:
    return {entry.partition("==")[0] for entry in entries()}


def test_every_entry_is_pinned_and_hashed() -> None:
    bad = [
        entry
        for entry, line in entries().items()
        if not re.match(r"[a-z0-9-]+==[^ ;]+", entry) or not re.search(r"--hash=sha256:[0-9a-f]{64}", line)
    ]
    assert bad == []


def test_the_lock_names_no_index_and_no_address() -> None:
    text = (_ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|@", text)


def test_torch_is_left_out() -> None:
    """Silero-vad declares it and nothing here imports it; it would bring a second CUDA stack."""
    assert packages() & {"torch", "torchaudio"} == set()
    assert not [name for name in packages() if name.startswith("nvidia-") and name != "nvidia-ml-py"]


def test_the_lock_holds_all_that_the_project_declares() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["daemon"],
        *project["project"]["optional-dependencies"]["http"],
        *project["project"]["optional-dependencies"]["zh"],
        *project["dependency-groups"]["dev"],
    ]
    names = {re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in declared}
    assert "silero-vad" in names
    assert names - packages() == set()


def test_nothing_in_the_lock_is_for_other_systems_alone() -> None:
    assert [entry for entry in entries() if re.search(r"sys_platform == '(win32|emscripten)'", entry)] == []
