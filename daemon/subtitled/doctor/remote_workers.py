"""Checks of workers on other hosts: listener, keys, state in the running daemon, Ray's nodes."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec

from msgspec import Struct

from subtitle import Client, StatsInfo, SubtitleError
from subtitle.messages import WorkerFacts
from subtitled.config.checks import RAY_REMEDY
from subtitled.config.schema import Config
from subtitled.doctor.finding import Finding, ProbeMessage, ProbeStarted, fault, ok, skipped, warning
from subtitled.doctor.sockets import is_running
from subtitled.errors import SubtitledError
from subtitled.network.auth import server_key_path
from subtitled.ray.nodes import RayNode, room
from subtitled.version import VERSION

ANSWER_S = 10.0
MAX_SKEW_MS = 1000.0
"""Maximum difference of two clocks at which the times in two logs are comparable."""
_LOADED = frozenset({"idle", "busy"})
_RAY_REMEDY = "see `ray status`; this machine must be a node of the cluster"
_LOG_COMMAND = "journalctl -u 'subtitled-worker@*' -n 20 -o cat"


def check(config: Config) -> Iterator[Finding]:
    """Check the listener, then every host of `remote.keys`; blocks for some seconds at most."""
    listen = config.remote.listen
    if not listen:
        remedy = 'set remote.listen = "tcp://0.0.0.0:8700", and restart the daemon; see docs/cluster.md'
        yield fault("remote.listen", "is off: no worker on another host can join", remedy)
        return
    if not config.remote.keys and config.pool.engine == "ray":
        yield ok("remote.keys", "none: only Ray's workers join, with their own key")
    elif not config.remote.keys:
        remedy = "type: subtitled keys new HOST --worker"
        yield warning("remote.keys", "no key: no host can join", remedy)
    else:
        hosts = ", ".join(sorted(config.remote.keys))
        yield ok("remote.keys", f"{hosts}; each needs the public half of {server_key_path(config)}")
    if not is_running(config):
        yield skipped("cluster", "no daemon runs here")
        return
    yield reach_finding(listen, _reach_error(listen))
    stats = _stats(config)
    if isinstance(stats, Finding):
        yield stats
        return
    yield from host_findings(config.remote.keys, stats)


def reach_finding(listen: str, error: OSError | None) -> Finding:
    """Return the finding about a connection to the listener from this host."""
    if error is None:
        return ok(listen, "can be reached from this host")
    remedy = "restart the daemon after remote.listen was changed; then see its log for remote.listening"
    return fault(listen, f"cannot be reached from this host: {error}", remedy)


def host_findings(keys: Mapping[str, str], stats: StatsInfo) -> Iterator[Finding]:
    """Return findings about every host from the daemon's facts about its workers."""
    workers = [worker for worker in stats.workers if worker.is_remote]
    for host in sorted({*keys, *(_host(worker) for worker in workers)}):
        yield from _host_findings(host, [worker for worker in workers if _host(worker) == host])
    digests = {worker.model_digest: worker.slot for worker in workers if worker.model_digest}
    if len(digests) > 1:
        listed = ", ".join(f"{slot} has {digest[:12]}…" for digest, slot in digests.items())
        yield fault("weights", listed, "set model.digest to the right one, and restart the daemon")
    elif digests:
        (digest,) = digests
        yield ok("weights", f"the same on all hosts: SHA-256 {digest}")
    if workers:
        yield ok("release", f"{VERSION} on all hosts: the daemon refuses others")


def _host_findings(host: str, workers: list[WorkerFacts]) -> Iterator[Finding]:
    name = f"host {host}"
    loaded = [worker for worker in workers if worker.state in _LOADED]
    for worker in workers:
        if worker.state == "broken":
            remedy = f"fix the cause; on {host}: {_LOG_COMMAND}"
            yield fault(f"worker {worker.slot}", f"is broken: {worker.cause}", remedy)
    if not loaded:
        ended = next((worker.cause for worker in workers if worker.cause), "")
        text = f"no worker is connected: {ended}" if ended else "no worker is connected"
        remedy = f"start one; if one runs, its log has the reason: on {host}, {_LOG_COMMAND}"
        yield warning(name, text, remedy)
        return
    away_ms = max(worker.round_trip_ms for worker in loaded)
    yield ok(name, f"{len(loaded)} workers connected, round trip {away_ms:.1f} ms")
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
        return skipped("cluster", "listen.clients has no local socket to query the daemon")
    try:
        with Client(local, timeout_s=ANSWER_S) as client:
            return client.stats()
    except SubtitleError as error:
        return fault(local, str(error), "see `journalctl -u subtitled -n 50 -o cat`")


def _reach_error(listen: str) -> OSError | None:
    host, _, port = listen.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    here = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - as configured
    try:
        with socket.create_connection((here, int(port)), timeout=ANSWER_S):
            return None
    except OSError as error:
        return error


class RayProbe(Struct, frozen=True, kw_only=True):
    """What the workers need of Ray."""

    address: str
    gpus: float
    """For each worker, as `cpus`."""
    cpus: float


def ray_probe_of(config: Config) -> RayProbe:
    """Return the probe for the configuration."""
    wanted = config.ray
    return RayProbe(address=wanted.address, gpus=wanted.gpus_per_worker, cpus=wanted.cpus_per_worker)


def probe_ray(settings: RayProbe) -> Iterator[ProbeMessage]:
    """Connect to the cluster as the daemon does, and check its nodes."""
    if find_spec("ray") is None:
        yield fault("ray", "is not installed", f"type: {RAY_REMEDY}")
        return
    yield ProbeStarted(name="ray", remedy=_RAY_REMEDY)
    from subtitled.ray.connection import RayConnection

    try:
        cluster = RayConnection(settings.address)
    except SubtitledError as error:
        what, _, remedy = str(error).rpartition("; ")
        yield fault("ray", what, remedy)
        return
    yield ok("ray", f"{version('ray')}, the same as at its head {cluster.address}; this machine is a node")
    yield nodes_finding(cluster.nodes(), settings)
    cluster.close()


def nodes_finding(nodes: Sequence[RayNode], settings: RayProbe) -> Finding:
    """Check whether a node has room for a worker."""
    listed = ", ".join(f"{node.hostname} ({node.gpus:g} GPUs, {node.cpus:g} cores)" for node in nodes)
    places = sum(room(node, gpus=settings.gpus, cpus=settings.cpus) for node in nodes)
    if not places:
        wanted = f"{settings.gpus:g} GPUs and {settings.cpus:g} cores"
        remedy = "add a node, unless an autoscaler adds it on demand; or change ray.gpus_per_worker"
        return warning("nodes", f"no node has {wanted} for a worker: {listed}", remedy)
    return ok("nodes", f"room for {places} workers in all: {listed}")
