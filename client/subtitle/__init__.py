"""The thin client of `subtitled`: see what its daemon does, fetch what it has made."""

from subtitle.client import Client
from subtitle.errors import JobFailedError, ProtocolError, ServerError, SubtitleError, UnreachableError
from subtitle.messages import Event, JobFacts, StatsInfo, Welcome, WorkerFacts

__all__ = [
    "Client",
    "Event",
    "JobFacts",
    "JobFailedError",
    "ProtocolError",
    "ServerError",
    "StatsInfo",
    "SubtitleError",
    "UnreachableError",
    "Welcome",
    "WorkerFacts",
]
