"""Checks of the Python packages: installed, of a supported version, and loadable."""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from importlib import import_module, metadata

from msgspec import Struct

from subtitled.doctor.finding import Finding, ProbeMessage, ProbeStarted, fault, ok

_MODULES = {"nvidia-ml-py": "pynvml", "opencc-python-reimplemented": "opencc"}
"""Packages whose module has another name."""
FEW = 4
_COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt, ">": operator.gt, "==": operator.eq}


class ImportProbe(Struct, frozen=True, kw_only=True):
    """The packages to load."""

    extra: str = "daemon"


def required_packages(requirements: Iterable[str], extra: str) -> dict[str, str]:
    """Return the packages of an extra with their versions ("<5,>=4.5"), from the lines of a package's metadata."""
    found = {}
    for line in requirements:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)([^;]*); extra == ['\"](.+)['\"]", line)
        if match and match[3] == extra:
            found[match[1]] = match[2].strip()
    return found


def satisfies(version: str, specifier: str) -> bool:
    """Return whether a version matches "<5,>=4.5"; suffixes such as rc1 are ignored."""
    parts = (re.fullmatch(r"\s*([<>=]=?)\s*([0-9.]+)\s*", part) for part in specifier.split(",") if part)
    return all(_COMPARE[part[1]](_release(version), _release(part[2])) for part in parts if part)


def missing_finding(names: Collection[str], python: str) -> Finding:
    """Return the fault of missing packages, with the command that installs them in their pinned versions."""
    few = " ".join(f"'{name}'" for name in names)
    lock = "--require-hashes -r requirements.lock, in a clone of the repository"
    remedy = f"type: {python} -m pip install --no-deps {few if len(names) < FEW else lock}"
    return fault("packages", f"not installed: {', '.join(names)}", remedy)


def version_finding(name: str, version: str, specifier: str, python: str) -> Finding | None:
    """Return the fault of an unsupported version; None if it is supported."""
    if satisfies(version, specifier):
        return None
    remedy = f"type: {python} -m pip install --no-deps '{name}{specifier}'"
    return fault(name, f"is version {version}, {specifier} is required", remedy)


def probe_packages(settings: ImportProbe) -> Iterator[ProbeMessage]:
    """Load each package, which finds missing native libraries."""
    packages = required_packages(metadata.requires("subtitled") or [], settings.extra)
    versions = {name: version for name in packages if (version := _version(name)) is not None}
    if missing := [f"{name}{specifier}" for name, specifier in packages.items() if name not in versions]:
        yield missing_finding(missing, sys.executable)
    good, seen = [], set()
    for name, version in versions.items():
        remedy = f"type: {sys.executable} -m pip install --force-reinstall --no-deps '{name}=={version}'"
        yield ProbeStarted(name=name, remedy=remedy)
        wrong = version_finding(name, version, packages[name], sys.executable)
        if wrong is not None:
            yield wrong
            continue
        try:
            _load(name)
        except (ImportError, OSError) as error:
            cause = " ".join(str(error).split())
            if cause not in seen:  # the same cause is reported once
                yield fault(name, f"{version} cannot be loaded: {cause}", remedy)
            seen.add(cause)
        else:
            good.append(f"{name} {version}")
    if good:
        yield ok("packages", ", ".join(good))


def _load(name: str) -> None:
    import_module(_MODULES.get(name, name.replace("-", "_")))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in re.split(r"\.", re.match(r"[0-9.]*", version)[0]) if part]  # type: ignore[index]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
