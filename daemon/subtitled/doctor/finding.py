"""The doctor's findings, and their output as lines or JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from subtitled.asr.cuda import Device
from subtitled.errors import SubtitledError
from subtitled.version import VERSION

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "warning", "fault", "skipped"]


class Finding(Struct, frozen=True, kw_only=True, tag=True):
    """The outcome of one check."""

    name: str
    """The check: "gpu0 speed", "inbox /srv/subtitled/inbox"."""
    state: State
    """A warning does not keep the daemon from working."""
    message: str
    """What was found, in one line."""
    remedy: str = ""
    """What to do, in one line; a command is given as `type: COMMAND`."""


class ProbeStarted(Struct, frozen=True, kw_only=True, tag=True):
    """The next step of a child process: if the process ends or times out, this step gets the fault."""

    name: str
    remedy: str


class ChosenDevices(Struct, frozen=True, kw_only=True, tag=True):
    """The devices of the configuration."""

    devices: tuple[Device, ...]


ProbeMessage = Finding | ProbeStarted | ChosenDevices


def ok(name: str, message: str) -> Finding:
    """Return a passed check."""
    return Finding(name=name, state="ok", message=message)


def warning(name: str, message: str, remedy: str) -> Finding:
    """Return a warning."""
    return Finding(name=name, state="warning", message=message, remedy=remedy)


def fault(name: str, message: str, remedy: str) -> Finding:
    """Return a fault, which keeps the daemon from working."""
    return Finding(name=name, state="fault", message=message, remedy=remedy)


def skipped(name: str, message: str) -> Finding:
    """Return a check that was not possible, with the reason."""
    return Finding(name=name, state="skipped", message=message)


def from_error(name: str, error: Exception, remedy: str) -> Finding:
    """Return the fault of an error; a SubtitledError contains its remedy, `remedy` is for other errors."""
    text = " ".join(str(error).split()) or type(error).__name__
    message, separator, own = text.rpartition("; ")
    return (
        fault(name, message, own)
        if separator and isinstance(error, SubtitledError)
        else fault(name, text, remedy)
    )


_MARKS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "fault": ("FAULT", "bold red"),
    "skipped": ("skipped", "dim"),
}
NAME_WIDTH = 24


def print_lines(console: Console, findings: Iterable[tuple[str, Finding]]) -> list[Finding]:
    """Print findings as they come, under their themes, each fault with its remedy; return them."""
    from rich.text import Text

    seen: list[Finding] = []
    last = ""
    for theme, finding in findings:
        if theme != last:
            console.print(Text(theme, style="bold"))
        last = theme
        mark, style = _MARKS[finding.state]
        line = Text.assemble("  ", (f"{mark:<8}", style), f"{finding.name:<{NAME_WIDTH}}  {finding.message}")
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':<{NAME_WIDTH + 12}}-> {finding.remedy}"), soft_wrap=True)
        seen.append(finding)
    console.print(Text(summary(seen)), soft_wrap=True)
    return seen


def summary(findings: Iterable[Finding]) -> str:
    """Return the summary line."""
    states = [finding.state for finding in findings]
    faults, warnings = states.count("fault"), states.count("warning")
    counts = f"{len(states)} checks, {warnings} {'warning' if warnings == 1 else 'warnings'}"
    if faults:
        return f"{faults} {'fault' if faults == 1 else 'faults'}; {counts}. Fix the first fault first."
    return f"No faults; {counts}."


def as_json(findings: Iterable[tuple[str, Finding]]) -> tuple[str, list[Finding]]:
    """Return findings as one JSON object, and as a list."""
    themed = list(findings)
    seen = [finding for _, finding in themed]
    rows = [
        {"theme": theme, **{name: getattr(found, name) for name in ("name", "state", "message", "remedy")}}
        for theme, found in themed
    ]
    answer = {
        "version": VERSION,
        "is_ok": all(finding.state != "fault" for finding in seen),
        "findings": rows,
    }
    return msgspec.json.encode(answer).decode(), seen
