"""The two roles of the simulated workers: they do what the real ones do, and what real ones must not."""

from __future__ import annotations

from collections import deque

from fault_plan import Fault
from local_worker_process import Body, Host, Process, ToWorker

from subtitled.core import protocol as pr
from subtitled.core.plan import Plan
from subtitled.core.policy import time_to_run
from subtitled.core.records import Role, SegmentKey


def start_worker(host: Host, identity: str, role: Role) -> Process:
    """Start a process in its role."""
    return Process(host, identity, role, TranscribeWork if role is Role.TRANSCRIBE else PrepareWork)


class TranscribeWork:
    """Decodes leases one after the other, or as many at once as it has streams; the rest of its credit is in line."""

    def __init__(self, process: Body, *, most: int | None = None) -> None:
        self._process = process
        self._host = process.host
        self.streams = self._host.fate.random.choice((1, 1, 1, 2))
        self.credit = self._host.fate.random.choice((0, 1, 1)) + self.streams
        self._most = most or self.credit
        """Leases that it ever holds; on another host the daemon decides."""
        self._line: deque[pr.Transcribe] = deque()
        self._is_drained = False

    def receive(self, message: ToWorker) -> None:
        """Take a lease, or the order to go."""
        match message:
            case pr.Transcribe():
                self._line.append(message)
                if len(self._line) > self._most:
                    raise AssertionError(
                        f"{self._process.identity} holds {len(self._line)} leases, over its credit"
                    )
                if len(self._line) <= self.streams:
                    self._begin(message)
            case pr.Drain():
                self._is_drained = True
                self._leave_if_done()
            case _:
                raise AssertionError(f"a transcribe worker was sent {message}")

    def heartbeat(self) -> pr.FromWorker:
        """Return a heartbeat; one without work may free its model's memory."""
        if not self._line and self._host.fate.random.random() < 0.2:
            return pr.ModelUnloaded()
        return pr.Heartbeat()

    def _begin(self, message: pr.Transcribe) -> None:
        fate, process = self._host.fate, self._process
        takes_s = fate.within(0.2, 4)
        if fate.strikes(Fault.HANG):
            return
        if any(item.key.index in self._host.media(item.key.job).poison for item in message.items):
            process.later(takes_s, lambda: process.die("killed by SIGABRT"))
        elif fate.strikes(Fault.BUSY_DEATH) or (process.is_bad and fate.random.random() < 0.7):
            process.later(takes_s, lambda: process.die("CUDA error"))
        elif fate.strikes(Fault.BUSY_FATAL):
            process.later(takes_s, lambda: process.die("the device is gone", is_fatal=True))
        else:
            if fate.strikes(Fault.SLOW):
                takes_s = time_to_run(self._host.policy, self._samples(message)) * fate.within(0.9, 1.3)
            process.later(takes_s, lambda: self._answer(message))

    def _answer(self, message: pr.Transcribe) -> None:
        lease = message.lease
        fate = self._host.fate
        refused = any(item.key.index in self._host.media(item.key.job).refused for item in message.items)
        if refused or self._process.is_bad or fate.strikes(Fault.REFUSAL):
            self._process.say(pr.LeaseRefused(lease=lease, cause="out of memory"))
        else:
            told = [item for item in message.items if not fate.strikes(Fault.LEFT_OUT)]
            results = tuple(self._result(lease, item) for item in told)
            self._process.say(pr.Transcribed(lease=lease, items=results))
        self._line.remove(message)
        if len(self._line) >= self.streams:
            self._begin(self._line[self.streams - 1])
        self._leave_if_done()

    def _samples(self, message: pr.Transcribe) -> int:
        """Return the audio of a lease, that of translated segments twice."""
        return sum(
            plan.samples * (2 if item.is_translated_too else 1)
            for item in message.items
            for plan in self._host.media(item.key.job).plans
            if plan.index == item.key.index
        )

    def _result(self, lease: int, item: pr.LeaseItem) -> pr.ItemResult:
        key = item.key
        media = self._host.media(key.job)
        heard = media.losers.get(key.index, media.language)
        return pr.ItemResult(
            key=key,
            is_speech=key.index not in media.silent,
            language=item.language or heard,
            language_probability=self._host.fate.within(0.3, 1.0),
            result=token(lease, key, item.language),
        )

    def _leave_if_done(self) -> None:
        if self._is_drained and not self._line:
            self._process.later(0.1, lambda: self._process.die("exited"))


