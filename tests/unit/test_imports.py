"""The rule of the layers: subtitle <- core <- cues <- adapters <- processes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection

_ROOT = Path(__file__).parents[2]
_MODULES = {
    path.relative_to(_ROOT / top).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for top in ("client", "daemon")
    for path in sorted((_ROOT / top).rglob("*.py"))
}

_PROCESSES = (
    "workers.process",
    "workers.fetch",
    "workers.prepare",
    "workers.transcribe",
    "workers.loading",
    "workers.remote",
    "workers.command",
    "workers.link",
    "workers.supervisor",
    "workers.model_step",
    "after",
    "server",
    "companion",
    "cluster",
    "doctor",
    "http",
    "cli",
    "demo",
    "__main__",
)
_FOUNDATIONS = ("subtitled", "subtitled.errors", "subtitled.config.schema")
"""What every layer of the daemon may import."""

# The core is given its time, its numbers and its work; what could fetch them is out of its reach.
_IMPURE = frozenset(
    """
    zmq sqlite3 os io time numpy threading _thread socket select selectors signal subprocess multiprocessing pathlib
    shutil tempfile glob random secrets uuid asyncio concurrent queue logging structlog ctypes mmap fcntl sched
    prometheus_client watchdog av soundfile soxr onnxruntime ctranslate2 faster_whisper pynvml
    """.split()  # noqa: SIM905 - one name a line would take a page
)
_NOWHERE = frozenset({"torch", "torchaudio", "silero_vad"})
"""Torch is not installed: the lock leaves it out, and importing silero_vad imports it."""


def layer(module: str) -> int:
    """Give the layer of one of our modules: 0 client, 1 core, 2 cues, 3 adapters, 4 processes."""
    parts = module.split(".")
    if parts[0] == "subtitle":
        return 0
    if parts[1:2] in (["core"], ["cues"]):
        return 1 if parts[1] == "core" else 2
    name = ".".join(parts[1:])
    return 4 if any(name == process or name.startswith(f"{process}.") for process in _PROCESSES) else 3


def imported(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Give the full names of all that `source` imports anywhere; `from a import b` gives both a and a.b."""
    package = module if is_package else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                above = ".".join(parents[: len(parents) - node.level + 1])
                base = f"{above}.{base}" if base else above
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def breaches(module: str, source: str, known: Collection[str], *, is_package: bool = False) -> list[str]:
    """Give what `module` imports against the rule, one line each; `known` are our modules' names."""
    found: list[str] = []
    here = layer(module)
    for name in sorted(imported(source, module, is_package=is_package)):
        top = name.partition(".")[0]
        if top in _NOWHERE:
            found.append(f"{module} imports {name}, which nothing may")
        elif here in {1, 2} and top in _IMPURE:
            found.append(f"{module} imports {name}, and {'core' if here == 1 else 'cues'} is pure")
        elif top == "subtitled" and here == 0:
            found.append(f"{module} imports {name}: the client knows no daemon")
        elif name in known and name not in _FOUNDATIONS and layer(name) > here:
            found.append(f"{module} imports {name}, which is of a higher layer")
    return found


@pytest.mark.parametrize("module", sorted(_MODULES))
def test_a_module_imports_only_its_own_layer_and_those_below(module: str) -> None:
    path = _MODULES[module]
    assert (
        breaches(module, path.read_text(encoding="utf-8"), _MODULES, is_package=path.name == "__init__.py")
        == []
    )


_SOME = (
    "subtitled.cues",
    "subtitled.systemd.notify",
    "subtitled.log",
    "subtitled.demo",
    "subtitled.workers.supervisor",
)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("subtitle.client", "import subtitled"),
        ("subtitle.client", "from subtitled.errors import SubtitledError"),
        ("subtitled.core.broker", "import os"),
        ("subtitled.core.broker", "import os.path as p"),
        ("subtitled.core.broker", "def f():\n    from time import monotonic"),
        ("subtitled.core.broker", "import collections, numpy"),
        ("subtitled.core.broker", "from concurrent.futures import Future"),
        ("subtitled.core.broker", "from subtitled import cues"),
        ("subtitled.core.broker", "from .. import cues"),
        ("subtitled.core.broker", "from ..cues import anything"),
        ("subtitled.core.broker", "from subtitled.log import JOB_DONE"),
        ("subtitled.cues.layout", "import sqlite3"),
        ("subtitled.cues.layout", "import subtitled.systemd.notify"),
        ("subtitled.media.decode", "import subtitled.demo"),
        ("subtitled.media.vad", "import silero_vad"),
        ("subtitled.asr.engine", "if True:\n    import torch.nn"),
    ],
)
def test_a_planted_breach_is_found(module: str, source: str) -> None:
    planted = f'"""A module."""\n\nfrom __future__ import annotations\n\n{source}\n'
    assert breaches(module, planted, _SOME), source


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("subtitle.client", "import zmq\nfrom .errors import SubtitleError"),
        (
            "subtitled.core.broker",
            "from subtitled.core.plan import Plan\nfrom . import states\nimport subtitle",
        ),
        (
            "subtitled.core.broker",
            "from subtitled.errors import SubtitledError\nfrom ..config import Recovery",
        ),
        ("subtitled.cues.layout", "from subtitled.core.plan import Plan\nimport unicodedata"),
        (
            "subtitled.storage.store",
            "import sqlite3\nfrom subtitled.cues import layout\nfrom subtitled.core import records",
        ),
        (
            "subtitled.server.loop",
            "import subtitled.workers.supervisor\nfrom subtitled import sdnotify, worker",
        ),
    ],
)
def test_what_the_rule_allows_is_no_breach(module: str, source: str) -> None:
    assert breaches(module, source, _SOME) == []


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in _MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize(
    "statement", ["import subtitle", "import subtitled.config.schema, subtitled.core.plan"]
)
def test_importing_the_light_packages_loads_nothing_heavy(statement: str) -> None:
    heavy = "{'numpy', 'av', 'onnxruntime', 'ctranslate2', 'faster_whisper', 'sqlite3'}"
    program = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_importing_the_client_loads_nothing_of_its_commands() -> None:
    unwanted = "{'click', 'rich', 'asyncio', 'numpy'}"
    program = f"import sys, subtitle; print(sorted({unwanted} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_importing_the_client_loads_no_daemon() -> None:
    program = "import sys, subtitle; sys.exit(any(name.startswith('subtitled') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
