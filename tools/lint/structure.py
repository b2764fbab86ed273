"""Rules of the source tree: what each package may import, no cycles, and each public class name once."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from .finding import ROOT, Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MODULES = {
    path.relative_to(ROOT / top).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for top in ("client", "daemon")
    for path in sorted((ROOT / top).rglob("*.py"))
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
    "translation": "asr config core cues",
    "observability": "asr config core cues log runtime storage systemd",
    "output": "config core cues files log observability runtime storage translation",
    "media": "config core files log output runtime",
    "inboxes": "config core files log media output storage",
    "workers": "asr config core files log media network observability runtime storage systemd translation",
    "hooks": "config core log runtime storage",
    "download": "config runtime",
    "api": "config core cues download files inboxes log media network observability output runtime storage "
    "translation workers",
    "ray": "config log network runtime workers",
    "http": "config core cues",
    "web": "config cues http log runtime systemd",
    # Programs.
    "server": "api asr config core files hooks inboxes log network observability output ray runtime storage "
    "systemd workers",
    "doctor": "asr config core cues files media network ray runtime",
    "standalone": "asr config log network",
    "demo": "config standalone",
    "cli": "asr config cues demo doctor inboxes log network output runtime server standalone systemd web workers",
    "__main__": "cli",
}
"""Package or module of `subtitled` -> what it may import; docs/architecture.md explains the order."""

_FOUNDATIONS = frozenset({"errors", "languages", "version"})
LOOSE = frozenset({"__main__", "cli", "errors", "languages", "log", "version"})
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
        elif (
            here in {"core", "cues", "translation"}
            and top in _IMPURE
            and not module.startswith("subtitled.translation.engines")
        ):
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


def graph() -> dict[str, set[str]]:
    """Return, for each of our modules, the modules of ours that it imports."""
    found: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        names = imported(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py")
        # `from package import module` is an import of the module, not of the package's own __init__.
        found[module] = {
            name
            for name in names
            if name in MODULES
            and name != module
            and not any(n.startswith(f"{name}.") for n in names & set(MODULES))
        }
    return found


def public_classes(sources: Mapping[Path, str]) -> list[Finding]:
    """Return the public classes, at the top level of modules, whose names other modules have too."""
    places: dict[str, list[tuple[Path, int]]] = {}
    for path, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append((path, node.lineno))
    return [
        Finding(path, line, f"class {name} is defined in {found[0][0]} too; rename one of them")
        for name, found in places.items()
        for path, line in found[1:]
    ]


def check() -> list[Finding]:
    """Return what breaks a rule in the client and the daemon."""
    sources = {path.relative_to(ROOT): path.read_text("utf-8") for path in MODULES.values()}
    found = public_classes(sources)
    for module, path in MODULES.items():
        is_package = path.name == "__init__.py"
        messages = breaches(module, path.read_text("utf-8"), MODULES, is_package=is_package)
        found += [Finding(path.relative_to(ROOT), 1, message) for message in messages]
    if circle := cycle({name: allowed.split() for name, allowed in ALLOWED.items()}):
        found.append(Finding(_TABLE, 1, f"the table of packages has a cycle: {' -> '.join(circle)}"))
    if circle := cycle(graph()):
        found.append(Finding(MODULES[circle[0]].relative_to(ROOT), 1, f"import cycle: {' -> '.join(circle)}"))
    return found


_TABLE = Path(__file__).relative_to(ROOT)
