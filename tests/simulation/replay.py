"""Lives one history again, with as few faults as still break it: `python tests/simulation/replay.py SEED [EVENTS]`."""

from __future__ import annotations

import sys

from fault_plan import Fault
from history import HistoryFailed, World

EVENTS = 200
"""The last events that are printed; a history with few faults has mostly fewer."""


class _Try:
    """A history lived without some kinds of faults, and without some single strikes of the others."""

    def __init__(self, seed: int, without: frozenset[Fault], spared: frozenset[int], remembered: int) -> None:
        world = World(seed, without=without, spared=spared, remembered=remembered)
        self.failure: HistoryFailed | None = None
        try:
            world.run()
        except HistoryFailed as failed:
            self.failure = failed
        self.struck = world.fate.struck


def smallest(seed: int, *, remembered: int = EVENTS) -> HistoryFailed | None:
    """Return how a history fails when no fault, and then no strike of one, can be taken away any more.

    None when it does not fail. What is left fails in the same way as the whole.
    """
    without: frozenset[Fault] = frozenset()
    spared: frozenset[int] = frozenset()
    last = _Try(seed, without, spared, remembered)
    found = last.failure
    if found is None:
        return None
    for fault in Fault:
        smaller = _Try(seed, without | {fault}, spared, remembered)
        if _is_same(smaller.failure, found):
            without, last = without | {fault}, smaller
    for throw in reversed(last.struck):
        smaller = _Try(seed, without, spared | {throw}, remembered)
        if _is_same(smaller.failure, found):
            spared, last = spared | {throw}, smaller
    return last.failure


def _is_same(failure: HistoryFailed | None, other: HistoryFailed) -> bool:
    return failure is not None and type(failure.__cause__) is type(other.__cause__)


def main(argv: list[str]) -> int:
    """Run from the command line; exit status 1 when the history fails."""
    seed = int(argv[0])
    found = smallest(seed, remembered=int(argv[1]) if len(argv) > 1 else EVENTS)
    print(found or f"seed {seed}: no promise broken")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
