"""Watching a job to its end: its journal is complete, also with retries and lost connections."""

from __future__ import annotations

from msgspec.structs import replace

from subtitle import messages as ms
from subtitle.requests import Emit, Receive, Received, Requests, Send, Step
from unit.job_facts import FACTS

FAILED = replace(FACTS, state="failed", ended_ms=20)


class FakeServer:
    """Performs the steps of a watch: records what is sent, and answers as the test decides."""

    def __init__(self) -> None:
        self.sent: list[ms.ToServer] = []
        self.entries: list[int] = []
        self.watch = Requests("ipc:///nowhere", 20.0).watch_to_end("job")
        self._step = self._advance(None)

    @property
    def request(self) -> int:
        """The number of the last message."""
        return self.sent[-1].request

    def is_over(self) -> bool:
        """Return whether the client has stopped watching."""
        return self._step is None

    def answer(self, message: ms.ToClient | None, *, is_lost: bool = False) -> None:
        """Give this to the client as received."""
        self._step = self._advance(Received(message, is_lost=is_lost))

    def end(self, seq: int, at_ms: int) -> None:
        """Send the journal entry that the job has failed."""
        watch = next(message for message in self.sent if isinstance(message, ms.Watch))
        self.answer(
            ms.Event(
                request=watch.request,
                seq=seq,
                at_ms=at_ms,
                subject="job",
                job="job",
                name="",
                before="preparing",
                event="rejected",
                after="failed",
                cause="",
            )
        )

    def _advance(self, outcome: object) -> Step | None:
        try:
            while not isinstance(step := self.watch.send(outcome), Receive):
                outcome = None
                match step:
                    case Send(message=message):
                        self.sent.append(message)
                        outcome = True
                    case Emit(value=event):
                        self.entries.append(event.seq)
        except StopIteration:
            return None
        return step


def test_watch_of_a_job_that_failed_twice_ends_after_the_last_failure() -> None:
    server = FakeServer()
    for seq in range(1, 11):
        server.end(seq, seq)
    assert [type(message) for message in server.sent] == [ms.Watch, ms.Status]
    server.answer(ms.JobInfo(request=server.request, job=FAILED))
    assert not server.is_over()
    server.end(11, 20)
    server.answer(ms.JobInfo(request=server.request, job=FAILED))
    assert server.is_over()
    assert server.entries == [*range(1, 12)]


def test_status_without_answer_is_sent_again() -> None:
    """It was rate-limited, or lost with the connection: without a repetition the watch would wait forever."""
    server = FakeServer()
    server.end(1, 20)
    first = server.request
    server.answer(None, is_lost=True)
    assert [type(message) for message in server.sent] == [ms.Watch, ms.Status, ms.Watch, ms.Status]
    assert server.request != first
    server.answer(ms.Error(request=server.request, code="RATE_LIMITED", message="ask less often"))
    while len(server.sent) == 4:  # a second
        server.answer(None)
    assert isinstance(server.sent[-1], ms.Status)
    server.answer(ms.JobInfo(request=server.request, job=FAILED))
    assert server.is_over()
