"""The API server in this process, with real sockets, store and upload folder; invariants are checked at the end."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

import zmq
from message_generator import MessageGenerator, load_corpus

from subtitle import messages as ms
from subtitled.api.connection_limits import resident_bytes
from subtitled.api.server import UPLOADS_FOLDER, ApiServer
from subtitled.config import schema
from subtitled.core import actions as ac
from subtitled.core.broker import Broker
from subtitled.core.config_mapping import plan_settings_of, policy_of
from subtitled.core.events import CancelRequested
from subtitled.core.states import JobState
from subtitled.network.auth import Authenticator
from subtitled.observability.metrics import Metrics
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from subtitled.core.events import Event

CLIENTS = 4
BATCH = 16
"""Messages that each client sends before the server runs; as many as its socket holds."""
LIFE = 20_000
"""Mean number of messages of a connection, which is then closed; all jobs of its client are cancelled."""
GROWTH_BYTES = 300 * 2**20
CODES = frozenset(
    {
        *("BAD_FORMAT", "BAD_VERSION", "UNKNOWN_MESSAGE", "TOO_BIG", "NOT_FOUND", "FORBIDDEN", "WRONG_STATE"),
        *("RATE_LIMITED", "HASH_MISMATCH", "NO_SPACE", "UNSUPPORTED"),
    }
)
"""Error codes that a client may receive; INTERNAL would be a fault of the daemon."""


class InvariantError(AssertionError):
    """An invariant of the daemon is violated; the message names it."""


class ApiFuzzer:
    """An API server and its clients; a context manager. All files are in `folder`, all sockets in one thread."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._media = folder / "media"
        self._media.mkdir()
        (self._media / "a.wav").write_bytes(b"RIFF")
        (folder / "x").write_bytes(b"secret")
        endpoint = f"ipc://{folder}/c"
        found = schema.Config(
            model=schema.ModelConfig(name="demo"),
            listen=schema.ListenConfig(clients=(endpoint,), requests_per_s=100_000),
            uploads=schema.UploadsConfig(
                max_open=8, max_file_mb=1, max_spool_mb=4, paths=(str(self._media),)
            ),
            state=schema.StateConfig(dir=str(folder / "state"), reserve_mb=1),
        )
        (folder / "state").mkdir()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.store = Store(str(folder / "state" / "subtitled.sqlite"))
        self._broker = Broker(policy_of(found), plan_settings=plan_settings_of(found))
        self._called: deque[Callable[[], None]] = deque()
        self._server = ApiServer(
            found,
            self._context,
            authenticator=Authenticator(self._context),
            store=self.store,
            broker=self._broker,
            dispatch=self._dispatch,
            call_in_loop=self._called.append,
            metrics=Metrics(),
            languages=dict,
        )
        self._server.start()
        self._rng = random.Random(seed)
        self._endpoint = endpoint
        self._corpus = load_corpus()
        self._generators = [self._connect() for _ in range(CLIENTS)]
        self._before_bytes = 0
        self.messages = self.frames = self.answers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _generator, socket in self._generators:
            socket.close()
        self._server.close()
        self.store.close()
        self._context.term()

    def run(self, frames: int) -> None:
        """Send so many frames; InvariantError or any error of the server is raised."""
        until = self.frames + frames
        while self.frames < until:
            for index, (generator, socket) in enumerate(self._generators):
                for _ in range(BATCH):
                    if not socket.poll(0, zmq.POLLOUT):
                        break  # its queue is full, and nothing reads it while we wait
                    message = generator.next_message() or [b""]
                    socket.send_multipart(message)
                    self.frames += len(message)
                    self.messages += 1
                if self._rng.random() < CLIENTS * BATCH / LIFE:
                    socket.close()
                    self._generators[index] = self._connect()
                    self._end_jobs()
            self._turn()
            self._before_bytes = self._before_bytes or resident_bytes()
            if resident_bytes() > self._before_bytes + GROWTH_BYTES:
                raise InvariantError(f"memory grew from {self._before_bytes} to {resident_bytes()} bytes")

    def settle(self) -> None:
        """Process all that is queued, then check what is left."""
        deadline = time.monotonic() + 60
        self._end_jobs()
        while self._violation() and time.monotonic() < deadline:
            self._turn()
            self._end_jobs()  # also those of messages that were in transit
            time.sleep(0.01)
        if violation := self._violation():
            raise InvariantError(violation)

    def _connect(self) -> tuple[MessageGenerator, zmq.Socket[bytes]]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(self._endpoint)
        rng = random.Random(self._rng.random())
        return MessageGenerator(rng, self._corpus, folder=str(self._media)), socket

    def _turn(self) -> None:
        """Run one turn of the server's loop, then read all answers."""
        self._server.receive()
        while self._called:
            self._called.popleft()()
        for generator, socket in self._generators:
            while socket.poll(0):
                message, _ = ms.to_client.decode(socket.recv_multipart())
                self.answers += 1
                if isinstance(message, ms.Error) and message.code not in CODES:
                    raise InvariantError(f"a client received {message.code}: {message.message}")
                if isinstance(message, ms.Error) and len(message.message) > 2000:
                    raise InvariantError(f"an Error of {len(message.message)} characters")
                generator.receive(message)

    def _dispatch(self, event: Event) -> None:
        actions = self._broker.handle([event], time.monotonic())
        entries = self.store.apply([action for action in actions if isinstance(action, ac.Save)])
        for action in actions:
            if isinstance(action, ac.SaveJob) and action.event is not None:
                self._server.job_changed(action.job)
        self._server.send_to_watchers(entries)

    def _open_jobs(self) -> list[str]:
        states = (JobState.RECEIVING, JobState.QUEUED)
        return [row.job.id for row in self.store.list_jobs(states, limit=100_000)]

    def _end_jobs(self) -> None:
        for job in self._open_jobs():
            self._dispatch(CancelRequested(job))

    def _violation(self) -> str:
        """Return what is left over once every job has ended; empty if nothing is."""
        state = self._folder / "state"
        if jobs := self._open_jobs():
            return f"jobs that do not end: {jobs}"
        if self._server.uploads.count:
            return f"{self._server.uploads.count} uploads are open, of jobs that have ended"
        if left := list(state.glob(f"{UPLOADS_FOLDER}/*")):
            return f"files of jobs that have ended: {left}"
        names = {path.name for path in self._folder.iterdir()}
        if strange := names - {"media", "state", "x", "c"}:
            return f"files outside the state: {strange}"
        if strange := {
            path.name for path in state.iterdir() if not path.name.startswith("subtitled.sqlite")
        } - {UPLOADS_FOLDER}:
            return f"files in the state: {strange}"
        if os.listdir(self._media) != ["a.wav"]:  # noqa: PTH208 - names are all that matters
            return "the media that clients may name has changed"
        with contextlib.closing(sqlite3.connect(state / "subtitled.sqlite")) as database:
            ((sound,),) = database.execute("PRAGMA integrity_check")
            if sound != "ok":
                return f"the database: {sound}"
            for (location,) in database.execute("SELECT location FROM jobs"):
                if not location.startswith(
                    (os.fsencode(state / UPLOADS_FOLDER) + b"/", os.fsencode(self._media) + b"/")
                ):
                    return f"a job of a file outside: {location!r}"
        return ""
