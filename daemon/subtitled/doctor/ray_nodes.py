"""Ray: installed, reached, of the same release as its head; the nodes on which workers may be placed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec

from msgspec import Struct

from subtitled.config.checks import RAY_REMEDY
from subtitled.config.schema import Config
from subtitled.doctor.finding import Finding, ProbeStarted, Said, fault, ok, warning
from subtitled.errors import SubtitledError
from subtitled.ray.nodes import RayNode, room

NAME = "ray"
_REMEDY = "see `ray status`, and whether this machine is a node of the cluster"


class RayProbe(Struct, frozen=True, kw_only=True):
    """What is asked of Ray."""

    address: str
    gpus: float
    """For each worker, as `cpus`."""
    cpus: float


def asked_of(config: Config) -> RayProbe:
    """Return what the configuration asks of Ray."""
    wanted = config.ray
    return RayProbe(address=wanted.address, gpus=wanted.gpus_per_worker, cpus=wanted.cpus_per_worker)


def reached(settings: RayProbe) -> Iterator[Said]:
    """Connect to the cluster as the daemon's own process does, and look at its nodes."""
    if find_spec("ray") is None:
        yield fault(NAME, "is not installed", f"type: {RAY_REMEDY}")
        return
    yield ProbeStarted(name=NAME, remedy=_REMEDY)
    from subtitled.ray.connection import RayConnection

    try:
        cluster = RayConnection(settings.address)
    except SubtitledError as error:
        what, _, remedy = str(error).rpartition("; ")
        yield fault(NAME, what, remedy)
        return
    yield ok(NAME, f"{version('ray')}, as at its head {cluster.address}, of which this machine is a node")
    yield nodes_finding(cluster.nodes(), settings)
    cluster.close()


def nodes_finding(nodes: Sequence[RayNode], settings: RayProbe) -> Finding:
    """Judge whether there is a node for a worker."""
    told = ", ".join(f"{node.hostname} ({node.gpus:g} GPUs, {node.cpus:g} cores)" for node in nodes)
    places = sum(room(node, gpus=settings.gpus, cpus=settings.cpus) for node in nodes)
    if not places:
        wanted = f"{settings.gpus:g} GPUs and {settings.cpus:g} cores"
        remedy = "add one, unless an autoscaler does when workers are asked for; or see ray.gpus_per_worker"
        return warning("nodes", f"none has {wanted} for a worker: {told}", remedy)
    return ok("nodes", f"have room for {places} workers in all: {told}")
