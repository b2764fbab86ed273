"""The connection to Ray: its address, its nodes, and whether it answers.

Ray itself waits minutes for a cluster that does not answer, and ends a process that has lost the head. So the head is
checked with a plain TCP connection, first and repeatedly.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import ray
from ray._private import services

from subtitled.errors import SubtitledError
from subtitled.ray.nodes import RayNode

LOCAL = "local"
"""The address that starts a cluster on this host only."""
CONNECT_TIMEOUT_S = 5.0
NO_USAGE_REPORT = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Ray would send usage reports to its developers."""


class RayConnection:
    """Connected from creation until `close`. One in a process; belongs to its main thread."""

    def __init__(self, address: str) -> None:
        """`address`: as in `ray.address`. Raises SubtitledError if nothing answers there, or its version differs."""
        os.environ.update(NO_USAGE_REPORT)
        self._head = "" if address == LOCAL else head_of(address)
        if self._head and (cause := why_unreachable(self._head)):
            raise SubtitledError(
                f"ray.address {address}: nothing answers at {self._head} ({cause}); start Ray there (ray start --head), "
                "or correct the address"
            )
        options: dict[str, Any] = {} if self._head else {"include_dashboard": False}
        try:
            ray.init(
                address=self._head or LOCAL,
                namespace="subtitled",
                configure_logging=False,
                log_to_driver=False,
                **options,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            cause = " ".join(str(error).split())
            raise SubtitledError(
                f"ray.address {address}: {cause}; this machine must be a node of the cluster (ray start --address={self._head or 'HOST:PORT'}), "
                "with the same versions of Ray and Python"
            ) from error

    @property
    def address(self) -> str:
        """Address of the head, HOST:PORT."""
        return self._head or str(ray.get_runtime_context().gcs_address)

    def nodes(self) -> list[RayNode]:
        """Return the machines that are alive."""
        return [
            RayNode(
                address=found["NodeManagerAddress"],
                hostname=found["NodeManagerHostname"],
                gpus=found["Resources"].get("GPU", 0.0),
                cpus=found["Resources"].get("CPU", 0.0),
            )
            for found in ray.nodes()
            if found["Alive"]
        ]

    @staticmethod
    def draining() -> frozenset[str]:
        """Return the ids of draining nodes; empty if this release of Ray does not report them."""
        from ray._private import state

        draining = getattr(state.state, "get_draining_nodes", None)
        return frozenset(draining()) if draining else frozenset()

    @staticmethod
    def own_address() -> str:
        """Return this machine's address in the cluster."""
        return str(ray.util.get_node_ip_address())

    @staticmethod
    def close() -> None:
        """Disconnect; everything started through this connection ends."""
        ray.shutdown()


def head_of(address: str) -> str:
    """Return HOST:PORT of the head, as Ray finds it; raises SubtitledError if there is none."""
    try:
        return str(services.canonicalize_bootstrap_address_or_die(address))
    except (ConnectionError, ValueError, OSError) as error:
        raise SubtitledError(
            f"ray.address {address}: no cluster found on this machine; start Ray on it (ray start), or set the head's HOST:PORT"
        ) from error


def why_unreachable(head: str) -> str:
    """Return why HOST:PORT does not answer; "" if it does."""
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        return str(error)
    return ""
