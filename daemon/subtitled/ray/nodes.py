"""The machines of a cluster, and how many workers each has room for."""

from __future__ import annotations

from msgspec import Struct


class RayNode(Struct, frozen=True, kw_only=True):
    """One machine that is there, with what Ray may give away of it."""

    hostname: str
    address: str
    gpus: float
    cpus: float


def room(node: RayNode, *, gpus: float, cpus: float) -> int:
    """Return how many workers that want so much fit on a node without other work."""
    wants = ((node.gpus, gpus), (node.cpus, cpus))
    return min((int(has / wanted) for has, wanted in wants if wanted), default=0)
