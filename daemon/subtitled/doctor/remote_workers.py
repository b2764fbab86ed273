"""Workers on other hosts: the door for them, and what the daemon that runs knows of each."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

from subtitle import Client, StatsInfo, SubtitleError
from subtitle.messages import WorkerFacts
from subtitled.config.schema import Config
from subtitled.doctor.finding import Finding, fault, ok, skipped, warning
from subtitled.doctor.sockets import is_running
from subtitled.network.auth import server_key_path
from subtitled.version import VERSION

ANSWER_S = 10.0
MAX_SKEW_MS = 1000.0
"""Of two clocks; more, and the times in two logs cannot be laid side by side."""
_LOADED = frozenset({"idle", "busy"})
_LOOK = "journalctl -u 'subtitled-worker@*' -n 20 -o cat"


def check(config: Config) -> Iterator[Finding]:
    """Check the door, then every host of `remote.keys` as the daemon sees it; blocks for some seconds at most."""
    listen = config.remote.listen
    if not listen:
        remedy = 'set remote.listen = "tcp://0.0.0.0:8700", and restart the daemon; see docs/cluster.md'
        yield fault("remote.listen", "is off: no worker of another host can join", remedy)
        return
    if not config.remote.keys and config.pool.engine == "ray":
        yield ok("remote.keys", "has none: only the workers that Ray places join, with a key of their own")
    elif not config.remote.keys:
        remedy = "type: subtitled keys new HOST --worker"
        yield warning("remote.keys", "has no key: nobody can join", remedy)
    else:
        hosts = ", ".join(sorted(config.remote.keys))
        yield ok("remote.keys", f"{hosts}; each has to have the public half of {server_key_path(config)}")
    if not is_running(config):
        yield skipped("cluster", "no daemon runs here that could be asked about them")
        return
    yield reach_finding(listen, _reach_error(listen))
    stats = _stats(config)
    if isinstance(stats, Finding):
        yield stats
        return
    yield from host_findings(config.remote.keys, stats)


def reach_finding(listen: str, error: OSError | None) -> Finding:
    """Judge what came of connecting to the door from this host."""
    if error is None:
        return ok(listen, "is open, seen from this host")
    remedy = "restart the daemon after remote.listen was changed; then see its log for remote.listening"
    return fault(listen, f"cannot be reached from this host: {error}", remedy)


def host_findings(keys: Mapping[str, str], stats: StatsInfo) -> Iterator[Finding]:
    """Judge every host by what the daemon knows of its workers."""
    workers = [worker for worker in stats.workers if worker.is_remote]
    for host in sorted({*keys, *(_host(worker) for worker in workers)}):
        yield from _host_findings(host, [worker for worker in workers if _host(worker) == host])
    digests = {worker.model_digest: worker.slot for worker in workers if worker.model_digest}
    if len(digests) > 1:
        told = ", ".join(f"{slot} has {digest[:12]}…" for digest, slot in digests.items())
        yield fault("weights", told, "set model.digest to the right one, and restart the daemon")
    elif digests:
        (digest,) = digests
        yield ok("weights", f"the same everywhere: SHA-256 {digest}")
    if workers:
        yield ok("release", f"{VERSION} everywhere: the door lets no other in")


def _host_findings(host: str, workers: list[WorkerFacts]) -> Iterator[Finding]:
    name = f"host {host}"
    loaded = [worker for worker in workers if worker.state in _LOADED]
    for worker in workers:
        if worker.state == "broken":
            remedy = f"mend that; on {host}: {_LOOK}"
            yield fault(f"worker {worker.slot}", f"is put aside: {worker.cause}", remedy)
    if not loaded:
        ended = next((worker.cause for worker in workers if worker.cause), "")
        text = f"none of its workers is there: {ended}" if ended else "none of its workers is there"
        remedy = f"start one; where one runs, it says why it cannot join: on {host}, {_LOOK}"
        yield warning(name, text, remedy)
        return
    away_ms = max(worker.round_trip_ms for worker in loaded)
    yield ok(name, f"{len(loaded)} of its workers are there, {away_ms:.1f} ms away")
    ahead_ms = max((worker.clock_ahead_ms for worker in loaded), key=abs)
    if abs(ahead_ms) > MAX_SKEW_MS + away_ms:
        way = "ahead of" if ahead_ms > 0 else "behind"
        text = f"its clock is {abs(ahead_ms) / 1000:.1f} s {way} this one"
        yield warning(f"{name} clock", text, "type on both: timedatectl set-ntp true")
    else:
        yield ok(f"{name} clock", f"agrees within {MAX_SKEW_MS / 1000:g} s")


def _host(worker: WorkerFacts) -> str:
    return worker.slot.partition("/")[0]


def _stats(config: Config) -> StatsInfo | Finding:
    local = next((end for end in config.listen.clients if end.startswith("ipc://")), None)
    if local is None:
        return skipped("cluster", "listen.clients has no local socket on which the daemon could be asked")
    try:
        with Client(local, timeout_s=ANSWER_S) as client:
            return client.stats()
    except SubtitleError as error:
        return fault(local, str(error), "look at `journalctl -u subtitled -n 50 -o cat`")


def _reach_error(listen: str) -> OSError | None:
    host, _, port = listen.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    here = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - as configured
    try:
        with socket.create_connection((here, int(port)), timeout=ANSWER_S):
            return None
    except OSError as error:
        return error
