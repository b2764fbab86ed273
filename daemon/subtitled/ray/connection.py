"""The connection to Ray: its address, its nodes, whether it is still there.

Ray itself waits minutes for a cluster that does not answer, and ends the process that has lost its head. So it is looked at first,
and now and then, through a plain connection.
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
"""The address that starts a cluster of this machine alone."""
DIAL_S = 5.0
NO_USAGE_REPORT = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Ray would tell its makers of each cluster that it starts."""


class RayConnection:
    """Is connected from the beginning until `close`. One of them in a process, which belongs to its main thread."""

    def __init__(self, address: str) -> None:
        """`address`: as in `ray.address`. Raises SubtitledError where nothing answers there, or is of another version."""
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
        """Return where its head listens, HOST:PORT."""
        return self._head or str(ray.get_runtime_context().gcs_address)

    def nodes(self) -> list[RayNode]:
        """Return the machines that are there."""
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
        """Return the nodes, by id, that are to go soon; none where this release of Ray does not tell."""
        from ray._private import state

        tell = getattr(state.state, "get_draining_nodes", None)
        return frozenset(tell()) if tell else frozenset()

    @staticmethod
    def own_address() -> str:
        """Return the address by which the cluster knows this machine."""
        return str(ray.util.get_node_ip_address())

    @staticmethod
    def close() -> None:
        """Let go of the cluster; what was started through this connection ends."""
        ray.shutdown()


def head_of(address: str) -> str:
    """Return HOST:PORT of the head, as Ray would find it; raises SubtitledError where there is none."""
    try:
        return str(services.canonicalize_bootstrap_address_or_die(address))
    except (ConnectionError, ValueError, OSError) as error:
        raise SubtitledError(
            f"ray.address {address}: no cluster is known to this machine; start Ray on it (ray start), or name its head, HOST:PORT"
        ) from error


def why_unreachable(head: str) -> str:
    """Return why nothing answers at HOST:PORT; "" if something does."""
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), DIAL_S).close()
    except (OSError, ValueError) as error:
        return str(error)
    return ""
