"""The machines of a Ray cluster, and how many workers fit on each."""

from __future__ import annotations

from msgspec import Struct


class RayNode(Struct, frozen=True, kw_only=True):
    """One machine with the resources that Ray may assign."""

    hostname: str
    address: str
    gpus: float
    cpus: float


def room(node: RayNode, *, gpus: float, cpus: float) -> int:
    """Return how many workers with these needs fit on an idle node."""
    needs = ((node.gpus, gpus), (node.cpus, cpus))
    return min((int(has / needed) for has, needed in needs if needed), default=0)
