"""The daemon's end of the worker protocol: worker processes, their socket, and the PCM between them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import zmq
from msgspec import structs

from subtitle.errors import ProtocolError
from subtitled import log
from subtitled.asr.cuda import Device
from subtitled.config.model_choice import DEFAULT_MODEL
from subtitled.config.schema import Config
from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.broker import Broker
from subtitled.core.config_mapping import endpoints_of, engine_of, readable_folders
from subtitled.core.live_jobs import BYTES_PER_SAMPLE
from subtitled.core.records import Lease, Role, SegmentKey
from subtitled.media.existing_subtitles import skip_rule_of
from subtitled.network.auth import Authenticator
from subtitled.network.sockets import bind_workers
from subtitled.observability.metrics import Metrics
from subtitled.observability.monitor import Monitor
from subtitled.storage.store import Store
from subtitled.version import VERSION
from subtitled.workers.lease_sender import LeaseSender
from subtitled.workers.pcm_store import PcmStore
from subtitled.workers.remote_listener import RemoteListener
from subtitled.workers.supervisor import Supervisor
from subtitled.workers.validation import ModelWeightsCheck, checked

_READ = pr.PlanComplete | pr.AlreadySubtitled | pr.PrepareRefused | pr.FileUnavailable | pr.FileAbandoned
"""Messages after which a prepare worker writes no more PCM of a file."""
MAX_PER_TURN = 256
"""Messages received in one turn of the loop: a flood must not delay the rest."""
_log = log.get()


class WorkerListener:
    """Starts workers, sends them work, receives their messages; belongs to the thread of the server's loop."""

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
        monitor: Monitor,
        clock: Callable[[], float] = time.monotonic,
        pcm: PcmStore | None = None,
    ) -> None:
        """Bind the sockets; raises SubtitledError if that is not possible.

        `call_back` may be called in any thread, and calls a function in the loop's.
        """
        self._config = config
        self._clock = clock
        self._devices = {device.slot: device for device in devices}
        self._socket = bind_workers(context, config.listen.workers)
        self.remote: RemoteListener | None = None
        """The socket for workers on other hosts, if configured."""
        self._lease_sender: LeaseSender | None = None
        if config.remote.listen:
            self.remote = RemoteListener(
                config, context, authenticator=authenticator, broker=broker, metrics=metrics, clock=clock
            )
            self._lease_sender = LeaseSender(self.remote, broker, config.remote.wire_codec, call_back)
        self._weights = self.remote.weights if self.remote else ModelWeightsCheck(config.model.digest)
        self._supervisor = supervisor
        self._broker = broker
        self._metrics = metrics
        self._store = store
        self._metrics.gpus.devices = tuple(devices)
        self._monitor = monitor
        self.languages: dict[str, tuple[str, ...]] = {}
        """Languages that each model has tokens for, by name; of those that were loaded."""
        self.on_download: Callable[[str, pr.DownloadProgress], None] = lambda _worker, _progress: None
        """Called with the identity of a download process and what it has received."""
        self._other_weights: dict[str, ModelWeightsCheck] = {}
        """Checks of the models besides the default, by name."""
        self.pcm = pcm or PcmStore()

    def reconfigure(self, config: Config, devices: list[Device]) -> None:
        """Apply another configuration to the processes that are started from now on."""
        self._config = config
        self._devices = {device.slot: device for device in devices}
        self._other_weights.clear()
        self._metrics.gpus.devices = tuple(devices)
        if self.remote is not None and self._lease_sender is not None:
            self.remote.reconfigure(config)
            self._lease_sender.mode = config.remote.wire_codec

    def slots(self, *, has_model: bool) -> list[tuple[str, Role]]:
        """Return the configured slots; without the model only those that do not need it."""
        wanted = self._config.pool.prepare_workers
        count = max(2, min(8, (os.cpu_count() or 1) // 4)) if wanted == "auto" else wanted
        slots = [(f"prepare{place}", Role.PREPARE) for place in range(count)]
        slots += [(slot, Role.TRANSLATE) for slot in endpoints_of(self._config)]
        return slots + [(slot, Role.TRANSCRIBE) for slot in self._devices if has_model]

    def spawn(self, slot: str, identity: str) -> None:
        """Start a process in a slot."""
        device = self._devices.get(slot)
        endpoint = endpoints_of(self._config).get(slot)
        if endpoint is not None:
            settings = self._settings(identity, Role.TRANSLATE.value, None)
            self._supervisor.spawn(structs.replace(settings, engine=endpoint), visible_devices="")
            return
        settings = self._settings(identity, (Role.TRANSCRIBE if device else Role.PREPARE).value, device)
        self._supervisor.spawn(settings, visible_devices=device.visible if device else "")

    def spawn_download(self, identity: str, source: str) -> None:
        """Start a process that downloads a model."""
        settings = self._settings(identity, "download", None)
        settings = structs.replace(settings, engine=structs.replace(settings.engine, model=source))
        self._supervisor.spawn(settings, visible_devices="")

    def _settings(self, identity: str, role: str, device: Device | None) -> pr.WorkerSettings:
        config = self._config
        cpu_slots = sum(other.kind == "cpu" for other in self._devices.values())
        return pr.WorkerSettings(
            identity=identity,
            role=role,
            endpoint=config.listen.workers,
            parent_pid=os.getpid(),
            heartbeat_s=config.recovery.heartbeat_s,
            log_level=config.log.level,
            log_format=config.log.format,
            device=device.kind if device else "",
            wants_digest=bool(
                config.remote.listen or config.model.digest or any(model.digest for model in config.models)
            ),
            cpu_threads=config.model.cpu_threads or max(1, (os.cpu_count() or 1) // max(1, cpu_slots)),
            engine=engine_of(config),
            readable=readable_folders(config) if role == Role.PREPARE.value else (),
            memory_bytes=config.pool.prepare_memory_mb * 2**20,
            max_hours=config.pool.max_hours,
        )

    def send(self, worker: str, message: pr.ToWorker, blobs: Sequence[zmq.Frame] = ()) -> None:
        """Send a message; one to a worker that is gone is dropped."""
        if self.remote is not None and is_remote(worker):
            self.remote.send(worker, message)
            return
        if isinstance(message, pr.FeedCredit) and (places := self.pcm.take_free_places(worker, message.feed)):
            message = structs.replace(message, free_places=places)
        frames = [worker.encode(), *pr.to_worker.encode(message), *blobs]
        try:
            self._socket.send_multipart(frames, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                raise
            # Its process is ending; its pidfd becomes readable, and its work is queued again.

    def send_lease(self, lease: Lease, message: pr.Transcribe | pr.Translate) -> None:
        """Send a lease with its PCM."""
        slot = lease.worker.rpartition(".")[0]
        self._metrics.model_leases.labels(self._name_of(lease.model)).inc()
        if isinstance(message, pr.Translate):
            self.send(lease.worker, message)
            self._monitor.sent(slot)
            return
        if message.items:
            self._metrics.count_lease(
                slot,
                (self.pcm.size(item.key) // BYTES_PER_SAMPLE for item in message.items),
                window_samples=self._broker.window_samples or lease.samples,
                batch_size=self._broker.lease_dispatch.batch_size(lease),
            )
        if is_remote(lease.worker):
            if self._lease_sender is not None:
                segments = [(item.key, self.pcm.frame(item.key)) for item in message.items]
                self._lease_sender.send(lease.worker, message, segments)
        else:
            self._send_shared(lease.worker, message)
        self._monitor.sent(slot)

    def _send_shared(self, worker: str, message: pr.Transcribe) -> None:
        """Send a lease to a worker of this host; what is in shared memory, by its descriptors."""
        descriptors, places = self.pcm.shared(item.key for item in message.items)
        if descriptors and self._supervisor.send_descriptors(worker, message.lease, descriptors):
            items = zip(message.items, places, strict=True)
            message = structs.replace(
                message, items=tuple(structs.replace(item, shared=place) for item, place in items)
            )
        self.send(
            worker, message, [self.pcm.frame(item.key) for item in message.items if item.shared is None]
        )

    def send_prepare(self, action: ac.SendPrepare) -> None:
        """Send the order to read a file, unless it has subtitles already, with shared memory for its PCM."""
        message = action.message
        if message.plans is None:
            rule = skip_rule_of(action.job, self._store.outputs_of_source)
            message = structs.replace(message, skip_rule=rule)
        arena = self.pcm.open(action.worker, message.feed)
        if arena is not None and self._supervisor.send_descriptors(
            action.worker, message.feed, [arena.write_fd]
        ):
            message = structs.replace(message, has_memory=True)
        self.send(action.worker, message)

    def drop_pcm(self, key: SegmentKey) -> None:
        """Drop a segment's PCM."""
        self.pcm.drop(key)
        if self._lease_sender is not None:
            self._lease_sender.encoder.forget(key)

    def receive(self) -> tuple[list[ev.Event], list[SegmentKey]]:
        """Return the events of received messages, and the segments whose PCM was received.

        Call `handled` with the segments once the events are handled.
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
                message, _ = pr.from_worker.decode([frame.buffer for frame in frames])
                message = checked(message, is_remote=False)
                if isinstance(message, pr.Prepared):
                    stored += self._keep_pcm(worker, message, frames[2:])
                new_events = self._events(worker, message)
            except (ProtocolError, msgspec.MsgspecError) as error:
                cause = f"sent an invalid message: {error}"
                _log.warning(log.WORKER_LOST, worker=worker, cause=cause)
                self._supervisor.record_exit_reason(worker, cause)
                self._supervisor.kill(worker)
                continue
            if isinstance(message, _READ):
                self.pcm.finish(worker, message.feed)
            events += new_events
        if self.remote is not None:
            events += self.remote.receive(self._clock(), self._events)
        return events, stored

    def exited(self, worker: str) -> None:
        """Record that a process has ended: it writes no more PCM."""
        self.pcm.finish(worker)

    def kill(self, worker: str, cause: str) -> None:
        """Kill a worker, or end its session on another host; does nothing if it is gone."""
        if self.remote is not None and is_remote(worker):
            self.remote.end_session(worker, cause)
        else:
            self._supervisor.kill(worker)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Sockets to poll."""
        return [self._socket, *([self.remote.listener.socket] if self.remote else [])]

    @property
    def is_permanently_broken(self) -> bool:
        """There are transcribe workers, and restarting any of them cannot help."""
        workers = list(self._broker.worker_table.of(Role.TRANSCRIBE))
        return bool(workers) and all(worker.is_permanently_broken for worker in workers)

    def poll(self, wait_ms: int) -> bool:
        """Wait for a message of a worker on this host; return whether there is one."""
        return bool(self._socket.poll(wait_ms))

    @property
    def poll_timeout_s(self) -> float:
        """Seconds after which `receive` must be called even without a message."""
        return self.remote.poll_timeout_s(self._clock()) if self.remote else float("inf")

    def close(self) -> None:
        """Close the sockets."""
        if self._lease_sender is not None:
            self._lease_sender.encoder.close()
        self._socket.close()
        if self.remote is not None:
            self.remote.close()
        self.pcm.close()

    def handled(self, keys: Iterable[SegmentKey]) -> None:
        """Answer joins and drop PCM that is not needed, after the broker has handled the received events."""
        if self.remote is not None:
            self.remote.answer_joins(self._clock())
        for key in keys:
            segment = self._broker.live_jobs.find(key)
            if segment is None or not segment.has_pcm:
                self.pcm.drop(key)

    def _keep_pcm(self, worker: str, message: pr.Prepared, blobs: Sequence[zmq.Frame]) -> list[SegmentKey]:
        """Keep a segment's PCM, and return its key; nothing for a file that the worker is not to read. Raises ProtocolError."""
        size, sizes = message.plan.samples * BYTES_PER_SAMPLE, [len(blob) for blob in blobs]
        if sizes != ([size] if message.place is None else []):
            raise ProtocolError("BAD_FORMAT", f"segment of {size} bytes of PCM with blobs of {sizes} bytes")
        found = self._broker.prepare_dispatch.find(worker, message.feed)
        if found is None:
            return []
        key = SegmentKey(found[1].job, message.plan.index)
        try:
            self.pcm.keep(key, worker, size, place=message.place, frame=blobs[0] if blobs else None)
        except LookupError as error:
            raise ProtocolError("BAD_FORMAT", str(error)) from None
        return [key]

    def _events(self, worker: str, message: pr.FromWorker) -> list[ev.Event]:
        if isinstance(message, pr.WorkerReady):
            return self._on_ready(worker, message)
        if isinstance(message, pr.DownloadProgress):
            self.on_download(worker, message)
            return []
        if isinstance(message, pr.ExitReason):
            self._supervisor.record_exit_reason(worker, message.cause)
        if isinstance(message, pr.LeaseAnswer) and message.loaded is not None:
            lease = self._broker.lease_dispatch.leases.get(message.lease)
            if lease is not None and (lease.worker, lease.model) == (worker, message.loaded.name):
                message = self._on_loaded(worker, message, message.loaded)
        self._record(worker.rpartition(".")[0], worker, message)
        return [ev.MessageReceived(worker, message)]

    def _on_loaded(
        self,
        worker: str,
        message: pr.Transcribed | pr.Translated | pr.LeaseRefused | pr.LeaseAbandoned,
        model: pr.HeldModel,
    ) -> pr.FromWorker:
        """Return the message; a refusal of its lease if the model that was loaded for it has other weights than required."""
        slot = worker.rpartition(".")[0]
        if cause := self._weights_of(model.name).refusal(worker, model.digest, is_remote=is_remote(worker)):
            _log.warning(log.MODEL_MISSING, worker=worker, model=model.name, cause=cause)
            return pr.LeaseRefused(
                lease=message.lease, cause=cause, is_model_fault=True, evicted=message.evicted
            )
        self.languages[model.name] = model.languages
        if model.load_s:
            self._metrics.count_load(slot, self._name_of(model.name), model.load_s)
            _log.info(
                log.MODEL_LOADED,
                worker=worker,
                model=self._name_of(model.name),
                load_s=round(model.load_s, 2),
                memory_mb=round(model.memory_bytes / 1e6),
                digest=model.digest[:12],
            )
        return message

    def _weights_of(self, name: str) -> ModelWeightsCheck:
        if name == DEFAULT_MODEL:
            return self._weights
        if name not in self._other_weights:
            pinned = next((model.digest for model in self._config.models if model.name == name), "")
            self._other_weights[name] = ModelWeightsCheck(pinned)
        return self._other_weights[name]

    def _name_of(self, model: str) -> str:
        return model or self._config.model.name

    def _record(self, slot: str, worker: str, message: pr.FromWorker) -> None:
        """Count and log the work that a message reports."""
        if isinstance(message, pr.LeaseAnswer):
            for name in message.evicted:
                self._record_unload(slot, worker, name)
        match message:
            case pr.PlanComplete(decode_s=decode_s, vad_s=vad_s) if decode_s:
                self._metrics.stage_seconds.labels("decode").observe(decode_s)
                self._metrics.stage_seconds.labels("vad").observe(vad_s)
            case pr.Transcribed(items=items, decode_s=decode_s, load_s=load_s):
                self._record_reload(slot, worker, message.lease, load_s)
                self._metrics.lease_seconds.labels(slot).observe(decode_s)
                self._metrics.count_results(_summary(item) for item in items)
                self._metrics.stage_seconds.labels("features").observe(message.features_s)
                self._metrics.stage_seconds.labels("transcribe").observe(decode_s)
                self._monitor.answered(slot, decode_s)
            case pr.Translated(results=results, decode_s=decode_s, load_s=load_s):
                self._record_reload(slot, worker, message.lease, load_s)
                lease = self._broker.lease_dispatch.leases.get(message.lease)
                if lease is not None and lease.worker == worker:
                    tokens = sum(result.tokens for result in results)
                    self._metrics.translation_tokens.labels(self._name_of(lease.model)).inc(tokens)
                self._metrics.stage_seconds.labels("translate").observe(decode_s)
                self._monitor.answered(slot, decode_s)
            case pr.ModelUnloaded(model=model):
                self._record_unload(slot, worker, model)
            case _:
                pass

    def _record_reload(self, slot: str, worker: str, lease_id: int, load_s: float) -> None:
        """Count and log that a model was loaded again for a lease, after an idle unload."""
        lease = self._broker.lease_dispatch.leases.get(lease_id)
        if load_s and lease is not None and lease.worker == worker:
            name = self._name_of(lease.model)
            self._metrics.count_load(slot, name, load_s)
            _log.info(log.MODEL_LOADED, worker=worker, model=name, load_s=round(load_s, 2))

    def _record_unload(self, slot: str, worker: str, model: str) -> None:
        """Count and log an unload; a name that a worker reports becomes a label only if it is configured."""
        if model in self._broker.placement.specs:
            self._metrics.count_unload(slot, self._name_of(model))
        _log.info(log.MODEL_UNLOADED, worker=worker, model=self._name_of(model))

    def _on_ready(self, worker: str, message: pr.WorkerReady) -> list[ev.Event]:
        slot = worker.rpartition(".")[0]
        if cause := self._refusal(worker, message):
            self._supervisor.record_exit_reason(worker, cause)
            self._supervisor.kill(worker)
            return []
        device = self._devices.get(slot)
        name = message.device if is_remote(worker) else device.name if device else "CPU"
        if message.window_samples is not None:
            self.languages[DEFAULT_MODEL] = message.languages
            if message.load_s:
                self._metrics.count_load(slot, self._name_of(DEFAULT_MODEL), message.load_s)
            _log.info(
                log.WORKER_READY,
                worker=worker,
                device=name,
                model=message.model,
                batch_size=message.batch_size,
                streams=message.streams,
                load_s=round(message.load_s, 2),
                digest=message.model_digest[:12],
            )
        return [ev.MessageReceived(worker, msgspec.structs.replace(message, device=name))]

    def _refusal(self, worker: str, message: pr.WorkerReady) -> str:
        """Return why a worker on this host is refused, else ""; the RemoteListener checks the others."""
        if is_remote(worker):
            return ""
        if message.version != VERSION:
            return f"has version {message.version}, the daemon has {VERSION}; restart the daemon after an upgrade"
        cause = self._weights.refusal(worker, message.model_digest, is_remote=False)
        if self.remote is not None and not cause:
            self.remote.check_weights()
        return cause


def is_remote(worker: str) -> bool:
    """Return whether an identity is that of a worker on another host: HOST/PLACE.N."""
    return "/" in worker


def _summary(item: pr.ItemResult) -> pr.ResultSummary:
    return msgspec.msgpack.decode(item.result, type=pr.ResultSummary)
