"""The API server alone: real sockets, files, threads and database, and no worker."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import zmq
from msgspec import structs

from subtitle import messages as ms
from subtitled.api.server import ApiServer
from subtitled.config import schema
from subtitled.core import actions as ac
from subtitled.core.broker import Broker
from subtitled.core.policy import Policy
from subtitled.core.protocol import Media
from subtitled.core.records import Job, Options
from subtitled.core.states import JobEvent, JobState
from subtitled.network.auth import Authenticator
from subtitled.observability.metrics import Metrics
from subtitled.runtime.mailbox import Mailbox
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from subtitle.keys import Key
    from subtitled.core.events import Event

DEADLINE_S = 60.0
LANGUAGES = ("en", "zh")
"""The languages of the model, which is not loaded."""


def described(content: bytes) -> dict[str, Any]:
    """Return the fields of a Submit that describe a file."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class RawClient:
    """One connection to the harness: raw frames out, headers in."""

    def __init__(self, api: ApiHarness, endpoint: str, key: Key | None = None) -> None:
        self._api = api
        self.socket = api.context.socket(zmq.DEALER)
        if key is not None:
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, key.server.encode())
        self.socket.connect(endpoint)

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames unchanged."""
        self.socket.send_multipart(list(frames))

    def send_message(self, type_: str, *blobs: bytes, request: int = 7, **fields: Any) -> None:
        """Send a message."""
        self.send([b"\x01", msgspec.msgpack.encode({"type": type_, "request": request, **fields}), *blobs])

    def receive(self, *skipped: str) -> dict[str, Any]:
        """Return the header of the next answer whose type is not `skipped`."""
        while True:
            self._api.turn_until(lambda: bool(self.socket.poll(0)), "an answer")
            version, encoded, *_ = self.socket.recv_multipart()
            assert version == b"\x01"
            header: dict[str, Any] = msgspec.msgpack.decode(encoded)
            if header["type"] not in skipped:
                return header

    def request(self, type_: str, *blobs: bytes, request: int = 7, **fields: Any) -> dict[str, Any]:
        """Send a message and return the header of its answer; journal entries are skipped."""
        self.send_message(type_, *blobs, request=request, **fields)
        return self.receive("Event")

    def submit(self, content: bytes, **fields: Any) -> dict[str, Any]:
        """Send the Submit of an upload."""
        return self.request("Submit", request=1, **{**described(content), **fields})


class ApiHarness:
    """A context manager; all of it belongs to the thread of the test, which calls `turn`."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        """`sections` replace those of the configuration."""
        self.folder = folder
        self.endpoint = f"ipc://{folder}/clients.sock"
        self.config = schema.Config(
            **{
                "model": schema.ModelConfig(name="large-v3-turbo"),
                "inbox": (),
                "listen": schema.ListenConfig(clients=(self.endpoint,)),
                "state": schema.StateConfig(dir=str(folder), reserve_mb=1),
                **sections,
            }
        )
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.store = Store(str(folder / "subtitled.sqlite"))
        self.broker = Broker(Policy())
        self.metrics = Metrics()
        self._mailbox: Mailbox[Callable[[], None]] = Mailbox()
        self._authenticator = Authenticator(self.context)
        self.server = ApiServer(
            self.config,
            self.context,
            authenticator=self._authenticator,
            store=self.store,
            broker=self.broker,
            dispatch=self.dispatch,
            call_in_loop=self._mailbox.put,
            metrics=self.metrics,
            languages=lambda: {"": LANGUAGES},
        )
        unfinished, is_paused = self.store.unfinished(), self.store.is_queue_paused()
        self._perform(self.broker.restore(unfinished, time.monotonic(), is_paused=is_paused))
        self.server.start()
        self._clients: list[RawClient] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.socket.close(linger=0)
        self.server.close()
        self._authenticator.stop()
        self.context.term()
        self._mailbox.close()
        self.store.close()

    def connect(self, key: Key | None = None, endpoint: str | None = None) -> RawClient:
        """Return a new connection."""
        self._clients.append(RawClient(self, endpoint or self.endpoint, key))
        return self._clients[-1]

    def ended_job(self, state: JobState = JobState.DONE, **fields: Any) -> Job:
        """Store a job that is done or failed, without results; return it. `fields` replace its own."""
        order = self.store.next_order()
        values: dict[str, Any] = {
            "id": f"job-{order}",
            "source": b"/in/talk.wav",
            "location": b"/in/talk.wav",
            "size": 7,
        }
        values |= {"state": JobState.WRITING, "mtime_ns": order, "options": Options(), "order": order}
        job = Job(**{**values, **fields})
        self.store.apply([ac.SaveNewJob(job)])
        ended = structs.replace(job, state=state, is_closed=state is JobState.FAILED)
        event = JobEvent.WRITTEN if state is JobState.DONE else JobEvent.WRITE_FAILED
        media = msgspec.msgpack.encode(Media())
        self.store.apply([ac.SaveJob(job=ended, before=job.state, event=event, media=media)])
        return ended

    def dispatch(self, event: Event) -> None:
        """Process an event as the daemon's loop does, as far as it concerns clients."""
        self._perform(self.broker.handle([event], time.monotonic()))

    def _perform(self, actions: list[ac.Action]) -> None:
        entries = self.store.apply([action for action in actions if isinstance(action, ac.Save)])
        for action in actions:
            if isinstance(action, ac.SaveJob) and action.event is not None:
                self.server.job_changed(action.job)
        self.server.send_to_watchers(entries)

    def turn(self) -> None:
        """Run one turn of the loop, which waits 20 ms at most."""
        poller = zmq.Poller()
        for waited in (*self.server.sockets, self._mailbox.fileno()):
            poller.register(waited, zmq.POLLIN)
        poller.poll(20)
        for callback in self._mailbox.drain():
            callback()
        self.server.receive()

    def turn_until(self, is_true: Callable[[], bool], what: str) -> None:
        """Run turns until `is_true`; AssertionError after DEADLINE_S."""
        deadline = time.monotonic() + DEADLINE_S
        while not is_true():
            assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:g} s"
            self.turn()

    def reconfigure(self, **sections: Any) -> None:
        """Apply other sections of the configuration."""
        self.config = structs.replace(self.config, **sections)
        self.server.reconfigure(self.config)

    @contextmanager
    def stalled_folder(self, folder: str) -> Iterator[None]:
        """Block the path lookups of a folder, as a mount that hangs; "": of paths elsewhere."""
        over = threading.Event()
        self.server._path_threads.of(folder).run(over.wait, lambda _: None)
        try:
            yield
        finally:
            over.set()

    @contextmanager
    def stalled(self, *pools: str) -> Iterator[None]:
        """Block the threads of these pools of the server."""
        over = threading.Event()
        held = [
            pool.submit(over.wait)
            for pool in (self.server._pools[name].pool for name in pools)
            for _ in range(pool._max_workers)
        ]
        try:
            yield
        finally:
            over.set()
            for waiting in held:
                waiting.result(DEADLINE_S)

    def facts(self, job: str) -> ms.JobFacts:
        """Return a job as an admin sees it."""
        return self.server.handlers.facts(job)
