"""The daemon's clients' side alone: real sockets, files, threads and database, and no worker that would do the jobs."""

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
"""What the model that nobody loads would know."""


def described(content: bytes) -> dict[str, Any]:
    """Return what a Submit says of a file."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class Visitor:
    """One connection to the front: raw frames out, headers in."""

    def __init__(self, front: Front, endpoint: str, key: Key | None = None) -> None:
        self._front = front
        self.socket = front.context.socket(zmq.DEALER)
        if key is not None:
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, key.server.encode())
        self.socket.connect(endpoint)

    def send(self, frames: Sequence[bytes]) -> None:
        """Send frames as they are."""
        self.socket.send_multipart(list(frames))

    def tell(self, type_: str, *blobs: bytes, request: int = 7, **fields: Any) -> None:
        """Send a message."""
        self.send([b"\x01", msgspec.msgpack.encode({"type": type_, "request": request, **fields}), *blobs])

    def hear(self, *passed_over: str) -> dict[str, Any]:
        """Return the header of the next answer that is of none of these types."""
        while True:
            self._front.turn_until(lambda: bool(self.socket.poll(0)), "an answer")
            version, header, *_ = self.socket.recv_multipart()
            assert version == b"\x01"
            said: dict[str, Any] = msgspec.msgpack.decode(header)
            if said["type"] not in passed_over:
                return said

    def ask(self, type_: str, *blobs: bytes, request: int = 7, **fields: Any) -> dict[str, Any]:
        """Send a message and return the header of what is answered; journal entries are passed over."""
        self.tell(type_, *blobs, request=request, **fields)
        return self.hear("Event")

    def submit(self, content: bytes, **fields: Any) -> dict[str, Any]:
        """Send the Submit of an upload."""
        return self.ask("Submit", request=1, **{**described(content), **fields})


class Front:
    """A context manager; all of it belongs to the thread of the test, which has to `turn` it."""

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
        self.reception = ApiServer(
            self.config,
            self.context,
            authenticator=self._authenticator,
            store=self.store,
            broker=self.broker,
            happen=self.happen,
            call_back=self._mailbox.put,
            metrics=self.metrics,
            languages=lambda: LANGUAGES,
        )
        self._perform(self.broker.restore(self.store.unfinished(), time.monotonic()))
        self.reception.start()
        self._visitors: list[Visitor] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for visitor in self._visitors:
            visitor.socket.close(linger=0)
        self.reception.close()
        self._authenticator.stop()
        self.context.term()
        self._mailbox.close()
        self.store.close()

    def visitor(self, key: Key | None = None, endpoint: str | None = None) -> Visitor:
        """Return a new connection."""
        self._visitors.append(Visitor(self, endpoint or self.endpoint, key))
        return self._visitors[-1]

    def happen(self, event: Event) -> None:
        """Do what the server's loop does with an event, as far as it concerns clients."""
        self._perform(self.broker.handle([event], time.monotonic()))

    def _perform(self, actions: list[ac.Action]) -> None:
        entries = self.store.apply([action for action in actions if isinstance(action, ac.Save)])
        for action in actions:
            if isinstance(action, ac.SaveJob) and action.event is not None:
                self.reception.job_changed(action.job)
        self.reception.tell_watchers(entries)

    def turn(self) -> None:
        """Do one turn of the loop, as long as nothing comes 20 ms."""
        poller = zmq.Poller()
        for waited in (*self.reception.sockets, self._mailbox.fileno()):
            poller.register(waited, zmq.POLLIN)
        poller.poll(20)
        for come_back in self._mailbox.drain():
            come_back()
        self.reception.receive()

    def turn_until(self, is_there: Callable[[], bool], what: str) -> None:
        """Turn until something is the case."""
        deadline = time.monotonic() + DEADLINE_S
        while not is_there():
            assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:g} s"
            self.turn()

    def reconfigure(self, **sections: Any) -> None:
        """Put other sections of the configuration into force."""
        self.config = structs.replace(self.config, **sections)
        self.reception.reconfigure(self.config)

    @contextmanager
    def stalled_disk(self) -> Iterator[None]:
        """Have nothing written meanwhile: the threads that write are held up."""
        pool = self.reception._aside.pool
        over = threading.Event()
        held = [pool.submit(over.wait) for _ in range(pool._max_workers)]
        try:
            yield
        finally:
            over.set()
            for waiting in held:
                waiting.result(DEADLINE_S)

    def facts(self, job: str) -> ms.JobFacts:
        """Return a job as an admin sees it."""
        return self.reception.desk.facts(job)
