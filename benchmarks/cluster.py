"""How far one daemon feeds GPUs on other hosts, and what a slow link leaves of them.

    python benchmarks/cluster.py [--only busy|bend|link] [--nodes 2,4,8] [--workers 8,16,32] [--seconds 40]

The daemon as it is, without a GPU of its own, and hosts that are processes: each worker has a socket of its own, with CURVE, and
speaks as `subtitled worker` does, but only waits for the time that a GPU takes (see pool.py: 108 x real time, an RTX 3090 with
large-v3-turbo). Every lease has its real PCM, 960,000 bytes for 30 s. What a host sends or gets is held for half a round trip.

    busy    so many workers on so many hosts: the share of the time that they decode, while there is work; `steady` in the middle
            half of it, without the first leases, of one segment each, for which nothing was read ahead
    bend    as many workers, but of GPUs that are 2, 4, 8… times as fast, until the daemon cannot keep up: the segments a second that
            it passes on in the middle half of the work, how many GPUs' worth that is, and its processor time for a segment
    link    one host behind a link of so many Mbit/s (two network namespaces; needs root): what PCM, FLAC and "auto" get through, in
            seconds of audio a second

To hold: 32 workers at least 95 % busy with a round trip of 5 ms.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from daemon import free_port
from network_namespaces import HEAD_ADDRESS, Conditions, ForbiddenError, Network
from parts.load import BATCH, GPU, PREPARERS, Files, Run, figures, workloads, write
from parts.processes import cpu_s, machine
from parts.served import Served
from parts.waiting import Timing, services
from subtitle.keys import Key, new_pair, save_key
from subtitled.network.auth import server_key

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = Path(__file__).parent / "parts"
ROUND_TRIP_S = 0.005
PORT = 8700
"""In a network of our own; elsewhere a free one."""


def measure(
    workload: list[Files],
    *,
    nodes: int,
    workers: int,
    timing: Timing,
    round_trip_s: float = ROUND_TRIP_S,
    codec: str = "auto",
    network: Network | None = None,
) -> Run:
    """Have a fresh daemon do a workload with so many workers on so many hosts, which are all behind `network`."""
    with tempfile.TemporaryDirectory(prefix="cluster-") as name, ExitStack() as stack:
        folder = Path(name)
        server = server_key(folder / "daemon" / "state" / "server.key").public
        keys = {f"node{number}": new_pair() for number in range(nodes)}
        for host, (public, secret) in keys.items():
            save_key(folder / f"{host}.toml", Key(name=host, public=public, secret=secret, server=server))
        address, port = (HEAD_ADDRESS, PORT) if network else ("127.0.0.1", free_port())
        allowed = ", ".join(f'{host} = "{public}"' for host, (public, _) in keys.items())
        daemon = stack.enter_context(
            Served(
                folder / "daemon",
                model="demo",  # is installed already, and is not loaded
                batch_size=BATCH,
                devices=(),
                # Two leases for each worker and one more in line: see `pool.queue_mb` in docs/tuning.md.
                pool=f"prepare_workers = {PREPARERS}\nqueue_mb = {max(512, workers * 3 * BATCH)}",
                remote=f'listen = "tcp://{address}:{port}"\nkeys = {{{allowed}}}\nwire_codec = "{codec}"',
                stop_timeout_s=0,
                prefix=network.on_head if network else (),
                command=_head,
            )
        )
        for place, host in enumerate(keys):
            share = workers // nodes + (place < workers % nodes)
            words = (folder / "daemon", f"tcp://{address}:{port}", folder / f"{host}.toml", share)
            numbers = (timing.a_s, timing.b_s, round_trip_s)
            command = (sys.executable, PARTS / "node.py", *words, *numbers)
            before = network.on_gpu if network else ()
            stack.callback(_end, subprocess.Popen((*before, *map(str, command)), stdin=subprocess.PIPE))
        daemon.wait_until_ready(PREPARERS + workers)
        copies = daemon.stage(write(folder, workload))
        used_s = cpu_s([daemon.pid])
        daemon.subtitle(copies)
        used_s = cpu_s([daemon.pid]) - used_s
        stack.close()
        return figures(services(folder / "daemon"), workers, used_s)


def _head(config: Path) -> Sequence[str]:
    return (sys.executable, str(PARTS / "simulated_gpus.py"), str(config), "0", "0", "0")


def _end(node: subprocess.Popen[bytes]) -> None:
    """Have a node write what its engines have done, and go."""
    node.communicate()
    if node.returncode:
        raise SystemExit(f"a node ended with status {node.returncode}")


def show_busy(nodes: Sequence[int], workers: Sequence[int], seconds: float) -> None:
    """Print how busy so many workers are, on the given numbers of hosts in turn."""
    print(f"engines that take {GPU.a_s} s + {GPU.b_s} s x segments, round trip {ROUND_TRIP_S * 1000:g} ms")
    print(
        f"{'workers':>8}{'hosts':>7}{'segments':>10}{'leases':>8}{'took':>9}{'busy':>9}{'steady':>9}{'MB/s':>8}{'cpu':>10}"
    )
    for hosts, count in zip(nodes, workers, strict=True):
        run = measure(workloads(count, seconds, 0)["1 job"], nodes=hosts, workers=count, timing=GPU)
        print(
            f"{count:>8}{hosts:>7}{run.segments:>10}{run.leases:>8}{run.took_s:>7.1f} s{run.busy:>9.1%}"
            f"{run.steady:>9.1%}{_mb_per_s(run):>8.1f}{run.cpu_us:>7.0f} µs",
            flush=True,
        )


def show_bend(hosts: int, workers: int, factors: Sequence[int], seconds: float) -> None:
    """Print how many GPUs' worth of work gets through one daemon."""
    print(f"{workers} workers on {hosts} hosts, each as fast as so many such GPUs; round trip as before")
    print(
        f"{'codec':<6}{'GPUs':>6}{'wanted':>10}{'passed on':>12}{'MB/s':>8}{'steady':>9}{'worth':>8}{'cpu':>10}"
    )
    for codec in ("pcm", "flac"):
        for factor in factors:
            timing = Timing(GPU.a_s / factor, GPU.b_s / factor)
            wanted = workers * BATCH / (timing.a_s + timing.b_s * BATCH)
            work = [Files(8, max(workers * 4, round(wanted * seconds / 8)), 30)]
            run = measure(work, nodes=hosts, workers=workers, timing=timing, codec=codec)
            print(
                f"{codec:<6}{workers * factor:>6}{wanted:>8.0f}/s{run.per_s:>10.0f}/s{_mb_per_s(run):>8.1f}"
                f"{run.steady:>9.1%}{workers * factor * run.per_s / wanted:>8.0f}{run.cpu_us:>7.0f} µs",
                flush=True,
            )


