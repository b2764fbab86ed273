"""What the doctor prints: lines for people, or one JSON object."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from rich.console import Console
from rich.text import Text

from subtitled.doctor.finding import Finding
from subtitled.version import VERSION

_MARKS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "fault": ("FAULT", "bold red"),
    "skipped": ("skipped", "dim"),
}
NAME_WIDTH = 24


def print_lines(console: Console, findings: Iterable[tuple[str, Finding]]) -> list[Finding]:
    """Print findings as they come, under their themes, each fault with its remedy; return them."""
    seen: list[Finding] = []
    last = ""
    for theme, finding in findings:
        if theme != last:
            console.print(Text(theme, style="bold"))
        last = theme
        mark, style = _MARKS[finding.state]
        line = Text.assemble("  ", (f"{mark:<8}", style), f"{finding.name:<{NAME_WIDTH}}  {finding.what}")
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':<{NAME_WIDTH + 12}}-> {finding.remedy}"), soft_wrap=True)
        seen.append(finding)
    console.print(Text(summary(seen)), soft_wrap=True)
    return seen


def summary(findings: Iterable[Finding]) -> str:
    """Return the verdict in one line."""
    states = [finding.state for finding in findings]
    faults, warnings = states.count("fault"), states.count("warning")
    told = f"{len(states)} checks, {warnings} {'warning' if warnings == 1 else 'warnings'}"
    if faults:
        return f"{faults} {'fault' if faults == 1 else 'faults'}; {told}. Mend the first one first."
    return f"All is well; {told}."


def as_json(findings: Iterable[tuple[str, Finding]]) -> tuple[str, list[Finding]]:
    """Return findings as one JSON object, and as they are."""
    themed = list(findings)
    seen = [finding for _, finding in themed]
    rows = [
        {"theme": theme, **{name: getattr(found, name) for name in ("name", "state", "what", "remedy")}}
        for theme, found in themed
    ]
    answer = {
        "version": VERSION,
        "is_well": all(finding.state != "fault" for finding in seen),
        "findings": rows,
    }
    return msgspec.json.encode(answer).decode(), seen
