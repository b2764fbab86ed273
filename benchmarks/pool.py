"""How busy one broker keeps many GPUs, and how many segments a second go through it.

    python benchmarks/pool.py [--workers 1,2,4,8,16,64] [--seconds 12] [--only busy|rate] [--profile FILE]

The daemon as it is (its loop, database, inbox, sockets), with workers whose engines only wait: `a + b x segments` seconds for a
lease, which is what a GPU takes. a and b are fitted to speaches' published figures for large-v3-turbo on an RTX 3090: 43 x real
time one window at a time, 108 x in batches of 8, so 30 s windows take 0.70 s singly and 2.22 s by eights. Every segment has its
real PCM, 30 s (960,000 bytes) in the long jobs, which goes through two sockets. So that 64 workers fit on two cores, they live in two
processes, each worker with a socket and an identity of its own; and the prepare workers do not decode, they send.

    busy    engine time over the time from the first lease's start to the last one's, of all workers: while there is work
    whole   the same to the last lease's end, with the tail in which some workers have nothing left to do
    cpu     the daemon's processor time for a segment

Then engines that take next to no time, which shows the most that the broker can pass on. To hold: 8 workers at least 97 % busy with one
job; at least 2,000 segments a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from parts.load import AT_ONCE, BATCH, GPU, PREPARERS, Files, Run, figures, workloads, write
from parts.processes import cpu_s, machine
from parts.served import Served
from parts.waiting import Timing, services

SIMULATED_GPUS = Path(__file__).parent / "parts" / "simulated_gpus.py"


def measure(workload: list[Files], workers: int, timing: Timing, *, profile: str | None = None) -> Run:
    """Have a fresh daemon do a workload."""
    with tempfile.TemporaryDirectory(prefix="pool-") as name:
        folder = Path(name)

        def command(config: Path) -> list[str]:
            given = (str(workers), str(timing.a_s), str(timing.b_s))
            return [sys.executable, str(SIMULATED_GPUS), str(config), *given, *([profile] if profile else [])]

        # Two leases for each worker and one more in line: see `pool.queue_mb` in docs/tuning.md.
        queue_mb = max(512, workers * 3 * BATCH)
        with Served(
            folder / "daemon",
            model="demo",  # is installed already, and is not loaded
            batch_size=BATCH,
            pool=f"prepare_workers = {PREPARERS}\nqueue_mb = {queue_mb}",
            stop_timeout_s=0,
            command=command,
        ) as daemon:
            daemon.wait_until_ready()
            copies = daemon.stage(write(folder, workload))
            before = cpu_s([daemon.pid])
            daemon.subtitle(copies)
            used_s = cpu_s([daemon.pid]) - before
        done = services(folder / "daemon")
    return figures(done, workers, used_s)


def main() -> None:
    """Run all workloads with all numbers of workers, then without waiting; print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=_numbers, default=(1, 2, 4, 8, 16, 64), metavar="N,N…")
    parser.add_argument(
        "--seconds", type=float, default=12, help="that the long jobs keep the workers at work"
    )
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument(
        "--segments", type=int, default=4000, help="that go through engines that take next to no time"
    )
    parser.add_argument(
        "--lengths", type=_numbers, default=(30, 5), metavar="S,S…", help="seconds of these segments"
    )
    parser.add_argument("--repeat", type=int, default=1, help="the best counts")
    parser.add_argument("--only", choices=("busy", "rate"))
    parser.add_argument(
        "--profile", metavar="FILE", help="of the last run's daemon, for pstats; slows it down"
    )
    options = parser.parse_args()
    print(machine())
    if options.only != "rate":
        print(f"engines that take {GPU.a_s} s + {GPU.b_s} s x segments, batch: {BATCH}")
        print(
            f"{'':<12}{'workers':>8}{'segments':>10}{'leases':>8}{'took':>9}{'busy':>9}{'whole':>9}{'cpu':>10}"
        )
        for workers in options.workers:
            for name, workload in workloads(workers, options.seconds, options.clips).items():
                run = max(
                    (measure(workload, workers, GPU, profile=options.profile) for _ in range(options.repeat)),
                    key=lambda run: run.busy,
                )
                print(
                    f"{name:<12}{workers:>8}{run.segments:>10}{run.leases:>8}{run.took_s:>7.1f} s{run.busy:>9.1%}"
                    f"{run.whole:>9.1%}{run.cpu_us:>7.0f} µs",
                    flush=True,
                )
    if options.only != "busy":
        print(f"engines that take {AT_ONCE.a_s} s for a lease")
        print(f"{'':<12}{'workers':>8}{'segments':>10}{'leases':>8}{'took':>9}{'segments/s':>12}{'cpu':>10}")
        for seconds in options.lengths:
            for workers in options.workers:
                count = options.segments
                run = max(
                    (
                        measure([Files(8, count // 8, seconds)], workers, AT_ONCE, profile=options.profile)
                        for _ in range(options.repeat)
                    ),
                    key=lambda run: run.segments / run.took_s,
                )
                print(
                    f"{f'{seconds} s each':<12}{workers:>8}{run.segments:>10}{run.leases:>8}{run.took_s:>7.1f} s"
                    f"{run.segments / run.took_s:>12.0f}{run.cpu_us:>7.0f} µs",
                    flush=True,
                )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