def show_link(mbits: Sequence[float], workers: int, seconds: float) -> None:
    """Print what gets through a link, by its rate and what is sent over it."""
    print(f"{workers} workers on one host behind a link, round trip {ROUND_TRIP_S * 1000:g} ms; x real time")
    print(f"{'Mbit/s':>8}{'pcm':>10}{'flac':>10}{'auto':>10}{'no limit':>10}")
    for mbit in mbits:
        wanted = workers * BATCH / (GPU.a_s + GPU.b_s * BATCH)
        row = []
        for codec in ("pcm", "flac", "auto"):
            conditions = Conditions(delay_s=ROUND_TRIP_S / 2, bytes_per_s=mbit * 1e6 / 8)
            carried = mbit * 1e6 / 8 / 960_000
            # As much as the link or the GPUs do in so many seconds; FLAC gets twice as much through.
            count = max(2 * BATCH, round(min(wanted, 2 * carried) * seconds))
            with Network(conditions) as network:
                run = measure(
                    [Files(1, count, 30)],
                    nodes=1,
                    workers=workers,
                    timing=GPU,
                    round_trip_s=0,
                    codec=codec,
                    network=network,
                )
            row.append(30 * run.segments / run.took_s)
        print(f"{mbit:>8g}{''.join(f'{speed:>10.1f}' for speed in row)}{30 * wanted:>10.1f}", flush=True)


def _mb_per_s(run: Run) -> float:
    """Return the audio on the wire in the middle half of the work."""
    return run.wire_bytes / run.segments * run.per_s / 1e6


def main() -> None:
    """Print one table or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("busy", "bend", "link"))
    parser.add_argument("--nodes", type=_numbers, default=(2, 4, 8), metavar="N,N…")
    parser.add_argument("--workers", type=_numbers, default=(8, 16, 32), metavar="N,N…")
    parser.add_argument("--seconds", type=float, default=40, help="that each run keeps the workers at work")
    parser.add_argument("--factors", type=_numbers, default=(1, 2, 4, 8, 16), metavar="N,N…")
    parser.add_argument("--mbits", type=_numbers, default=(5, 10, 20, 50, 100, 200), metavar="N,N…")
    options = parser.parse_args()
    print(machine())
    if options.only in {None, "busy"}:
        show_busy(options.nodes, options.workers, options.seconds)
    if options.only in {None, "bend"}:
        show_bend(options.nodes[-1], options.workers[-1], options.factors, options.seconds)
    if options.only in {None, "link"}:
        try:
            show_link(options.mbits, 2, options.seconds)
        except ForbiddenError as error:
            print(f"no table of links: {error}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
