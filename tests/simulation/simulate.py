"""Runs many histories: `python tests/simulation/simulate.py N [FIRST_SEED]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from history import HistoryFailed, MakeBroker, World
from replay import smallest

from subtitled.core.broker import Broker

HISTORIES = 3000
"""How many `make test` lives."""
PROGRESS = 10_000
"""Histories between two lines of a long run."""


def simulate(seeds: Iterable[int], make_broker: MakeBroker = Broker) -> int:
    """Live a history for each seed; return the steps taken. Raises HistoryFailed at the first that fails."""
    steps = 0
    for seed in seeds:
        world = World(seed, make_broker)
        world.run()
        steps += world.steps
    return steps


def main(argv: list[str]) -> int:
    """Run from the command line; exit status 1 when a history failed."""
    count = int(argv[0]) if argv else HISTORIES
    first = int(argv[1]) if len(argv) > 1 else 0
    started = time.perf_counter()
    steps = 0
    for seed in range(first, first + count):
        if (lived := seed - first) and lived % PROGRESS == 0:
            print(f"{lived} histories, {lived / (time.perf_counter() - started):.0f}/s", flush=True)
        try:
            steps += simulate([seed])
        except HistoryFailed as failed:
            print(smallest(seed) or failed)
            return 1
    took_s = time.perf_counter() - started
    print(
        f"{count} histories, {steps} steps in {took_s:.1f} s: "
        f"{count / took_s:.0f} histories/s, {steps / took_s:.0f} steps/s; no promise broken"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
