"""What simulated workers do with the daemon's messages: what real ones do, and what real ones must not do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from action_checks import Violation, token
from fake_sockets import FakeFrame, pcm_frame
from fault_plan import Fault, SimulatedMedia
from simulated_models import SimulatedResidentModels

from subtitled.core.plan import Plan
from subtitled.core.policy import time_to_run
from subtitled.core.protocol import (
    Abandon,
    AbandonLease,
    AlreadySubtitled,
    Drain,
    FeedCredit,
    FileAbandoned,
    FileUnavailable,
    FreeModel,
    FromWorker,
    Heartbeat,
    ItemResult,
    KeepModel,
    LeaseAbandoned,
    LeaseItem,
    LeaseProgress,
    LeaseRefused,
    Media,
    ModelUnloaded,
    PlanComplete,
    Prepare,
    Prepared,
    PrepareRefused,
    SegmentResult,
    SegmentsTranscribed,
    TextItem,
    TextResult,
    ToWorker,
    Transcribe,
    Transcribed,
    Translate,
    Translated,
)
from subtitled.core.records import SegmentKey
from subtitled.core.transcription import Phrase
from subtitled.core.translation import SentenceTranslation
from subtitled.errors import ExitCode
from subtitled.workers.model_loader import ModelLoadError
from subtitled.workers.resident_models import ModelUse

if TYPE_CHECKING:
    from fake_arenas import FakeArena
    from history import History
    from local_worker_process import LocalWorkerProcess

MEDIA = msgspec.msgpack.encode(Media())


class WorkerProcess(Protocol):
    """The process, or the session of one on another host, that a role works in."""

    identity: str

    @property
    def history(self) -> History:
        """The history that it belongs to."""

    @property
    def is_bad(self) -> bool:
        """Its device is bad at present."""

    def send(self, message: FromWorker, blobs: Sequence[FakeFrame] = ()) -> None:
        """Send a message."""

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Go on later, if it still lives."""

    def die(self, cause: str, code: ExitCode = ExitCode.FAILED, *, is_reported: bool = False) -> None:
        """End."""


