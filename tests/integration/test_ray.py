"""Workers that a real Ray places, on several nodes: files in, subtitles out, whatever becomes of the nodes."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

import media
from daemon import ENDED, Daemon, eventually, free_port
from head_and_workers import Head
from ray_cluster import RayCluster, RayHead
from subtitled.config import schema
from subtitled.doctor.finding import Finding
from subtitled.doctor.remote_workers import RayProbe
from subtitled.doctor.subprocess_probe import run_probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray has no release for this Python")

COPIES = 2
"""Files that wait, or are being transcribed, at any time."""
T = TypeVar("T")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def head(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """Yield a daemon that wants two workers as soon as anything waits, and none three seconds later."""
    folder = tmp_path_factory.mktemp("head")
    with RayHead(folder, cluster, hours_per_worker=0.001, idle_s=3.0) as head:
        head.start()
        yield head
        head.stop()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the subtitles of the demo recording as a worker of this host makes them."""
    with Daemon(tmp_path_factory.mktemp("local")) as daemon:
        source = daemon.start().drop(media.DEMO / "demo.flac", "a.flac")
        daemon.wait_for(source)
        return text_of(daemon.outbox / "a.en.srt")


def text_of(subtitles: Path) -> str:
    """Return subtitles without their times: which segments share a batch may move one by a frame."""
    return "\n".join(line for line in subtitles.read_text("utf-8").splitlines() if "-->" not in line)


class Files:
    """Copies of the demo recording on their way through a daemon, which never runs out of them while it is waited."""

    def __init__(self, head: RayHead) -> None:
        self._head = head
        self._dropped: list[Path] = []

    def eventually(self, probe: Callable[[], T | None], what: str) -> T:
        """Return the first true answer of `probe`, which is asked while there is work for two."""

        def probe_with_work() -> T | None:
            stats = self._head.stats()
            ended = sum(stats.jobs.get(state, 0) for state in ENDED)
            if sum(stats.jobs.values()) == self._head.dropped and self._head.dropped - ended < COPIES:
                name = f"{self._head.dropped}.flac"
                self._dropped.append(self._head.drop(media.DEMO / "demo.flac", name))
            return probe()

        return eventually(probe_with_work, what)

    def texts(self) -> set[str]:
        """Wait until all are done, each segment once; return their jobs."""
        head = self._head
        jobs = {head.wait_for(source).id for source in self._dropped}
        done = Counter(
            (entry.job, entry.name)
            for entry in head.journal()
            if entry.subject == "segment" and entry.after == "done" and entry.job in jobs
        )
        assert set(done.values()) == {1}
        return {text_of(head.outbox / f"{source.stem}.en.srt") for source in self._dropped}


class Nodes:
    """Nodes of one test, which are gone after it."""

    def __init__(self, cluster: RayCluster, head: RayHead) -> None:
        self._cluster, self._head = cluster, head
        self._nodes: list[Any] = []

    def add(self) -> Any:
        """Add a node with room for one worker."""
        self._nodes.append(self._cluster.add())
        return self._nodes[-1]

    def kill(self, node: Any) -> None:
        """End a node as a power cut does."""
        self._nodes.remove(node)
        self._cluster.kill(node)

    def worker_of(self, node: Any, files: Files) -> str:
        """Wait until a worker is placed on a node and has something to do; return its slot."""

        def found() -> str | None:
            placed = (
                str(entry["worker"])
                for entry in self._head.log("ray.placed")
                if node.node_id.startswith(entry["node"])
            )
            return next((slot for slot in placed if self._head.states().get(slot) == "busy"), None)

        return files.eventually(found, f"a worker on {node.node_id} has work")

    def clear(self) -> None:
        """End all that are left."""
        for node in list(self._nodes):
            self.kill(node)


@pytest.fixture
def nodes(cluster: RayCluster, head: RayHead) -> Iterator[Nodes]:
    nodes = Nodes(cluster, head)
    yield nodes
    nodes.clear()


