"""What may happen to the broker; each event is a fact, told once."""

from __future__ import annotations

from msgspec import Struct

from subtitled.core.plan import Plan
from subtitled.core.protocol import FromWorker
from subtitled.core.records import Job, Options, Role, SegmentKey


class JobArrived(Struct, frozen=True):
    """A new job was accepted; RECEIVING if its file is still to come, else QUEUED."""

    job: Job


class Uploaded(Struct, frozen=True, kw_only=True):
    """A job's file has arrived whole and is on the disk."""

    job: str
    size: int
    mtime_ns: int
    sha256: str
    options: Options | None = None
    """What is asked of it, where its Commit said that anew."""


class Expired(Struct, frozen=True, kw_only=True):
    """A job's file will not arrive."""

    job: str
    cause: str


class SlotAdded(Struct, frozen=True):
    """A worker slot exists; a process is wanted in it."""

    slot: str
    role: Role


class SlotRemoved(Struct, frozen=True):
    """A worker slot is to be emptied for good, after the work it holds."""

    slot: str


class SlotReset(Struct, frozen=True):
    """A broken slot is to be tried again: somebody has seen to it."""

    slot: str


class WorkerJoined(Struct, frozen=True, kw_only=True):
    """A transcribe worker on another host has come by itself; it takes the place of whoever is in its slot.

    Its identity is that of the slot's worker then, which is STARTING. While the daemon drains, or the slot is put aside,
    nothing happens.
    """

    slot: str
    """`HOST/PLACE`: a name that no slot of this host has."""
    previous: str = ""
    """Identity of its last session, if its process is the same: what that held was not its death."""


class LinkMeasured(Struct, frozen=True, kw_only=True):
    """How far away a worker is."""

    worker: str
    round_trip_s: float
    bytes_per_s: float | None = None
    """PCM that reaches it in a second, counted before any packing; None: not known yet."""


class MessageReceived(Struct, frozen=True):
    """A worker has sent a message; each one is also a sign of life."""

    worker: str
    """Identity of the sender."""
    message: FromWorker


class WorkerExited(Struct, frozen=True, kw_only=True):
    """A worker's process is gone; or that of another host was told that it is not known any more."""

    worker: str
    is_fatal: bool
    """Starting it again cannot help."""
    cause: str


class Written(Struct, frozen=True):
    """A job's files are in place."""

    job: str
    location: bytes
    """Where its source is now."""


class WriteFailed(Struct, frozen=True):
    """A job's files could not be written."""

    job: str
    cause: str


class Closed(Struct, frozen=True):
    """A failed job's files are in place."""

    job: str
    location: bytes
    """Where its source is now."""


class CancelRequested(Struct, frozen=True):
    """Somebody wants no more of this job."""

    job: str


class SegmentRow(Struct, frozen=True, kw_only=True):
    """A segment as the store keeps it, for a restart or a retry."""

    key: SegmentKey
    state: str
    plan: Plan
    losses: int
    cause: str
    language: str | None
    language_probability: float


class RetryRequested(Struct, frozen=True):
    """Somebody wants a failed job tried again; it and its segments come from the store."""

    job: Job
    segments: tuple[SegmentRow, ...]


class SpaceChanged(Struct, frozen=True):
    """There is, or is no longer, space for the results of further files."""

    is_enough: bool


class DrainRequested(Struct, frozen=True):
    """The daemon is to stop: no new leases, what runs may finish."""


Event = (
    JobArrived
    | Uploaded
    | Expired
    | SlotAdded
    | SlotRemoved
    | SlotReset
    | WorkerJoined
    | LinkMeasured
    | MessageReceived
    | WorkerExited
    | Written
    | WriteFailed
    | Closed
    | CancelRequested
    | RetryRequested
    | SpaceChanged
    | DrainRequested
)
