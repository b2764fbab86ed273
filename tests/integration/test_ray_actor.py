"""The worker process of a Ray actor: its key, its exit reason, and that it ends with its actor."""

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
reported = {"mode": oct(os.stat(path).st_mode & 0o777), "links": os.stat(path).st_nlink, "twice": open(path).read() == open(path).read()}
print("not JSON", file=sys.stderr)
print(json.dumps({"event": "x", "cause": json.dumps({**reported, "name": open(path).readlines()[2].strip()})}), file=sys.stderr)
print(json.dumps({"event": "later"}), file=sys.stderr)
sys.exit(78)
"""
_RUNS_AN_ACTOR = """
import sys, time
from subtitled.ray.actor import ActorSettings, WorkerActor
actor = WorkerActor()
actor.start(ActorSettings(number=1, endpoint=sys.argv[1], key=sys.argv[2], device="cpu", cpu_threads=1, stop_timeout_s=60, log_level="info"))
print(actor._process.result().pid, flush=True)
actor.wait()
"""


def actor_settings() -> ActorSettings:
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


def test_the_key_is_in_memory_and_readable_by_its_owner_only() -> None:
    """It can be read again: a worker that restarts itself does."""
    actor = WorkerActor((sys.executable, "-c", _READS_ITS_KEY))
    assert actor.start(actor_settings()).place.endswith("-7")
    ended = actor.wait()
    assert ended == ActorEnded(
        status=78, cause='{"mode": "0o600", "links": 0, "twice": true, "name": "name = \\"ray\\""}'
    )


def test_a_worker_stops_on_request() -> None:
    actor = WorkerActor()
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(actor.wait)
        actor.stop()  # before the start: does nothing
        actor.start(actor_settings())
        actor.stop()
        assert ended.result(120).status in {
            0,
            -signal.SIGTERM,
        }  # the latter before its handlers are installed


def test_a_worker_ends_with_its_actor() -> None:
    settings = actor_settings()
    command = (sys.executable, "-c", _RUNS_AN_ACTOR, settings.endpoint, settings.key)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pid = int(process.stdout.readline())
        assert "session.waiting" in process.stderr.readline()
        process.kill()
    eventually(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "the worker has ended")


def test_the_repr_of_actor_settings_has_no_key() -> None:
    settings = actor_settings()
    assert settings.key not in repr(settings)
    assert "secret" not in repr(settings)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
