"""A job's journal is told to its last end, whatever comes between."""

from __future__ import annotations

from msgspec.structs import replace

from subtitle import messages as ms
from subtitle.requests import Speaker
from subtitle.steps import Conversation, Heard, Receive, Send, Step, Tell
from unit.job_facts import FACTS

FAILED = replace(FACTS, state="failed", ended_ms=20)


class Server:
    """The other side of a watch: told what to say, it keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[ms.ToServer] = []
        self.told: list[int] = []
        self.talk = Conversation(Speaker("ipc:///nowhere", 20.0).watch("job", 0, None, is_until_ended=True))
        self._step = self._go_on(None)

    @property
    def request(self) -> int:
        """The number of what was asked last."""
        return self.asked[-1].request

    def is_over(self) -> bool:
        """Say whether the client has stopped watching."""
        return self._step is None

    def say(self, message: ms.ToClient | None, *, is_lost: bool = False) -> None:
        """Have the client hear this."""
        self._step = self._go_on(Heard(message, is_lost=is_lost))

    def end(self, seq: int, at_ms: int) -> None:
        """Say that the job has failed."""
        watch = next(message for message in self.asked if isinstance(message, ms.Watch))
        self.say(
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

    def _go_on(self, came: object) -> Step | None:
        while not isinstance(step := self.talk.step(came), Receive | None):
            came = None
            match step:
                case Send(message=message):
                    self.asked.append(message)
                    came = True
                case Tell(value=event):
                    self.told.append(event.seq)
        return step


def test_a_job_that_failed_twice_has_its_last_end_asked_for_once_at_a_time() -> None:
    server = Server()
    for seq in range(1, 11):
        server.end(seq, seq)
    assert [type(message) for message in server.asked] == [ms.Watch, ms.Status]
    server.say(ms.JobInfo(request=server.request, job=FAILED))
    assert not server.is_over()
    server.end(11, 20)
    server.say(ms.JobInfo(request=server.request, job=FAILED))
    assert server.is_over()
    assert server.told == [*range(1, 12)]


def test_a_question_that_is_not_answered_is_asked_again() -> None:
    """Refused for its number, or lost with the connection: the watch would wait for ever for an end that was told."""
    server = Server()
    server.end(1, 20)
    asked = server.request
    server.say(None, is_lost=True)
    assert [type(message) for message in server.asked] == [ms.Watch, ms.Status, ms.Watch, ms.Status]
    assert server.request != asked
    server.say(ms.Error(request=server.request, code="RATE_LIMITED", message="ask less often"))
    while len(server.asked) == 4:  # a second
        server.say(None)
    assert isinstance(server.asked[-1], ms.Status)
    server.say(ms.JobInfo(request=server.request, job=FAILED))
    assert server.is_over()