class TranscribeRole:
    """Decodes leases one after the other, or as many at once as it has streams; the rest of its credit waits."""

    def __init__(
        self, process: WorkerProcess, models: SimulatedResidentModels | None, *, max_leases: int | None = None
    ) -> None:
        """`models`: None for the worker of an endpoint."""
        self._process = process
        self._models = models
        self._uses: dict[int, ModelUse] = {}
        """The models of the leases that were begun."""
        self._history = process.history
        self._fault_plan = process.history.fault_plan
        self.streams = self._fault_plan.random.choice((1, 1, 1, 3))
        self.credit = self._fault_plan.random.choice((0, 1, 1)) + self.streams
        self._max_leases = max_leases or self.credit
        """Leases that it ever holds; on another host the daemon decides."""
        self._leases: deque[Transcribe | Translate] = deque()
        self._abandoned: set[int] = set()
        self._hung: set[int] = set()
        self._is_draining = False

    def receive(self, message: ToWorker, blobs: Sequence[FakeFrame]) -> None:
        """Take a lease, or the order to exit."""
        match message:
            case Transcribe(items=items) | Translate(items=items):
                wanted = [item.key for item in items] if isinstance(message, Transcribe) else []
                if [blob.segment for blob in blobs] != wanted:
                    raise Violation(f"lease {message.lease} brings the PCM of other segments than {wanted}")
                self._leases.append(message)
                if len(self._leases) > self._max_leases:
                    raise Violation(
                        f"{self._process.identity} holds {len(self._leases)} leases, over its credit"
                    )
                if len(self._leases) <= self.streams:
                    self._begin(message)
            case AbandonLease(lease=lease):
                self._abandon(lease)
            case FreeModel(model=name):
                if any(lease.model == name for lease in self._leases):
                    raise Violation(f"{self._process.identity} is to unload {name!r} and has leases of it")
                if self._models is not None and self._models.free(name):
                    self._process.send(ModelUnloaded(model=name))
            case KeepModel(model=name, is_kept=is_kept):
                if self._models is not None:
                    self._models.keep(name, is_kept=is_kept)
            case Drain():
                self._is_draining = True
                self._exit_if_done()
            case _:
                raise Violation(f"a transcribe worker was sent {message}")

    def heartbeat(self) -> Heartbeat:
        """Return the present heartbeat."""
        return Heartbeat()

    def unload_if_idle(self) -> None:
        """Unload a model at times, when there is no lease."""
        plan = self._fault_plan
        if (
            self._models is not None
            and not self._leases
            and self._models.names
            and plan.random.random() < plan.idle_unload_chance
        ):
            name = plan.model_random.choice(self._models.names)
            if self._models.unload_one_idle(name):
                self._process.send(ModelUnloaded(model=name))

    @property
    def free_bytes(self) -> int | None:
        """Free memory of the device; None if it is not measured."""
        return self._models.free_bytes() if self._models is not None else None

    def abandon(self) -> None:
        """Drop all leases."""
        for use in self._uses.values():
            use.pin.close()

    def _begin(self, message: Transcribe | Translate) -> None:
        plan, process = self._fault_plan, self._process
        takes_s = plan.between(0.2, 4)
        if plan.strikes(Fault.HANG):
            self._hung.add(message.lease)
            return
        try:
            load_s, is_load = self._load(message)
        except ModelLoadError as error:
            self._refuse_model(message, error, takes_s)
            return
        if load_s:
            progress = (LeaseProgress(lease=message.lease, steps=1),)
            process.later(load_s, lambda: process.send(Heartbeat(leases=progress)))
            takes_s += load_s
        if self._has(message, is_poison=True):
            process.later(takes_s, lambda: process.die("killed by SIGABRT"))
        elif plan.strikes(Fault.BUSY_DEATH) or (process.is_bad and plan.random.random() < 0.7):
            process.later(takes_s, lambda: process.die("CUDA error", ExitCode.CUDA, is_reported=True))
        elif plan.strikes(Fault.BUSY_FATAL):
            process.later(
                takes_s, lambda: process.die("the device is gone", ExitCode.FATAL, is_reported=True)
            )
        else:
            if plan.strikes(Fault.SLOW):
                samples = 16_000 * len(message.items)
                if isinstance(message, Transcribe):
                    samples = sum(self._history.samples(item.key) for item in message.items)
                takes_s = time_to_run(self._history.policy, samples) * plan.between(0.9, 1.3)
            if plan.random.random() < 0.3 and not is_load and isinstance(message, Transcribe):
                process.later(takes_s * plan.between(0, 1), lambda: self._answer_some(message))
            process.later(takes_s, lambda: self._answer(message))

    def _load(self, message: Transcribe | Translate) -> tuple[float, bool]:
        """Have the model of a lease in memory; return how long that took, and whether it was loaded for it."""
        if self._models is None:
            return 0.0, False
        use = self._uses[message.lease] = self._models.use(message)
        load_s = use.load_s or (use.loaded.load_s if use.loaded is not None else 0.0)
        return load_s, use.loaded is not None

    def _has(self, message: Transcribe | Translate, *, is_poison: bool) -> bool:
        """Return whether a lease has segments that kill workers, or that they refuse."""
        if isinstance(message, Transcribe):
            media = [(item.key.index, self._media(item)) for item in message.items]
            return any(index in (found.poison if is_poison else found.refused) for index, found in media)
        texts = [
            (int(item.request.sentences[0].split()[1]), self._history.media_of_job(item.key.job))
            for item in message.items
        ]
        return any(
            text in (found.poison_texts if is_poison else found.refused_texts) for text, found in texts
        )

    def _refuse_model(self, message: Transcribe | Translate, error: ModelLoadError, takes_s: float) -> None:
        refusal = LeaseRefused(
            lease=message.lease, cause=str(error), is_model_fault=True, evicted=error.evicted
        )

        def refuse() -> None:
            if message in self._leases:
                self._process.send(refusal)
                self._end(message)

        self._process.later(takes_s, refuse)

    def _changes(self, lease: int) -> dict[str, Any]:
        """Return what an answer reports about the models; ends the use of the lease's model."""
        use = self._uses.pop(lease, None)
        if use is None:
            return {}
        use.pin.close()
        is_changed = use.loaded is not None or use.evicted or use.load_s
        free_bytes = self.free_bytes if is_changed else None
        return {"loaded": use.loaded, "evicted": use.evicted, "free_bytes": free_bytes}

    def _abandon(self, lease: int) -> None:
        """Stop a lease, at times too late; one that waits is dropped when it is reached."""
        self._abandoned.add(lease)
        plan = self._fault_plan
        if lease in self._hung:
            return
        if any(message.lease == lease for message in list(self._leases)[: self.streams]):
            delay_s = plan.between(5, 20) if plan.strikes(Fault.SLOW) else plan.between(0, 2)
            self._process.later(delay_s, lambda: self._drop(lease))

    def _drop(self, lease: int) -> None:
        for message in list(self._leases):
            if message.lease == lease:
                self._process.send(LeaseAbandoned(lease=lease, **self._changes(lease)))
                self._end(message)

    def _end(self, message: Transcribe | Translate) -> None:
        self._leases.remove(message)
        if len(self._leases) >= self.streams:
            following = self._leases[self.streams - 1]
            if following.lease in self._abandoned:
                self._drop(following.lease)
            else:
                self._begin(following)
        self._exit_if_done()

    def _answer_some(self, message: Transcribe) -> None:
        """Send some results of a running lease; its process may end afterwards."""
        if message not in self._leases or self._process.is_bad:
            return
        media = [self._media(item) for item in message.items]
        some = tuple(
            self._result(message.lease, item)
            for item, found in zip(message.items, media, strict=True)
            if self._fault_plan.random.random() < 0.5 and item.key.index not in found.poison | found.refused
        )
        self._process.send(SegmentsTranscribed(lease=message.lease, items=some))

    def _answer(self, message: Transcribe | Translate) -> None:
        if message not in self._leases:
            return  # abandoned meanwhile
        plan = self._fault_plan
        if self._has(message, is_poison=False) or self._process.is_bad or plan.strikes(Fault.REFUSAL):
            changes = self._changes(message.lease)
            self._process.send(LeaseRefused(lease=message.lease, cause="out of memory", **changes))
        elif isinstance(message, Translate):
            results = tuple(
                _translated(message.lease, item, is_short=plan.strikes(Fault.LEFT_OUT))
                for item in message.items
                if not plan.strikes(Fault.LEFT_OUT)
            )
            self._process.send(
                Translated(lease=message.lease, results=results, **self._changes(message.lease))
            )
        else:
            items = tuple(
                self._result(message.lease, item)
                for item in message.items
                if not plan.strikes(Fault.LEFT_OUT)
            )
            changes = self._changes(message.lease)
            self._process.send(
                Transcribed(lease=message.lease, items=items, features_s=0.0, decode_s=1.0, **changes)
            )
        self._end(message)

    def _result(self, lease: int, item: LeaseItem) -> ItemResult:
        media = self._media(item)
        return ItemResult.of(
            item.key,
            SegmentResult(
                phrases=(Phrase(text=self._token(lease, item), start_ms=0, end_ms=1),),
                language=media.losers.get(item.key.index, media.language)
                if item.language in {None, "multi"}
                else item.language,
                language_probability=self._fault_plan.between(0.3, 1.0),
                is_speech=item.key.index not in media.silent,
            ),
        )

    def _token(self, lease: int, item: LeaseItem) -> str:
        return token(lease, item.key, item.language, self._uses[lease].model.settings.model)

    def _media(self, item: LeaseItem) -> SimulatedMedia:
        return self._history.media_of_job(item.key.job)

    def _exit_if_done(self) -> None:
        # One that hangs at its end sends heartbeats until the daemon kills it.
        if self._is_draining and not self._leases and not self._fault_plan.strikes(Fault.HANG):
            self._process.later(0.1, lambda: self._process.die("exited", ExitCode.OK))


