"""The server's side of the worker protocol: processes, their socket, and the PCM that passes through."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import zmq

from subtitle.codec import Buffer
from subtitle.errors import ProtocolError
from subtitled import log
from subtitled.asr.cuda import Device
from subtitled.config.schema import Config
from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as be
from subtitled.core.broker import Broker
from subtitled.core.config_mapping import engine_of, readable_folders
from subtitled.core.live_jobs import BYTES_PER_SAMPLE
from subtitled.core.records import Lease, Role, SegmentKey
from subtitled.media.existing_subtitles import unless_of
from subtitled.network.auth import Authenticator
from subtitled.network.sockets import bind_workers
from subtitled.observability.metrics import Metrics
from subtitled.observability.monitor import Monitor
from subtitled.storage.store import Store
from subtitled.version import VERSION
from subtitled.workers.admission import ModelWeightsCheck
from subtitled.workers.lease_sender import LeaseSender
from subtitled.workers.remote_listener import RemoteListener
from subtitled.workers.supervisor import Supervisor

MAX_PER_TURN = 256
"""Messages taken in one turn, so that no flood of one kind holds up the others."""
_log = log.get()


class WorkerListener:
    """Starts workers, sends them work, turns what they say into events; on the thread of the server's loop."""

    def __init__(
        self,
        config: Config,
        devices: list[Device],
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        authenticator: Authenticator,
        call_back: Callable[[Callable[[], None]], None],
        supervisor: Supervisor,
        broker: Broker,
        metrics: Metrics,
        store: Store,
        vitals: Monitor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bind the sockets; raises SubtitledError where that cannot be done.

        `call_back`, called in another thread, has a function called in the loop's.
        """
        self._config = config
        self._clock = clock
        self._devices = {device.slot: device for device in devices}
        self._socket = bind_workers(context, config.listen.workers)
        self.gate: RemoteListener | None = None
        """The door for workers on other hosts, where the configuration has one."""
        self._shipping: LeaseSender | None = None
        if config.remote.listen:
            self.gate = RemoteListener(
                config, context, authenticator=authenticator, broker=broker, metrics=metrics, clock=clock
            )
            self._shipping = LeaseSender(self.gate, broker, config.remote.wire_codec, call_back)
        self._weights = self.gate.weights if self.gate else ModelWeightsCheck(config.model.digest)
        self._supervisor = supervisor
        self._broker = broker
        self._metrics = metrics
        self._store = store
        self._metrics.gpus.devices = tuple(devices)
        self._vitals = vitals
        self.languages: tuple[str, ...] = ()
        """Languages that the loaded model has tokens for; none before it is loaded."""
        self._pcm: dict[SegmentKey, zmq.Frame] = {}
        """The frames as they came: sent on, they share ZeroMQ's own memory. A view of one would be wrapped anew, and its release
        told to Python by a thread of pyzmq's, for every segment."""

    def reconfigure(self, config: Config, devices: list[Device]) -> None:
        """Take over another configuration, for the processes that are started from now on."""
        self._config = config
        self._devices = {device.slot: device for device in devices}
        self._metrics.gpus.devices = tuple(devices)
        if self.gate is not None and self._shipping is not None:
            self.gate.reconfigure(config)
            self._shipping.mode = config.remote.wire_codec

    def slots(self, *, has_model: bool) -> list[tuple[str, Role]]:
        """Return the slots that the configuration asks for; without the model those that need it are left out."""
        wanted = self._config.pool.prepare_workers
        count = max(2, min(8, (os.cpu_count() or 1) // 4)) if wanted == "auto" else wanted
        slots = [(f"prepare{place}", Role.PREPARE) for place in range(count)]
        return slots + [(slot, Role.TRANSCRIBE) for slot in self._devices if has_model]

    def spawn(self, slot: str, identity: str) -> None:
        """Start a process in a slot."""
        device = self._devices.get(slot)
        settings = self._settings(identity, (Role.TRANSCRIBE if device else Role.PREPARE).value, device)
        self._supervisor.spawn(settings, visible_devices=device.visible if device else "")

    def spawn_fetch(self, identity: str) -> None:
        """Start the process that brings the model to this machine."""
        self._supervisor.spawn(self._settings(identity, "fetch", None), visible_devices="")

    def _settings(self, identity: str, role: str, device: Device | None) -> be.WorkerSettings:
        config = self._config
        cpu_slots = sum(other.kind == "cpu" for other in self._devices.values())
        return be.WorkerSettings(
            identity=identity,
            role=role,
            endpoint=config.listen.workers,
            parent_pid=os.getpid(),
            heartbeat_s=config.recovery.heartbeat_s,
            log_level=config.log.level,
            log_format=config.log.format,
            device=device.kind if device else "",
            wants_digest=bool(config.remote.listen or config.model.digest),
            cpu_threads=config.model.cpu_threads or max(1, (os.cpu_count() or 1) // max(1, cpu_slots)),
            engine=engine_of(config, is_gpu=device is not None and device.kind == "cuda"),
            readable=readable_folders(config) if role == Role.PREPARE.value else (),
            memory_bytes=config.pool.prepare_memory_mb * 2**20,
        )

    def send(self, worker: str, message: be.ToWorker, blobs: Sequence[zmq.Frame] = ()) -> None:
        """Send a message; one to a worker that is gone is dropped."""
        if self.gate is not None and is_remote(worker):
            self.gate.send(worker, message)
            return
        frames = [worker.encode(), *be.to_worker.encode(message), *blobs]
        try:
            self._socket.send_multipart(frames, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                raise
            # Its process is ending; the pidfd will tell, and what it held goes out again.

    def send_lease(self, lease: Lease, message: be.Transcribe) -> None:
        """Send a lease with its PCM."""
        slot = lease.worker.rpartition(".")[0]
        self._metrics.count_lease(
            slot,
            (len(self._pcm[item.key]) // BYTES_PER_SAMPLE for item in message.items),
            window_samples=self._broker.window_samples or lease.samples,
            batch_size=self._broker.lease_dispatch.batch_size(self._broker.worker_table.workers[slot]),
        )
        sounds = [(item.key, self._pcm[item.key]) for item in message.items]
        if self._shipping is not None and is_remote(lease.worker):
            self._shipping.send(lease.worker, message, sounds)
        else:
            self.send(lease.worker, message, [pcm for _, pcm in sounds])
        self._vitals.sent(slot)

    def send_prepare(self, action: ac.SendPrepare) -> None:
        """Send the order to read a file, unless it has subtitles already."""
        message = action.message
        if message.plans is None:
            rule = unless_of(action.job, self._store.outputs_of_source)
            message = msgspec.structs.replace(message, skip_rule=rule)
        self.send(action.worker, message)

    def drop_pcm(self, key: SegmentKey) -> None:
        """Forget a segment's PCM."""
        self._pcm.pop(key, None)
        if self._shipping is not None:
            self._shipping.forget(key)

    def receive(self) -> tuple[list[ev.Event], list[SegmentKey]]:
        """Return what the workers have said as events, and the segments whose PCM came along.

        Once the events are handled, `handled` is to be called with the segments.
        """
        events: list[ev.Event] = []
        stored: list[SegmentKey] = []
        for _ in range(MAX_PER_TURN):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            worker = bytes(identity.buffer).decode("utf-8", "replace")
            try:
                message, blobs = be.from_worker.decode([frame.buffer for frame in frames])
            except ProtocolError as error:
                _log.warning(log.WORKER_LOST, worker=worker, cause=f"spoke nonsense: {error}")
                continue
            if isinstance(message, be.Prepared) and not _has_its_pcm(message, blobs):
                cause = (
                    f"segment of {message.plan.samples} samples, {[len(blob) for blob in blobs]} bytes of PCM"
                )
                _log.warning(log.WORKER_LOST, worker=worker, cause=f"spoke nonsense: {cause}")
                continue
            if isinstance(message, be.Prepared) and (key := self._keep_pcm(worker, message, frames[-1])):
                stored.append(key)
            events += self._events(worker, message)
        if self.gate is not None:
            events += self.gate.receive(self._clock(), self._events)
        return events, stored

    def kill(self, worker: str, cause: str) -> None:
        """End a worker; one on another host is told that it is not known any more. Nothing happens if it is gone."""
        if self.gate is not None and is_remote(worker):
            self.gate.dismiss(worker, cause)
        else:
            self._supervisor.kill(worker)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What the loop waits for."""
        return [self._socket, *([self.gate.door.socket] if self.gate else [])]

    @property
    def is_hopeless(self) -> bool:
        """There are transcribe workers, and starting any of them again cannot help."""
        workers = list(self._broker.worker_table.of(Role.TRANSCRIBE))
        return bool(workers) and all(worker.is_permanently_broken for worker in workers)

    def poll(self, wait_ms: int) -> bool:
        """Wait so long for a worker of this host to say something."""
        return bool(self._socket.poll(wait_ms))

    @property
    def patience_s(self) -> float:
        """How long `receive` may be left uncalled when nothing comes."""
        return self.gate.patience_s(self._clock()) if self.gate else float("inf")

    def close(self) -> None:
        """Close the sockets."""
        if self._shipping is not None:
            self._shipping.close()
        self._socket.close()
        if self.gate is not None:
            self.gate.close()

    def handled(self, keys: Iterable[SegmentKey]) -> None:
        """Note that the broker has handled what was received: who has joined is answered, PCM that it had no use for forgotten."""
        if self.gate is not None:
            self.gate.welcome(self._clock())
        for key in keys:
            segment = self._broker.live_jobs.find(key)
            if segment is None or not segment.has_pcm:
                self._pcm.pop(key, None)

    def _keep_pcm(self, worker: str, message: be.Prepared, pcm: zmq.Frame) -> SegmentKey | None:
        found = self._broker.prepare_dispatch.find(worker, message.feed)
        if found is None:
            return None
        key = SegmentKey(found[1].job, message.plan.index)
        self._pcm.setdefault(key, pcm)
        return key

    def _events(self, worker: str, message: be.FromWorker) -> list[ev.Event]:
        if isinstance(message, be.WorkerReady):
            return self._on_ready(worker, message)
        if isinstance(message, be.ExitReason):
            self._supervisor.note_last_words(worker, message.cause)
        self._account(worker.rpartition(".")[0], worker, message)
        return [ev.MessageReceived(worker, message)]

    def _account(self, slot: str, worker: str, message: be.FromWorker) -> None:
        """Let metrics and log have what a message says of work done."""
        match message:
            case be.PlanComplete(decode_s=decode_s, vad_s=vad_s) if decode_s:
                self._metrics.stage_seconds.labels("decode").observe(decode_s)
                self._metrics.stage_seconds.labels("vad").observe(vad_s)
            case be.Transcribed(items=items, decode_s=decode_s, load_s=load_s):
                if load_s:
                    self._metrics.model_loads.labels(slot).inc()
                    _log.info(log.MODEL_LOADED, worker=worker, load_s=round(load_s, 2))
                self._metrics.lease_seconds.labels(slot).observe(decode_s)
                self._metrics.count_results(_summary(item) for item in items)
                self._metrics.stage_seconds.labels("features").observe(message.features_s)
                self._metrics.stage_seconds.labels("transcribe").observe(decode_s)
                self._vitals.answered(slot, decode_s)
            case be.ModelUnloaded():
                self._metrics.model_unloads.labels(slot).inc()
                _log.info(log.MODEL_UNLOADED, worker=worker)
            case _:
                pass

    def _on_ready(self, worker: str, message: be.WorkerReady) -> list[ev.Event]:
        slot = worker.rpartition(".")[0]
        if cause := self._why_refused(worker, message):
            self._supervisor.note_last_words(worker, cause)
            self._supervisor.kill(worker)
            return []
        device = self._devices.get(slot)
        name = message.device if is_remote(worker) else device.name if device else "CPU"
        if message.window_samples is not None:
            self.languages = message.languages
            if message.load_s:
                self._metrics.model_loads.labels(slot).inc()
            _log.info(
                log.WORKER_READY,
                worker=worker,
                device=name,
                model=message.model,
                batch_size=message.batch_size,
                load_s=round(message.load_s, 2),
                digest=message.model_digest[:12],
            )
        return [ev.MessageReceived(worker, msgspec.structs.replace(message, device=name))]

    def _why_refused(self, worker: str, message: be.WorkerReady) -> str:
        """Return why a worker of this host is of no use; the gate has looked at the others."""
        if is_remote(worker):
            return ""
        if message.version != VERSION:
            return f"is of version {message.version}, the daemon of {VERSION}; restart the daemon after an upgrade"
        cause = self._weights.why_not(worker, message.model_digest, is_remote=False)
        if self.gate is not None and not cause:
            self.gate.check_weights()
        return cause


def is_remote(worker: str) -> bool:
    """Return whether an identity is that of a worker on another host: HOST/PLACE.N."""
    return "/" in worker


def _summary(item: be.ItemResult) -> be.ResultSummary:
    return msgspec.msgpack.decode(item.result, type=be.ResultSummary)


def _has_its_pcm(message: be.Prepared, blobs: Sequence[Buffer]) -> bool:
    return [len(blob) for blob in blobs] == [message.plan.samples * BYTES_PER_SAMPLE]
