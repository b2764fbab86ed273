"""The worker process of an actor: how it gets its key, what is told of its end, and that it ends with its actor."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from daemon import eventually, free_port
from subtitle.keys import Key, key_text, new_pair
from subtitled.ray.actor import ActorEnded, ActorSettings, WorkerActor

ROOT = Path(__file__).parents[2]
_READS_ITS_KEY = """
import json, os, sys
path = sys.argv[sys.argv.index("--key") + 1]
told = {"mode": oct(os.stat(path).st_mode & 0o777), "links": os.stat(path).st_nlink, "twice": open(path).read() == open(path).read()}
print("not JSON", file=sys.stderr)
print(json.dumps({"event": "x", "cause": json.dumps({**told, "name": open(path).readlines()[2].strip()})}), file=sys.stderr)
print(json.dumps({"event": "later"}), file=sys.stderr)
sys.exit(78)
"""
_HOLDS_A_SEAT = """
import sys, time
from subtitled.cluster.seat import ActorSettings, WorkerActor
seat = WorkerActor()
seat.begin(ActorSettings(number=1, endpoint=sys.argv[1], key=sys.argv[2], device="cpu", cpu_threads=1, stop_timeout_s=60, log_level="info"))
print(seat._process.result().pid, flush=True)
seat.wait()
"""


def orders() -> ActorSettings:
    (public, secret), (server, _) = new_pair(), new_pair()
    return ActorSettings(
        number=7,
        endpoint=f"tcp://127.0.0.1:{free_port()}",
        key=key_text(Key(name="ray", public=public, secret=secret, server=server)),
        device="cpu",
        cpu_threads=1,
        stop_timeout_s=60.0,
        log_level="info",
    )


def test_the_key_is_on_no_disk_and_for_its_owner_alone() -> None:
    """And may be read again: a worker that becomes a clean process does."""
    seat = WorkerActor((sys.executable, "-c", _READS_ITS_KEY))
    assert seat.begin(orders()).place.endswith("-7")
    ended = seat.wait()
    assert ended == ActorEnded(
        status=78, cause='{"mode": "0o600", "links": 0, "twice": true, "name": "name = \\"ray\\""}'
    )


def test_a_worker_leaves_when_it_is_told() -> None:
    seat = WorkerActor()
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(seat.wait)
        seat.leave()  # nobody is there yet
        seat.begin(orders())
        seat.leave()
        assert ended.result(120).status in {0, -signal.SIGTERM}  # the latter before it heeds signals


def test_a_worker_ends_with_its_actor() -> None:
    given = orders()
    command = (sys.executable, "-c", _HOLDS_A_SEAT, given.endpoint, given.key)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as actor:
        assert actor.stdout is not None
        assert actor.stderr is not None
        pid = int(actor.stdout.readline())
        assert "session.waiting" in actor.stderr.readline()
        actor.kill()
    eventually(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "the worker has ended")


def test_orders_show_no_key() -> None:
    given = orders()
    assert given.key not in repr(given)
    assert "secret" not in repr(given)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
