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


def received(
    folder: Path, message: pr.FromWorker, *models: NamedModelConfig, metrics: Metrics | None = None
) -> list[ev.Event]:
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
        metrics=metrics or Metrics(),
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


def test_unloads_of_a_failed_load_are_counted_by_the_names_of_configured_models(tmp_path: Path) -> None:
    """A worker on another host may report any names: they must not become labels."""
    metrics = Metrics()
    refused = pr.LeaseRefused(lease=1, cause="out of memory", is_model_fault=True, evicted=("", "any"))
    received(tmp_path, refused, metrics=metrics)
    samples = [one for family in metrics.model_unloads.collect() for one in family.samples]
    counted = {one.labels["model"]: one.value for one in samples if one.name.endswith("_total")}
    assert counted == {Config().model.name: 1}
