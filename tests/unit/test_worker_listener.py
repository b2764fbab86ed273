"""What the listener for worker processes of this host accepts, with a real socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zmq

from subtitled.config.schema import Config, ListenConfig, NamedModelConfig
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.broker import Broker
from subtitled.core.policy import Policy
from subtitled.observability.metrics import Metrics
from subtitled.workers.local_listener import WorkerListener
from subtitled.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from pathlib import Path

WAIT_MS = 60_000
PINNED, OTHER = "0" * 64, "1" * 64


def received(folder: Path, message: pr.FromWorker, *models: NamedModelConfig) -> list[ev.Event]:
    """Return the events of a message from the worker cpu0.1."""
    unused: Any = None
    config = Config(listen=ListenConfig(workers=f"ipc://{folder}/workers"), models=models)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    listener = WorkerListener(
        config,
        [],
        context=context,
        authenticator=unused,
        call_back=unused,
        supervisor=Supervisor({}),
        broker=Broker(Policy()),
        metrics=Metrics(),
        store=unused,
        monitor=unused,
    )
    worker = context.socket(zmq.DEALER)
    worker.setsockopt(zmq.IDENTITY, b"cpu0.1")
    worker.connect(config.listen.workers)
    worker.send_multipart([bytes(frame) for frame in pr.from_worker.encode(message)])
    assert listener.poll(WAIT_MS)
    events, _ = listener.receive()
    listener.close()
    context.destroy(linger=0)
    return events
