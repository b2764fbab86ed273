"""The network between two hosts is cut for some time during work; afterwards nothing may be missing.

`python tests/integration/network/partition.py --seconds 5 60 300` (or `make partition`; as root) prints each result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/, when this file runs alone

from daemon import eventually
from integration.chaos.chaos import make_recordings, run_undisturbed
from integration.network import hosts
from integration.network.hosts import SLOT
from network_namespaces import Conditions, ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SEED = 20_260_101
CONDITIONS = Conditions(delay_s=0.0025)
RECOVERY = structs.replace(hosts.RECOVERY, silence_s=4.0)
"""Less than the shortest partition, so that each is found out."""


class Outcome(Struct, frozen=True, kw_only=True):
    """The result of one partition."""

    faults: list[str]
    lost_leases: int
    late_results: int
    segments: int
    by_others: int
    """Segments that this host's own workers did."""
    back_s: float
    """From the network's return until the worker had joined again and was ready."""

    def __str__(self) -> str:
        return (
            f"{self.segments} segments, {self.by_others} by others; {self.lost_leases} leases came back, {self.late_results} late "
            f"results dropped; the worker was back after {self.back_s:.1f} s; losses: {len(self.faults)}"
        )


def run(
    folder: Path,
    sources: Sequence[Path],
    expected: Mapping[str, str],
    *,
    seconds: float,
    devices: Sequence[str],
) -> Outcome:
    """Have the network go away for so many seconds when the other host has work, and come back.

    Half of the files come before, half while it is away. `devices` are those of the daemon's own host.
    """
    with hosts.Hosts(folder, conditions=CONDITIONS, devices=devices, recovery=RECOVERY) as both:
        half = len(sources) // 2
        for source in sources[:half]:
            both.daemon.drop(source, source.name)
        both.wait_until_at_work()
        first = both.facts().incarnation
        both.network.change(Conditions(is_cut=True))
        gone_at = time.monotonic()
        for source in sources[half:]:
            both.daemon.drop(source, source.name)
        both.daemon.wait_for_log("worker.lost", worker=f"{SLOT}.{first}")
        time.sleep(max(0.0, seconds - (time.monotonic() - gone_at)))
        both.network.change(CONDITIONS)
        came_at = time.monotonic()
        eventually(lambda: both.wait_for_worker().incarnation > first, "the worker has joined again")
        back_s = time.monotonic() - came_at
        faults = both.check_files(expected)
        done = both.done_by()
        if not devices and set(done) != {SLOT}:
            faults.append(f"segments were done by {sorted(done)}")
        outcome = Outcome(
            faults=faults,
            lost_leases=len(both.daemon.log("lease.lost")),
            late_results=len(both.daemon.log("lease.stale")),
            segments=done.total(),
            by_others=done.total() - done[SLOT],
            back_s=back_s,
        )
        both.daemon.stop()
    return outcome


def main() -> int:
    """Run all lengths, with and without a worker beside the daemon; exit 0 only without losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5, 60, 300])
    parser.add_argument("--files", type=int, default=16)
    chosen = parser.parse_args()
    losses = 0
    with tempfile.TemporaryDirectory(prefix="subtitled-partition-") as name:
        folder = Path(name)
        for part in ("media", "undisturbed"):
            (folder / part).mkdir()
        sources = make_recordings(folder / "media", chosen.files, SEED)
        expected, _ = run_undisturbed(folder / "undisturbed", sources)
        for seconds in chosen.seconds:
            for devices in ((), ("cpu",)):
                place = folder / f"{seconds:g}-{len(devices)}"
                place.mkdir()
                try:
                    outcome = run(place, sources, expected, seconds=seconds, devices=devices)
                except ForbiddenError as error:
                    print(error)
                    return 2
                losses += len(outcome.faults)
                others = "with a worker here" if devices else "alone"
                print(f"{seconds:>5g} s, {others}: {outcome}", *outcome.faults, sep="\n  ", flush=True)
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