class PrepareWork:
    """Reads one file at a time, sends its segments within its credit."""

    credit = 1
    streams = 1

    def __init__(self, process: Process) -> None:
        self._process = process
        self._host = process.host
        self._order: pr.Prepare | None = None
        self._plans: deque[Plan] = deque()
        self._credit_bytes = 0
        self._sent = 0
        self._is_waiting = False
        self._is_needless = False
        self._is_stuck = False
        """The decoder hangs in native code: the process hears and beats, and never gets to anything else."""

    def receive(self, message: ToWorker) -> None:
        """Take an order, credit for it, its withdrawal, or the order to go."""
        order = self._order
        match message:
            case pr.Prepare():
                self._take(message)
            case pr.FeedCredit(feed=feed, bytes=count):
                if order is not None and order.feed == feed:
                    self._credit_bytes += count
                    if self._is_waiting:
                        self._is_waiting = False
                        self._go_on(order)
            case pr.Abandon(feed=feed):
                if order is not None and order.feed == feed:
                    self._order = None
            case pr.Drain():
                self._order = None
                if not self._is_stuck:
                    self._process.later(0.1, lambda: self._process.die("exited"))
            case pr.Transcribe():
                raise AssertionError("a prepare worker was sent a lease")

    def heartbeat(self) -> pr.FromWorker:
        """Return a heartbeat with the progress of the present file."""
        if self._order is None:
            return pr.Heartbeat()
        return pr.Heartbeat(feed=self._order.feed, decoded_samples=self._sent, is_waiting=self._is_waiting)

    def _take(self, order: pr.Prepare) -> None:
        if self._order is not None:
            raise AssertionError(f"{self._process.identity} was given a second file")
        media = self._host.media(_job(order))
        reading = self._host.readings(_job(order))
        plans = media.read(reading)
        is_planned = order.plans is not None
        self._is_needless = (
            not is_planned and media.needless_from is not None and reading >= media.needless_from
        )
        if order.plans is not None:
            # A plan that is given is cut as it says; of a file that is shorter now, the end is missing.
            last = len(plans) if media.changes_from is None else media.changes_from
            plans = tuple(plan for plan in order.plans if plan.index < last)
        self._order = order
        self._plans = deque(plan for plan in plans if plan.index not in order.done)
        self._credit_bytes = order.credit_bytes
        self._sent = 0
        self._is_waiting = False
        self._go_on(order)

    def _go_on(self, order: pr.Prepare) -> None:
        self._process.later(self._host.fate.within(0.02, 0.5), lambda: self._step(order))

    def _step(self, order: pr.Prepare) -> None:
        self._is_stuck = self._is_stuck or self._host.fate.strikes(Fault.STALL)
        if self._order is not order or self._is_stuck:
            return
        media = self._host.media(_job(order))
        is_bad = self._process.is_bad or (media.kills_decoders and self._sent)
        if is_bad or self._host.fate.strikes(Fault.BUSY_DEATH):
            self._process.die("killed by SIGSEGV")
        elif self._is_needless:
            self._order = None
            self._process.say(pr.AlreadySubtitled(feed=order.feed, cause="it has subtitles"))
        elif media.is_unreadable:
            self._order = None
            self._process.say(pr.PrepareRefused(feed=order.feed, cause="no audio in it"))
        elif not self._plans:
            self._order = None
            if media.kills_decoders:
                self._process.die("killed by SIGSEGV")
            else:
                self._process.say(pr.PlanComplete(feed=order.feed, media=b""))
        elif self._credit_bytes <= 0:
            self._is_waiting = True
        else:
            plan = self._plans.popleft()
            count = plan.samples * 2
            self._credit_bytes -= count
            self._sent += plan.samples
            self._process.say(pr.Prepared(feed=order.feed, plan=plan))
            self._go_on(order)


def _job(order: pr.Prepare) -> str:
    """Return the job of a file; a file is named after its job."""
    return order.path.decode()


def token(lease: int, key: SegmentKey, language: str | None) -> bytes:
    """Return a result that says which lease made it, so that none can be counted twice unseen."""
    return f"{lease} {key.job} {key.index} {language}".encode()
