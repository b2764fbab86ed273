"""Whether a watched job has come to its end for good, sans-IO: what to ask, and what the answers say.

A job that failed and was tried again has more than one end in its journal. Which is the last, how the job stands tells.
"""

from __future__ import annotations

from subtitle import messages as ms
from subtitle.errors import ServerError
from subtitle.progress import ENDED

NEVER = float("inf")
AGAIN_S = 1.0
"""After a question that was refused for their number."""


class EndOfJob:
    """One question at a time, until its answer is that the end which was told last is the job's own."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: how long an answer may take."""
        self.ask_at = NEVER
        """When `ask` is due (monotonic)."""
        self.is_known = False
        self._timeout_s = timeout_s
        self._ended_ms = -1
        self._asked = -1

    def ask(self, job: str, request: int, now: float) -> ms.Status:
        """Return the question, with a number of its own."""
        self._asked, self.ask_at = request, now + self._timeout_s
        return ms.Status(request=request, job=job)

    def told(self, event: ms.Event, now: float) -> None:
        """Take an entry of the journal."""
        if event.subject == "job" and event.after in ENDED:
            self._ended_ms = event.at_ms
            if self._asked < 0:
                self.ask_at = now

    def heard(self, message: ms.ToClient, now: float) -> None:
        """Take what else comes; raises ServerError for a refusal that asking again does not mend."""
        if message.request != self._asked:
            return
        match message:
            case ms.JobInfo(job=facts):
                self.is_known = facts.state in ENDED and (facts.ended_ms or 0) <= self._ended_ms
                # If not, there is an end to come, which is a reason to ask again.
                self._asked, self.ask_at = -1, NEVER
            case ms.Error(code="RATE_LIMITED"):
                self._asked, self.ask_at = -1, now + AGAIN_S
            case ms.Error(code=code, message=text):
                raise ServerError(code, text)
            case _:
                pass

    def lost(self, now: float) -> None:
        """Note that no answer will come any more on this connection."""
        if self._asked >= 0:
            self.ask_at = now
