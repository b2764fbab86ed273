"""Draws the state diagrams of docs/reliability.md from the transition tables of `subtitled.core.states`.

    python tools/draw_states.py [--check] [FILE]

replaces what stands between each pair of marks, `<!-- states: job -->` and `<!-- /states -->`, in FILE (docs/reliability.md). With
`--check` nothing is written; exit status 1 says that a diagram differs from its table.
"""

from __future__ import annotations

import argparse
import re
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from subtitled.core.states import JOB, SEGMENT, WORKER, JobState, SegmentState, WorkerState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOCUMENT = Path(__file__).parent.parent / "docs" / "reliability.md"
MARKED = re.compile(r"(<!-- states: (\w+) -->\n).*?(<!-- /states -->)", re.DOTALL)

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def draw(table: Mapping[tuple[S, E], S], firsts: Sequence[S]) -> str:
    """Return a Mermaid diagram of a transition table, whose subjects begin in one of `firsts`.

    Events that lead from one state to the same other share an arrow; a state without a row of its own is an end.
    """
    arrows: dict[tuple[S, S], list[str]] = {}
    for (state, event), following in table.items():
        arrows.setdefault((state, following), []).append(event.value)
    lines = [f"[*] --> {state.name}" for state in firsts]
    lines += [
        f"{state.name} --> {following.name}: {', '.join(events)}"
        for (state, following), events in arrows.items()
    ]
    ends = dict.fromkeys(table.values())
    lines += [f"{state.name} --> [*]" for state in ends if all(state is not before for before, _ in table)]
    return "\n".join(["```mermaid", "stateDiagram-v2", *(f"    {line}" for line in lines), "```", ""])


def redrawn(text: str) -> str:
    """Return a document with redrawn diagrams; KeyError for a mark that names no table."""
    diagrams = {
        "job": draw(JOB, [JobState.RECEIVING, JobState.QUEUED]),
        "segment": draw(SEGMENT, [SegmentState.PENDING]),
        "worker": draw(WORKER, [WorkerState.STARTING]),
    }
    return MARKED.sub(lambda found: found[1] + diagrams[found[2]] + found[3], text)


def main() -> int:
    """Draw or check; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("file", nargs="?", type=Path, default=DOCUMENT)
    options = parser.parse_args()
    text = options.file.read_text("utf-8")
    drawn = redrawn(text)
    if options.check:
        if drawn != text:
            print(f"{options.file}: a diagram differs from its table; run python {sys.argv[0]}")
        return int(drawn != text)
    options.file.write_text(drawn, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
