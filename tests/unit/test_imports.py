"""The rule of the packages: each imports only what its row of the table allows, and nothing imports in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_ROOT = Path(__file__).parents[2]
_MODULES = {
    path.relative_to(_ROOT / top).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for top in ("client", "daemon")
    for path in sorted((_ROOT / top).rglob("*.py"))
}

ALLOWED = {
    # Foundations. Every package may import `errors`, `version`, `languages`, and the client's package `subtitle`.
    "errors": "",
    "languages": "",
    "version": "",
    "log": "",
    "config": "",
    # Pure: no clock, file, socket, thread.
    "core": "config",
    "cues": "config core",
    # What the features stand on.
    "runtime": "log",
    "files": "",
    "network": "config",
    "systemd": "config files",
    "storage": "core log runtime",
    # Features.
    "asr": "config core cues",
    "observability": "asr config core cues log runtime storage systemd",
    "output": "asr config core cues files log observability runtime storage",
    "media": "config core files log output runtime",
    "inboxes": "asr config core files log media output storage",
    "workers": "asr config core log media network observability runtime storage systemd",
    "hooks": "config core log output runtime storage",
    "api": "config core cues files inboxes log media network observability output runtime storage workers",
    "ray": "config log network runtime workers",
    "http": "config core cues",
    "web": "config cues http log runtime systemd",
    # Programs.
    "server": "api asr config core files hooks inboxes log network observability output ray runtime storage "
    "systemd workers",
    "doctor": "asr config core cues files media network ray runtime",
    "demo": "",
    "cli": "asr config cues demo doctor inboxes log network output runtime server systemd web workers",
    "__main__": "cli",
}
"""Package or module of `subtitled` -> what it may import; docs/architecture.md explains the order."""

_FOUNDATIONS = frozenset({"errors", "languages", "version"})
_LOOSE = frozenset({"__main__", "cli", "errors", "languages", "log", "version"})
"""The modules that are in no package."""

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


def unit(module: str) -> str:
    """Return the row of the table that a module belongs to; "subtitle" for the client."""
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] if top == "subtitled" else top


def imported(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Return the full names of all that `source` imports anywhere; `from a import b` gives both a and a.b."""
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
    """Return what `module` imports against the table, one line each; `known` are the names of our modules."""
    found: list[str] = []
    here = unit(module)
    for name in sorted(imported(source, module, is_package=is_package)):
        top = name.partition(".")[0]
        if top in _NOWHERE:
            found.append(f"{module} imports {name}, which nothing may import")
        elif here in {"core", "cues"} and top in _IMPURE:
            found.append(f"{module} imports {name}, but {here} is pure")
        elif here == "subtitle" and top == "subtitled":
            found.append(f"{module} imports {name}, but the client does not import the daemon")
        elif top == "subtitled" and name in known and here != "subtitle":
            there = unit(name)
            if there and there != here and there not in _FOUNDATIONS and there not in ALLOWED[here].split():
                found.append(f"{module} imports {name}; {here} may import: {ALLOWED[here] or 'nothing'}")
    return found


def cycle(graph: Mapping[str, Collection[str]]) -> list[str]:
    """Return the names along one cycle of the graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for module, path in _MODULES.items():
        names = imported(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
        # `from package import module` is an import of the module, not of the package's own __init__.
        graph[module] = {
            name
            for name in names
            if name in _MODULES
            and name != module
            and not any(n.startswith(f"{name}.") for n in names & set(_MODULES))
        }
    return graph


@pytest.mark.parametrize("module", sorted(_MODULES))
def test_module_imports_only_what_its_package_may(module: str) -> None:
    path = _MODULES[module]
    source = path.read_text(encoding="utf-8")
    assert breaches(module, source, _MODULES, is_package=path.name == "__init__.py") == []


def test_table_has_no_cycle_and_no_unused_permission() -> None:
    assert cycle({name: allowed.split() for name, allowed in ALLOWED.items()}) == []
    used: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for module, names in _graph().items():
        if module.startswith("subtitled."):
            used[unit(module)] |= {unit(name) for name in names if name.startswith("subtitled.")}
    unused = {
        name: sorted(set(allowed.split()) - used[name])
        for name, allowed in ALLOWED.items()
        if set(allowed.split()) - used[name]
    }
    assert unused == {}


def test_no_module_imports_itself_through_others() -> None:
    assert cycle(_graph()) == []


def test_top_level_has_packages_and_few_loose_modules() -> None:
    top = _ROOT / "daemon" / "subtitled"
    assert {path.stem for path in top.glob("*.py")} - {"__init__"} == _LOOSE
    assert len(_LOOSE) <= 6


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
