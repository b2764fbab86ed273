"""Runs many histories: `python tests/simulation/simulate.py N [FIRST_SEED]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from history import History, HistoryFailed
from replay import smallest

HISTORIES = 1200
"""How many histories the tests run; the rarest of the mutations is found by the 867th."""
PROGRESS = 10_000
"""Histories between two lines of a long run."""


def simulate(seeds: Iterable[int]) -> int:
    """Run a history for each seed; return the number of turns. Raises HistoryFailed at the first that fails."""
    turns = 0
    for seed in seeds:
        history = History(seed)
        history.run()
        turns += history.turns
    return turns


def main(argv: list[str]) -> int:
    """Run from the command line; exit status 1 when a history failed."""
    count = int(argv[0]) if argv else HISTORIES
    first = int(argv[1]) if len(argv) > 1 else 0
    started = time.perf_counter()
    turns = 0
    for seed in range(first, first + count):
        if (done := seed - first) and done % PROGRESS == 0:
            print(f"{done} histories, {done / (time.perf_counter() - started):.0f}/s", flush=True)
        try:
            turns += simulate([seed])
        except HistoryFailed as failed:
            print(smallest(seed) or failed)
            return 1
    took_s = time.perf_counter() - started
    print(
        f"{count} histories, {turns} turns in {took_s:.1f} s: "
        f"{count / took_s:.0f} histories/s, {turns / took_s:.0f} turns/s; every invariant holds"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
