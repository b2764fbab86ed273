"""What users do to the daemon: they submit, cancel, retry, reload, stop and kill it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from daemon_run import DaemonKilled, DaemonRun
from fault_plan import Fault, SimulatedMedia
from msgspec.structs import replace
from simulated_models import SimulatedModel, model_config

from subtitled.core import events as ev
from subtitled.core.records import Job, Options
from subtitled.core.states import JOB_LIVE, JobState

if TYPE_CHECKING:
    from history import History

UPLOADED, BY_PATH = 0.3, 0.1
"""Of all files, those that clients upload, and those that they name by path; the others lie in inboxes."""
CANCELLABLE = JOB_LIVE - {JobState.WRITING}


class SimulatedUsers:
    """All users of one daemon; a request that is not allowed at the moment is not made."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.untranslated: set[str] = set()
        """Jobs whose translations were cancelled, so that some may be missing."""

    def schedule(self, seconds: float) -> None:
        """Decide by chance what they do in the time to come."""
        history = self._history
        plan = history.fault_plan
        for _ in range(plan.random.choice((1, 2, 3, 3, 4))):
            history.at(plan.between(0, seconds * 0.5), self._visit)
        for fault, call in (
            (Fault.NO_SPACE, self._fill_the_disk),
            (Fault.SLOT_REMOVED, lambda: self.remove_slot(plan.random.choice(sorted(history.slots)))),
            (Fault.RELOAD, self.reload),
            (Fault.MODELS_CHANGED, self.change_models),
            (Fault.MODELS_CHANGED, self.restore_models),
            (Fault.DRAIN, self.stop),
            (Fault.PARTITION, self._cut_off),
            (Fault.PARTITION, self._cut_off),
            (Fault.LEAVE, self._take_away),
        ):
            if fault in plan.rates:
                history.at(plan.random_of(fault).uniform(0, seconds), call)

        if plan.has_requests:
            random = plan.request_random
            for _ in range(random.choice((1, 3, 10))):
                history.at(random.uniform(0, seconds), self.request_model)
            paused_at = random.uniform(0, seconds)
            history.at(paused_at, lambda: self.set_paused(is_paused=True))
            history.at(random.uniform(paused_at, seconds), lambda: self.set_paused(is_paused=False))

    # -- files -----------------------------------------------------------------------------------------------

    def drop(self, media: SimulatedMedia) -> str:
        """Put a file into an inbox; return its path."""
        history = self._history
        inbox = history.fault_plan.random.choice(history.config.inbox)
        path = history.new_path(inbox.path, media)
        history.put_file(path)
        return path

    def submit(self, media: SimulatedMedia, options: Options, *, is_upload: bool) -> str:
        """Submit a file by its path, or begin to upload it; return its path, under which its job is found."""
        history = self._history
        path = history.new_path("/uploads", media)
        run = history.run_of_daemon
        run.request(lambda: self._submit(run, path, options, is_upload=is_upload))
        return path

    def _submit(self, run: DaemonRun, path: str, options: Options, *, is_upload: bool) -> None:
        if run.broker.is_draining:
            return
        order = run.store.next_order()
        job = Job(
            id=f"{order:016x}",
            state=JobState.RECEIVING if is_upload else JobState.QUEUED,
            source=path.encode(),
            location=path.encode(),
            size=1,
            mtime_ns=1,
            options=options,
            order=order,
        )
        try:
            run.dispatcher.dispatch(ev.JobArrived(job))
        finally:
            if is_upload:  # its client is another process: it continues when the daemon is killed
                history = self._history
                is_whole = not history.fault_plan.strikes(Fault.CANCEL)
                ends_at = history.now + history.fault_plan.between(0, 60)
                history.at(ends_at, lambda: self.end_upload(path, is_whole=is_whole))

    def end_upload(self, path: str, *, is_whole: bool) -> None:
        """Have an upload complete, or given up, if it still continues; its client tries again when the daemon is killed."""
        history = self._history
        if (job := history.job_at(path)) is None or job.state is not JobState.RECEIVING:
            return
        history.at(history.now + 1, lambda: self.end_upload(path, is_whole=is_whole))
        run = history.run_of_daemon

        def end() -> None:
            job = history.job_at(path)
            if job is None or job.state is not JobState.RECEIVING:
                return
            run.dispatcher.dispatch(
                ev.Uploaded(job=job.id, size=2, mtime_ns=2, sha256="0" * 64)
                if is_whole
                else ev.UploadExpired(job=job.id, cause="silent")
            )

        run.request(end)

    def cancel(self, path: str) -> None:
        """Cancel the job of a file."""
        run = self._history.run_of_daemon

        def cancel() -> None:
            job = self._history.job_at(path)  # the daemon may have been killed before it was accepted
            if job is not None and job.state in CANCELLABLE:
                if job.state is JobState.TRANSLATING:
                    self.untranslated.add(job.id)
                run.dispatcher.dispatch(ev.CancelRequested(job.id))

        run.request(cancel)

    def retry(self, path: str) -> None:
        """Have the failure of a job dismissed, and the job tried again."""
        run = self._history.run_of_daemon

        def retry() -> None:
            job = self._history.job_at(path)
            if job is not None and job.state is JobState.FAILED and job.is_closed:
                run.dispatcher.dispatch(ev.FailureDismissed(job))
                stored = self._history.job_at(path) or job
                run.dispatcher.dispatch(ev.RetryRequested(stored, run.store.segment_rows(job.id)))

        run.request(retry)

    def translate(self, path: str) -> None:
        """Have a job translated to another language, or what could not be translated tried again."""
        run, plan = self._history.run_of_daemon, self._history.fault_plan

        def translate() -> None:
            job = self._history.job_at(path)
            if job is not None and job.state not in {JobState.RECEIVING, JobState.CANCELLED}:
                languages = plan.text_random.choice(((), ("es",), ("fr", "ja")))
                is_retry = plan.text_random.random() < 0.5
                run.dispatcher.dispatch(
                    ev.TranslationRequested(
                        job=job, languages=languages, is_retry=is_retry, is_edit=not (languages or is_retry)
                    )
                )

        run.request(translate)

    # -- what admins do --------------------------------------------------------------------------------------

    def request_model(self) -> None:
        """Load a model, or unload it."""
        run, random = self._history.run_of_daemon, self._history.fault_plan.request_random
        name = random.choice(
            [model.name for model in self._history.devices.all_models if not model.is_endpoint]
        )
        workers = random.choice((0, 0, 1, 2))
        run.request(lambda: run.dispatcher.dispatch(ev.ModelRequested(model=name, workers=workers)))

    def set_paused(self, *, is_paused: bool) -> None:
        """Pause or resume the queue."""
        run = self._history.run_of_daemon
        run.request(lambda: run.dispatcher.dispatch(ev.PauseRequested(is_paused)))

    # -- the daemon ------------------------------------------------------------------------------------------

    def set_space(self, *, is_enough: bool) -> None:
        """Fill the disk, or make room on it; the daemon sees it in its next turn."""
        self._history.is_space = is_enough
        run = self._history.run_of_daemon
        run.request(lambda: None)

    def remove_slot(self, slot: str) -> None:
        """Take a slot out of the configuration, unless it is the last of its role."""
        history = self._history
        same = [name for name in history.slots if name[:3] == slot[:3]]
        if len(same) > 1:
            # Prepare workers are counted: the last one goes.
            history.slots.discard(slot if slot.startswith("gpu") else max(same))
            self._signal(signal.SIGHUP)

    def reload(self) -> None:
        """Have the configuration read again, with every slot in it."""
        self._history.slots |= self._history.all_slots
        self._signal(signal.SIGHUP)

    def change_models(self) -> None:
        """Remove a model from the configuration, or change its source."""
        history, random = self._history, self._history.fault_plan.model_random
        models = list(history.devices.others)
        changed = models.pop(random.randrange(len(models)))
        if random.random() < 0.5:
            models.append(replace(changed, revision=2))
        self._configure(models)

    def restore_models(self) -> None:
        """Configure all models again as they were."""
        self._configure(self._history.devices.others)

    def _configure(self, models: Sequence[SimulatedModel]) -> None:
        history = self._history
        history.config = replace(history.config, models=tuple(map(model_config, models)))
        self._signal(signal.SIGHUP)

    def stop(self) -> None:
        """SIGTERM."""
        if not self._history.run_of_daemon.is_stopping:
            self._signal(signal.SIGTERM)

    def kill(self, run: DaemonRun) -> None:
        """End a run of the daemon, if it has not ended; raises DaemonKilled."""
        if not run.is_over:
            raise DaemonKilled("SIGKILL by a user")

    def _signal(self, number: signal.Signals) -> None:
        self._history.run_of_daemon.signals.pending.append(number)

    def _visit(self) -> None:
        history = self._history
        plan = history.fault_plan
        way = plan.random.random()
        media = plan.media()
        if way < UPLOADED + BY_PATH:
            path = self.submit(media, plan.options(), is_upload=way < UPLOADED)
        else:
            path = self.drop(media)
        if plan.strikes(Fault.CANCEL):
            history.at(history.now + plan.between(0, 40), lambda: self.cancel(path))
        for _ in range(3):
            if plan.strikes(Fault.RETRY):
                history.at(history.now + plan.between(5, 80), lambda: self.retry(path))
        if plan.has_texts and plan.text_random.random() < 0.5:
            history.at(history.now + plan.text_random.uniform(0, 80), lambda: self.translate(path))
        if plan.strikes(Fault.DROPPED_AGAIN):
            history.at(history.now + plan.between(5, 80), lambda: history.put_file_again(path))

    def _cut_off(self) -> None:
        if self._history.remote_workers:
            plan = self._history.fault_plan
            plan.random.choice(self._history.remote_workers).cut_off(
                plan.random.choice((5.0, 25.0, 60.0, 120.0))
            )

    def _take_away(self) -> None:
        if self._history.remote_workers:
            self._history.fault_plan.random.choice(self._history.remote_workers).leave()

    def _fill_the_disk(self) -> None:
        self.set_space(is_enough=False)
        history = self._history
        history.at(history.now + history.fault_plan.between(1, 60), lambda: self.set_space(is_enough=True))
