"""Lives one history again, with as few faults as still break it: `python tests/simulation/replay.py SEED [EVENTS]`."""

from __future__ import annotations

import sys

from fate import Fault
from world import HistoryFailed, World


def failure(seed: int, without: frozenset[Fault], remembered: int) -> HistoryFailed | None:
    """Live a history without some kinds of faults; return how it fails, or None."""
    try:
        World(seed, without=without, remembered=remembered).run()
    except HistoryFailed as failed:
        return failed
    return None


def smallest(seed: int, found: HistoryFailed, remembered: int) -> HistoryFailed:
    """Return the failure of the same kind that is left when no kind of fault can be taken away any more."""
    without: frozenset[Fault] = frozenset()
    for fault in Fault:
        smaller = failure(seed, without | {fault}, remembered)
        if smaller is not None and type(smaller.__cause__) is type(found.__cause__):
            without |= {fault}
            found = smaller
    return found


def main(argv: list[str]) -> int:
    """Run from the command line; exit status 1 when the history fails."""
    seed = int(argv[0])
    remembered = int(argv[1]) if len(argv) > 1 else 30
    found = failure(seed, frozenset(), remembered)
    if found is None:
        print(f"seed {seed}: no promise broken")
        return 0
    print(smallest(seed, found, remembered))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
