"""Replays one history with as few faults as still make it fail: `python tests/simulation/replay.py SEED [EVENTS]`."""

from __future__ import annotations

import sys

from fault_plan import Fault
from history import History, HistoryFailed

EVENTS = 200
"""Maximum number of events and actions that are printed."""


class _Attempt:
    """A history without some kinds of faults, and without some single strikes of the others."""

    def __init__(self, seed: int, without: frozenset[Fault], spared: frozenset[int], remembered: int) -> None:
        history = History(seed, without=without, spared=spared, remembered=remembered)
        self.failure: HistoryFailed | None = None
        try:
            history.run()
        except HistoryFailed as failed:
            self.failure = failed
        self.struck = history.fault_plan.struck


def smallest(seed: int, *, remembered: int = EVENTS) -> HistoryFailed | None:
    """Return the failure of a history from which no fault, and no strike of one, can be removed; None if it does not fail.

    The reduced history fails with the same type of error as the whole. Without a fault, a history may take another course
    in which the others strike more often: then the fault is kept.
    """
    without: frozenset[Fault] = frozenset()
    spared: frozenset[int] = frozenset()
    last = _Attempt(seed, without, spared, remembered)
    if last.failure is None:
        return None
    for fault in Fault:
        smaller = _Attempt(seed, without | {fault}, spared, remembered)
        if _is_smaller(smaller, last):
            without, last = without | {fault}, smaller
    for throw in reversed(last.struck):
        smaller = _Attempt(seed, without, spared | {throw}, remembered)
        if _is_smaller(smaller, last):
            spared, last = spared | {throw}, smaller
    return last.failure


def _is_smaller(attempt: _Attempt, other: _Attempt) -> bool:
    if attempt.failure is None or other.failure is None or len(attempt.struck) > len(other.struck):
        return False
    return type(attempt.failure.__cause__) is type(other.failure.__cause__)


def main(argv: list[str]) -> int:
    """Run from the command line; exit status 1 when the history fails."""
    seed = int(argv[0])
    found = smallest(seed, remembered=int(argv[1]) if len(argv) > 1 else EVENTS)
    print(found or f"seed {seed}: every invariant holds")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
