"""What is told of jobs and workers; docs/protocol.md specifies it."""

from __future__ import annotations

from msgspec import Struct


class Step(Struct, frozen=True, kw_only=True):
    """One entry of a job's history."""

    at_ms: int
    subject: str
    """"job" or "segment"."""
    name: str
    """A segment's index; empty for the job itself."""
    event: str
    after: str
    cause: str


class JobFacts(Struct, frozen=True, kw_only=True):
    """One job as a client sees it; times in milliseconds of the Unix epoch."""

    id: str
    state: str
    source: str
    """The media file's path, with U+FFFD for what is not UTF-8."""
    language: str | None
    task: str
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    cause: str
    audio_ms: int
    """Length of the audio; 0 while it is not known."""
    segments: dict[str, int] = {}
    """How many segments are in each state."""
    decoded_ms: int = 0
    """How much of the audio has been read, while it is read."""
    outputs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """Spans of a failed job that have no text: "start_ms end_ms cause"."""
    owner: str = ""
    """Name of the key that submitted it; empty for the local socket and inboxes."""
    tag: str = ""
    size: int = 0
    """Bytes of the media file."""
    received_bytes: int = 0
    """Of these, those that have arrived, while it is uploaded."""
    priority: int = 0
    formats: tuple[str, ...] = ()
    history: tuple[Step, ...] = ()
    """The job's own transitions, and what went wrong with its segments; only in the answer to Status."""


class WorkerFacts(Struct, frozen=True, kw_only=True):
    """One worker slot."""

    slot: str
    role: str
    state: str
    incarnation: int
    device: str
    leases: int
    job: str
    """What a prepare worker reads."""
    cause: str
    audio_ms: int = 0
    """Audio that this slot has transcribed since the daemon started."""
    jobs: tuple[str, ...] = ()
    """What it reads, or transcribes segments of."""
    memory_used_bytes: int = 0
    """Of its GPU, by any program; 0 where that is not known."""
    memory_total_bytes: int = 0
    speed: float = 0.0
    """Seconds of audio that it decodes in a second, when it does; 0 while that is not known."""
    host: str = ""
    """The host that it is on; "" for the daemon's own."""
    round_trip_ms: float = 0.0
    """How long it takes to answer from there."""
    sent_bytes: int = 0
    received_bytes: int = 0
    """What went to it and came from it since it joined."""
    clock_ahead_ms: float = 0.0
    """How far its host's clock is before the daemon's."""
    model_digest: str = ""
    """SHA-256 of its model's weights."""

    @property
    def is_remote(self) -> bool:
        """It is of another host, here or gone: its slot is HOST/PLACE."""
        return "/" in self.slot

    @property
    def has_left(self) -> bool:
        """It was of another host and has gone, which is nobody's fault."""
        return self.state == "stopped" and self.is_remote
