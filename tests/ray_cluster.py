"""A real cluster of Ray on this machine: a head and nodes, each with its own loopback address."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from head_and_workers import Head
from subtitled.config import schema

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMORY_BYTES = 80 * 2**20
"""Size of a node's object store, which is not used here; Ray's minimum."""
ATTEMPTS = 3
"""Ray gives a node half a minute to start, which is too little on a loaded machine."""


class RayCluster:
    """Nodes with CPU slots instead of GPUs; a context manager that ends all their processes."""

    def __init__(self) -> None:
        # Its sockets' paths may have 107 bytes, so that pytest's own folders are too deep.
        self.folder = Path(tempfile.mkdtemp(prefix="subtitled-ray-"))
        self._before = {name: os.environ.get(name) for name in self.environ}
        self._count = 1

    @property
    def environ(self) -> Mapping[str, str]:
        """Environment of all processes of the cluster, and of those that join it."""
        # Ray starts workers at nice 15: beside other tests on the same cores they would hardly run.
        niceness = {"RAY_worker_niceness": "0"}
        return {"RAY_TMPDIR": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0", **niceness}

    def __enter__(self) -> Self:
        os.environ.update(self.environ)
        from ray.cluster_utils import Cluster

        options: dict[str, Any] = {"temp_dir": str(self.folder / "ray"), "include_dashboard": False}
        self._cluster = Cluster()
        try:
            self._started(**self._node(0), **options)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Address of its head."""
        return str(self._cluster.address)

    def add(self, slots: int = 1) -> Any:
        """Add a node with room for so many workers, and return it."""
        return self._started(wait=False, **self._node(slots))

    def kill(self, node: Any) -> None:
        """Kill a node, as a power failure does."""
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any) -> None:
        """Announce the end of a node, as a cloud does before it reclaims a machine."""
        options = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the spot market")
        deadline = ("--deadline-remaining-seconds", "300")
        command = (Path(sys.executable).with_name("ray"), "drain-node", "--address", self.address)
        subprocess.run([*command, "--node-id", node.node_id, *options, *deadline], check=True)

    def _started(self, **options: Any) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._cluster.add_node(**options)
            except Exception as error:
                if "timed out during startup" not in str(error) or attempt == ATTEMPTS:
                    raise
        raise AssertionError

    def _node(self, slots: int) -> dict[str, Any]:
        self._count += 1
        return {
            "num_cpus": slots,
            "object_store_memory": MEMORY_BYTES,
            "node_ip_address": f"127.0.0.{self._count}",
        }


class RayHead(Head):
    """A daemon without a device of its own, whose workers Ray places."""

    def __init__(self, folder: Path, cluster: RayCluster, **ray: Any) -> None:
        """`ray`: keys of the section that replace those for a test."""
        self.cluster_folder = cluster.folder
        wanted = {"gpus_per_worker": 0, "idle_s": 600.0, "max_workers": 2, **ray}
        super().__init__(
            folder,
            hosts=(),
            environ=cluster.environ,
            ray=schema.RayConfig(address=cluster.address, **wanted),
            pool=schema.PoolConfig(devices=(), engine="ray", prepare_workers=1),
        )

    @property
    def dropped(self) -> int:
        """How many files were put into its inbox."""
        return self._dropped

    def log_of(self, event: str, worker: str) -> list[dict[str, Any]]:
        """Return the log's lines of one event of one worker."""
        return [entry for entry in self.log(event) if entry["worker"] == worker]
