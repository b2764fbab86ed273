"""The database's rows as Structs."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from subtitle.messages import EditedCue
from subtitled.core.plan import Plan, PlanSettings
from subtitled.core.protocol import Media
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState, SegmentState
from subtitled.errors import StoreError


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One committed transition."""

    seq: int
    at_ms: int
    subject: str
    """"job", "segment" or "worker"."""
    job: str
    """The job's id; empty for a worker, and for a job that was deleted."""
    owner: str
    """The job's owner; empty for an inbox, the local socket and a worker."""
    name: str
    """A segment's index, a worker's identity or a deleted job's id; else empty."""
    before: str
    event: str
    after: str
    cause: str


class JobRow(Struct, frozen=True, kw_only=True):
    """A job with its times and its stored media facts."""

    job: Job
    media: bytes | None
    """MessagePack of `Media`; None until the file is read to its end."""
    created_ms: int
    started_ms: int | None
    ended_ms: int | None

    @property
    def media_facts(self) -> Media:
        """The stored media facts; empty ones before the file is read to its end."""
        return read_media(self.media)


class ResultRow(Struct, frozen=True, kw_only=True):
    """A segment with its stored result."""

    index: int
    state: SegmentState
    plan: Plan
    losses: int
    cause: str
    worker: str
    result: bytes | None


class EditRow(Struct, frozen=True, kw_only=True):
    """A saved version of a job's cues."""

    version: int
    saved_ms: int
    author: str
    cues: int
    """Number of cues."""
    restored: int | None
    """The version that it restored."""
    data: bytes | None
    """Compressed JSON, see `unpack_cues`; None: the cues of the model."""
    begun_ms: int
    """When the first draft that it replaces was saved."""
    draft_session: str
    """Id of the editing session that saved it automatically; "" otherwise."""


T = TypeVar("T")
_NIL = b"\xc0"


class _PackedResult(Struct, frozen=True, array_like=True):
    """A ResultRow as it is packed, with the same fields in the same order."""

    index: int
    state: SegmentState
    plan: Plan
    losses: int
    cause: str
    worker: str
    result: msgspec.Raw
    """MessagePack, as it is stored; nil for no result."""


_media_decoder = msgspec.msgpack.Decoder(Media)
_plan_decoder = msgspec.msgpack.Decoder(Plan)
_plan_settings_decoder = msgspec.msgpack.Decoder(PlanSettings | None)
_options_decoder = msgspec.msgpack.Decoder(Options)
_packed_decoder = msgspec.msgpack.Decoder(tuple[_PackedResult, ...])
_cues_decoder = msgspec.json.Decoder(tuple[EditedCue, ...])
_models_decoder = msgspec.msgpack.Decoder(tuple[tuple[str, str], ...])
_counts_decoder = msgspec.msgpack.Decoder(dict[str, int])


def read_plan(data: bytes) -> Plan:
    """Decode a segment's stored plan; raises StoreError."""
    return _decoded(_plan_decoder, data, "a segment's plan")


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreError(
            f"database: {what} is damaged ({error}); stop the daemon and restore the backup of state.dir"
        ) from error


def read_media(data: bytes | None) -> Media:
    """Decode the stored media facts of a job."""
    return _media_decoder.decode(data) if data else Media()


@lru_cache(maxsize=1024)
def read_options(data: bytes) -> Options:
    """Decode the stored options of a job; raises StoreError."""
    return _decoded(_options_decoder, data, "the options of a job")


def pack_results(rows: Sequence[ResultRow]) -> tuple[bytes, bytes]:
    """Return the counts by state and the compressed results of a job's segments; see `unpack_results`."""
    counts = Counter(row.state.value for row in rows)
    packed = [  # each a _PackedResult
        (*msgspec.structs.astuple(row)[:-1], msgspec.Raw(_NIL if row.result is None else row.result))
        for row in rows
    ]
    return msgspec.msgpack.encode(dict(counts)), zlib.compress(msgspec.msgpack.encode(packed), 9)


def unpack_results(data: bytes) -> list[ResultRow]:
    """Return the results that `pack_results` compressed; raises StoreError for damaged data."""
    try:
        packed = _packed_decoder.decode(zlib.decompress(data))
    except (zlib.error, msgspec.DecodeError) as error:
        raise StoreError(f"database: stored results are damaged: {error}; restore the backup") from error
    return [
        ResultRow(
            **{
                **msgspec.structs.asdict(row),
                "result": None if bytes(row.result) == _NIL else bytes(row.result),
            }
        )
        for row in packed
    ]


def result_row(row: tuple[Any, ...]) -> ResultRow:
    """Return the segment of a row of `queries.RESULTS`."""
    index, state, plan, losses, cause, worker, result = row
    return ResultRow(
        index=index,
        state=SegmentState(state),
        plan=read_plan(plan),
        losses=losses,
        cause=cause,
        worker=worker,
        result=result,
    )


def read_counts(data: bytes) -> dict[str, int]:
    """Decode the counts of `pack_results`."""
    return _counts_decoder.decode(data)


def pack_cues(cues: Sequence[EditedCue]) -> bytes:
    """Return edited cues as they are stored."""
    return zlib.compress(msgspec.json.encode(cues), 9)


def unpack_cues(data: bytes) -> tuple[EditedCue, ...]:
    """Return the cues that `pack_cues` stored; raises StoreError for damaged data."""
    try:
        return _cues_decoder.decode(zlib.decompress(data))
    except (zlib.error, msgspec.DecodeError) as error:
        raise StoreError(f"database: edited cues are damaged: {error}; restore the backup") from error


def edit_row(row: tuple[Any, ...]) -> EditRow:
    """Return the version of a row of `queries.SELECT_EDIT`."""
    return EditRow(**dict(zip(EditRow.__struct_fields__, row, strict=True)))


def file_name(path: bytes) -> str:
    """Return the last component of a path, with U+FFFD for bytes that are not UTF-8."""
    return path.rpartition(b"/")[2].decode("utf-8", "replace")


def job_row(row: tuple[Any, ...]) -> JobRow:
    """Return the job of a row of `queries.SELECT_JOB`."""
    job = Job(
        id=row[0],
        order=row[1],
        state=JobState(row[2]),
        source=row[3],
        location=row[4],
        size=row[5],
        mtime_ns=row[6],
        options=read_options(row[7]),
        losses=row[8],
        plan_settings=_decoded(_plan_settings_decoder, row[9], f"the plan settings of job {row[0]}"),
        is_planned=bool(row[10]),
        language=row[12],
        language_probability=row[13],
        cause=row[14],
        is_closed=bool(row[15]),
        owner=row[19],
        tag=row[20],
        sha256=row[21],
        repetition=row[22],
        added_languages=tuple(row[23].split()),
        added_models=_decoded(_models_decoder, row[24], f"the models of job {row[0]}") if row[24] else (),
        changed_priority=row[25],
        place=row[26],
        unheard=row[27],
        translation_cause=row[28],
        cancelled_languages=tuple(row[29].split()),
        is_dismissed=bool(row[30]),
    )
    return JobRow(job=job, media=row[11], created_ms=row[16], started_ms=row[17], ended_ms=row[18])


def journal_entry(row: tuple[Any, ...]) -> JournalEntry:
    """Return the entry of a row of `queries.SELECT_JOURNAL`."""
    return JournalEntry(**dict(zip(JournalEntry.__struct_fields__, row, strict=True)))