def _translated(lease: int, item: TextItem, *, is_short: bool) -> TextResult:
    """Return translations that name the lease which made them; `is_short`: their number is wrong."""
    texts = item.request.sentences
    if is_short:
        texts = texts[:-1] or texts * 2
    return TextResult(
        key=item.key,
        sentences=tuple(SentenceTranslation(text=f"{lease} {text}") for text in texts),
        engine="ctranslate2",
        version="simulated",
    )


class PrepareRole:
    """Reads one file at a time, sends its segments within its credit."""

    credit = 1
    streams = 1

    def __init__(self, process: LocalWorkerProcess) -> None:
        self._process = process
        self._history = process.history
        self._fault_plan = process.history.fault_plan
        self._order: Prepare | None = None
        self._memory: FakeArena | None = None
        """For the PCM of the file."""
        self._free_places: deque[int] = deque()
        self._next_place = 0
        self._job = ""
        self._plans: deque[Plan] = deque()
        self._credit_bytes = 0
        self._sent_samples = 0
        self._is_waiting = False
        self._is_already_subtitled = False
        self._is_stuck = False
        """The decoder hangs in native code: the process receives and sends heartbeats, and does nothing else."""

    def receive(self, message: ToWorker, blobs: Sequence[FakeFrame]) -> None:
        """Take a file, credit for it, its withdrawal, or the order to exit."""
        del blobs
        order = self._order
        match message:
            case Prepare():
                self._take(message)
            case FeedCredit(feed=feed, bytes=count, free_places=places):
                if order is not None and order.feed == feed:
                    self._credit_bytes += count
                    self._free_places.extend(places)
                    if self._is_waiting:
                        self._is_waiting = False
                        self._go_on(order)
            case Abandon(feed=feed):
                if order is not None and order.feed == feed:
                    self._order = None
                    if not self._is_stuck:
                        self._process.send(FileAbandoned(feed=feed))
            case Drain():
                self._order = None
                if not self._is_stuck:
                    self._process.later(0.1, lambda: self._process.die("exited", ExitCode.OK))
            case _:
                raise Violation(f"a prepare worker was sent {message}")

    def heartbeat(self) -> Heartbeat:
        """Return how far the present file is."""
        if self._order is None:
            return Heartbeat()
        return Heartbeat(
            feed=self._order.feed, decoded_samples=self._sent_samples, is_waiting=self._is_waiting
        )

    def unload_if_idle(self) -> None:
        """Do nothing: there is no model."""

    def _take(self, order: Prepare) -> None:
        if self._order is not None:
            raise Violation(f"{self._process.identity} was given a second file")
        media, job = self._history.open_file(order.path)
        reading = self._history.count_reading(order.path)
        plans = media.read(reading)
        is_planned = order.plans is not None
        self._is_already_subtitled = (
            not is_planned and media.subtitled_from is not None and reading >= media.subtitled_from
        )
        if order.plans is not None:
            # A plan that is given is cut as it says; of a file that is shorter now, the end is missing.
            last = len(plans) if media.changes_from is None else media.changes_from
            plans = tuple(plan for plan in order.plans if plan.index < last)
        self._order = order
        self._memory = self._process.memory_of(order)
        self._free_places.clear()
        self._next_place = 0
        self._job = job
        self._plans = deque(plan for plan in plans if plan.index not in order.done)
        self._credit_bytes = order.credit_bytes
        self._sent_samples = 0
        self._is_waiting = False
        self._go_on(order)

    def _go_on(self, order: Prepare) -> None:
        self._process.later(self._fault_plan.between(0.02, 0.5), lambda: self._step(order))

    def _step(self, order: Prepare) -> None:
        self._is_stuck = self._is_stuck or self._fault_plan.strikes(Fault.STALL)
        if self._order is not order or self._is_stuck:
            return
        media, _ = self._history.open_file(order.path)
        feed, process = order.feed, self._process
        is_bad = process.is_bad or (media.kills_decoders and self._sent_samples)
        if is_bad or self._fault_plan.strikes(Fault.BUSY_DEATH):
            process.die("killed by SIGSEGV")
        elif self._is_already_subtitled:
            self._order = None
            process.send(AlreadySubtitled(feed=feed, cause="it has subtitles"))
        elif self._fault_plan.strikes(Fault.UNAVAILABLE):
            self._order = None
            process.send(FileUnavailable(feed=feed, cause="input/output error"))
        elif media.is_unreadable:
            self._order = None
            process.send(PrepareRefused(feed=feed, cause="no audio in it"))
        elif not self._plans:
            self._order = None
            if media.kills_decoders:
                process.die("killed by SIGSEGV")
            else:
                process.send(PlanComplete(feed=feed, media=MEDIA))
        elif self._credit_bytes <= 0:
            self._is_waiting = True
        else:
            plan = self._plans.popleft()
            self._credit_bytes -= plan.samples * 2
            self._sent_samples += plan.samples
            key, blobs, place = SegmentKey(self._job, plan.index), [], None
            if self._memory is not None and plan.index % 5 != 4:
                place = self._free_places.popleft() if self._free_places else self._next_place
                self._next_place = max(self._next_place, place + 1)
                self._memory.written[place] = key
            else:
                blobs = [pcm_frame(plan.samples, key)]
            process.send(Prepared(feed=feed, plan=plan, place=place), blobs)
            self._go_on(order)
