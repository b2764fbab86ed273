"""Events go to the broker; its saves are committed, and only then its other actions leave the daemon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core.broker import Broker
from subtitled.core.states import JobEvent, SegmentEvent
from subtitled.observability.transition_log import TransitionLog
from subtitled.server.ports import ClientApi, FileChecker, JobHooks, OutputWriter
from subtitled.storage.durability import Transactions
from subtitled.workers.local_listener import WorkerListener


class Dispatcher:
    """Belongs to the thread of the server's loop."""

    def __init__(
        self,
        broker: Broker,
        transactions: Transactions,
        transition_log: TransitionLog,
        clock: Callable[[], float],
    ) -> None:
        """Make one that is not connected yet: `connect` must come before the first event."""
        self._broker = broker
        self._transactions = transactions
        self._transition_log = transition_log
        self._clock = clock

    def connect(
        self,
        *,
        workers: WorkerListener,
        writer: OutputWriter,
        files: FileChecker,
        api: ClientApi,
        hooks: JobHooks,
        audio_samples: Counter[str],
    ) -> None:
        """Set the receivers of the actions; `audio_samples` counts the audio transcribed, by slot."""
        self._workers = workers
        self._writer = writer
        self._files = files
        self._api = api
        self._hooks = hooks
        self._audio_samples = audio_samples

    def dispatch(self, *events: ev.Event) -> None:
        """Give events to the broker, commit the changes in one transaction, then perform the other actions."""
        self.perform(self._broker.handle(events, self._clock()))

    def perform(self, actions: list[ac.Action]) -> None:
        """Commit the saves among `actions` in one transaction, then perform the others in order."""
        if not actions:
            return
        entries = self._transactions.apply([action for action in actions if isinstance(action, ac.Save)])
        for action in actions:
            self._transition_log.record(action)
            self._perform(action)
        if entries:
            self._api.send_to_watchers(entries)
            self._hooks.wake()

    def _perform(self, action: ac.Action) -> None:
        match action:
            case ac.SendLease(lease=lease, message=message):
                self._workers.send_lease(lease, message)
            case ac.SendPrepare():
                self._workers.send_prepare(action)
            case ac.SendMessage(worker=worker, message=message):
                self._workers.send(worker, message)
            case ac.DropPcm(key=key):
                self._workers.drop_pcm(key)
            case ac.SpawnWorker(slot=slot, incarnation=incarnation):
                self._workers.spawn(slot, f"{slot}.{incarnation}")
            case ac.KillWorker(worker=worker, cause=cause):
                self._workers.kill(worker, cause)
            case ac.WriteOutputs(job=job):
                self._writer.finish(job, is_failure=False)
            case ac.WriteFailure(job=job):
                self._writer.finish(job, is_failure=True)
            case ac.PlanTranslations(job=job, number=number):
                self._writer.plan_translations(job, number)
            case ac.WriteTranslations(job=job, number=number):
                self._writer.write_translations(job, number)
            case ac.CheckFile():
                self._files.check(action)
            case ac.StopFileCheck(folder=folder):
                self._files.stop(folder)
            case ac.SaveSegment(segment=segment, event=SegmentEvent.DONE):
                self._audio_samples[action.worker.rpartition(".")[0]] += segment.samples
            case ac.SaveNewJob(job=job):
                self._writer.remove_error_texts(job)
            case ac.SaveJob(job=job, event=event) if event is not None:
                self._api.job_changed(job)
                if event is JobEvent.RETRY:
                    self._writer.remove_error_texts(job)
            case _:
                pass  # the other saves are committed, LeaseLost and ResultStale are logged