@pytest.mark.long
def test_ray_places_workers_while_there_is_work_and_gets_its_nodes_back(
    head: RayHead, nodes: Nodes, text: str
) -> None:
    """Two by the depth of the queue; none, once they were idle for `ray.idle_s`. No process shows their key."""
    first, second = nodes.add(), nodes.add()
    files = Files(head)
    slots = {nodes.worker_of(first, files), nodes.worker_of(second, files)}
    assert len(slots) == 2
    assert places_of_the_key(head) == []
    assert files.texts() == {text}
    for slot in slots:
        head.wait_for_log("ray.stopped", worker=slot)
        eventually(lambda slot=slot: head.states().get(slot) == "stopped", f"{slot} has stopped")  # type: ignore[misc]


def places_of_the_key(head: RayHead) -> list[Path]:
    """Return the files of Ray and of the daemon, command lines and environments in which the workers' key is."""
    written = [
        path for folder in (head.folder, head.cluster_folder) for path in folder.rglob("*") if path.is_file()
    ]
    reported = [path / name for path in Path("/proc").glob("[0-9]*") for name in ("cmdline", "environ")]
    assert any(path.suffix == ".err" for path in written)  # where an actor's output goes
    found = []
    for path in (*written, *reported):
        with contextlib.suppress(OSError):  # processes and files come and go
            data = path.read_bytes()
            found += [path] if b'name = "ray"' in data or b'"name":"ray"' in data else []
    return found


@pytest.mark.long
def test_a_node_that_dies_loses_nothing_and_doubles_nothing(head: RayHead, nodes: Nodes, text: str) -> None:
    first, second = nodes.add(), nodes.add()
    files = Files(head)
    nodes.worker_of(second, files)
    slot = nodes.worker_of(first, files)
    nodes.kill(first)
    assert files.texts() == {text}
    head.wait_for_log("ray.failed", worker=slot)


@pytest.mark.long
def test_a_node_that_comes_in_the_middle_is_used_and_one_with_notice_finishes_what_it_holds(
    cluster: RayCluster, head: RayHead, nodes: Nodes, text: str
) -> None:
    """The second worker was asked for already, and waits for room. Nothing is taken from the first, nothing done again."""
    first, files = nodes.add(), Files(head)
    slot = nodes.worker_of(first, files)
    nodes.worker_of(nodes.add(), files)
    cluster.drain(first)
    leaving = files.eventually(lambda: next(iter(head.log_of("ray.stopping", slot)), None), f"{slot} leaves")
    assert leaving["cause"] == "its node is being drained"
    head.wait_for_log("ray.stopped", worker=slot)
    assert files.texts() == {text}
    assert [entry for entry in head.log("lease.lost") if entry["worker"].startswith(f"{slot}.")] == []


@pytest.mark.long
def test_without_a_head_of_ray_the_daemon_works_with_what_it_has(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    wanted = schema.RayConfig(address=address, gpus_per_worker=0)
    pool = schema.PoolConfig(devices=("cpu",), engine="ray", prepare_workers=1)
    with Head(tmp_path, hosts=(), ray=wanted, pool=pool) as head:
        head.start()
        reported = head.wait_for_log("ray.unreachable")
        assert address in reported["cause"]
        assert "ray start --head" in reported["cause"]
        assert head.wait_for_log("ray.lost")["again_in_s"] > 0
        assert head.wait_for(head.drop(media.DEMO / "demo.flac", "a.flac")).state == "done"
        head.stop()


def test_the_doctor_looks_at_the_cluster(cluster: RayCluster, nodes: Nodes) -> None:
    nodes.add()
    asked = RayProbe(address=cluster.address, gpus=0, cpus=1)
    found = list(run_probe("ray", asked, timeout_s=120, environ={**os.environ, **cluster.environ}))
    reported = {one.name: one for one in found if isinstance(one, Finding)}
    assert reported["ray"].state == "ok"
    assert f"at its head {cluster.address}" in reported["ray"].message
    assert reported["nodes"].state in {"ok", "warning"}  # the node may be on its way


def test_the_doctor_says_what_to_do_about_a_cluster_that_does_not_answer() -> None:
    address = f"127.0.0.2:{free_port()}"
    (found,) = run_probe("ray", RayProbe(address=address, gpus=1, cpus=1), timeout_s=120)
    assert isinstance(found, Finding)
    assert (found.name, found.state) == ("ray", "fault")
    assert f"nothing answers at {address}" in found.message
    assert found.remedy.startswith("start Ray there (ray start --head)")
