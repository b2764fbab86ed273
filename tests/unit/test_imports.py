"""The rules of the source tree: each package imports only what its row of the table allows, and nothing imports in a circle."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lint.finding import ROOT
from lint.structure import ALLOWED, LOOSE, MODULES, breaches, cycle, graph, unit


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_imports_only_what_its_package_may(module: str) -> None:
    path = MODULES[module]
    source = path.read_text(encoding="utf-8")
    assert breaches(module, source, MODULES, is_package=path.name == "__init__.py") == []


def test_table_has_no_cycle_and_no_unused_permission() -> None:
    assert cycle({name: allowed.split() for name, allowed in ALLOWED.items()}) == []
    used: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for module, names in graph().items():
        if module.startswith("subtitled."):
            used[unit(module)] |= {unit(name) for name in names if name.startswith("subtitled.")}
    unused = {
        name: sorted(set(allowed.split()) - used[name])
        for name, allowed in ALLOWED.items()
        if set(allowed.split()) - used[name]
    }
    assert unused == {}


def test_no_module_imports_itself_through_others() -> None:
    assert cycle(graph()) == []


def test_top_level_has_packages_and_few_loose_modules() -> None:
    top = ROOT / "daemon" / "subtitled"
    assert {path.stem for path in top.glob("*.py")} - {"__init__"} == LOOSE
    assert len(LOOSE) <= 6


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
def test_planted_breach_is_found(module: str, source: str) -> None:
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
        ("subtitled.core.broker", "from subtitled.errors import SubtitledError\nfrom ..config import schema"),
        ("subtitled.cues.layout", "from subtitled.core.plan import Plan\nimport unicodedata"),
        ("subtitled.storage.store", "import sqlite3\nfrom subtitled.core import records"),
        (
            "subtitled.server.loop",
            "import subtitled.workers.supervisor\nfrom subtitled.systemd import notify",
        ),
    ],
)
def test_allowed_import_is_no_breach(module: str, source: str) -> None:
    assert breaches(module, source, _SOME) == []


def test_planted_cycle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    "statement", ["import subtitle", "import subtitled.config.load, subtitled.core.plan"]
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
