"""Files that clients send: taken in under a window of credit, verified, made jobs.

A file's job exists, as RECEIVING, before the first byte is asked for, so that an upload outlives its connection, its client
and the daemon; what has arrived of it is on the disk, and whoever sends the same Submit again goes on from there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitled import log
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.upload_store import UploadStore
from subtitled.api.upload_writer import MAX_WAITING, CallBack, ReceivedFile, UploadWriter
from subtitled.api.validation import safe_name, size_and_hash
from subtitled.config.schema import UploadsConfig as Limits
from subtitled.core.events import Event, Expired, JobArrived, RetryRequested, Uploaded
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.files.atomic_files import is_there
from subtitled.inboxes.arrivals import new_job_id
from subtitled.observability.metrics import Metrics
from subtitled.runtime.background import BackgroundPool
from subtitled.storage.store import Store

CHUNK_BYTES = 2**20
WINDOW_BYTES = 8 * CHUNK_BYTES
CHECK_S = 1.0
"""Seconds between two looks for uploads that have had their time."""
_log = log.get()


class _Upload(Struct):
    """A file that is arriving over a connection."""

    job: Job
    peer: Peer
    request: int
    """Number of the Submit that it goes by."""
    size: int | None
    sha256: str
    received: int = 0
    """Bytes taken from the connection."""
    written: int = 0
    """Bytes on the disk."""
    inflow: UploadWriter | None = None
    is_open: bool = False
    """The file is open, and what it held before is known."""
    is_accepted: bool = False
    """Its Submit is answered: the connection may send."""
    commit: tuple[Peer, int] | None = None
    """Who waits for the answer to a Commit."""
    options: Options | None = None
    """What the Commit asks in place of the Submit."""


class Uploads:
    """All uploads; belongs to the thread of the server's loop."""

    def __init__(
        self,
        limits: Limits,
        *,
        store: Store,
        holdings: UploadStore,
        happen: Callable[[Event], None],
        tell: Callable[[Peer, int, str], None],
        aside: BackgroundPool,
        call_back: CallBack,
        metrics: Metrics,
    ) -> None:
        """`tell` answers a request with a job, once that is on the disk; `call_back` has a function called in the loop."""
        self.limits = limits
        self._store = store
        self._holdings = holdings
        self._happen = happen
        self._tell = tell
        self._aside = aside
        self._call_back = call_back
        self._metrics = metrics
        self._open: dict[str, _Upload] = {}
        self._heard: dict[str, float] = {}
        """When something last came of each RECEIVING job."""
        self._begun: dict[str, float] = {}
        self._kept: dict[str, int] = {}
        """Failed jobs whose files are kept for a retry, and when they ended."""
        self._look_at = 0.0

    def start(self, now: float, now_ms: int) -> None:
        """Take up what the database holds of unfinished uploads; their clients have `idle_s` to come back."""
        rows = self._store.uploaded_jobs(done_since_ms=now_ms - int(self.limits.keep_done_s * 1000))
        arriving = [row.job.id for row in rows if row.job.state is JobState.RECEIVING]
        done = {row.job.id: row.ended_ms or now_ms for row in rows if row.job.state is JobState.DONE}
        self._holdings.take_stock([row.job for row in rows], is_arriving=arriving, done=done)
        for row in rows:
            if row.job.state is JobState.RECEIVING:
                self._heard[row.job.id] = now
                self._begun[row.job.id] = now - (now_ms - row.created_ms) / 1000
            elif row.job.state is JobState.FAILED:
                self._kept[row.job.id] = row.ended_ms or now_ms

    @property
    def count(self) -> int:
        """Uploads that are not complete."""
        return len(self._heard)

    def received_bytes(self, job: str) -> int:
        """Return how much of a job's file has come over the present connection, and before it."""
        upload = self._open.get(job)
        return upload.received if upload else 0

    # -- what clients say ------------------------------------------------------------------------------------

    def submit(self, message: ms.Submit, options: Options, peer: Peer, now: float) -> None:
        """Begin an upload, go on with one, or name the job that the file is already; raises RefusedError."""
        known = self._store.find_upload(peer.who.name, message.sha256, options, message.options.tag)
        if known is not None and known.job.state is JobState.RECEIVING:
            self._go_on(known.job, message, peer, now)
            return
        if known is not None and not message.is_again and self._is_answer(known.job):
            self._tell(peer, message.request, known.job.id)
            return
        if self.count >= self.limits.max_open:
            raise RefusedError(
                "RATE_LIMITED",
                f"{self.count} uploads are under way, as many as uploads.max_open allows; try again when one has ended",
            )
        order = self._store.next_order()
        job_id = new_job_id(order)
        self._holdings.admit(job_id, message.size)
        path = os.fsencode(self._holdings.path(job_id, safe_name(message.name)))
        job = Job(
            id=job_id,
            state=JobState.RECEIVING,
            source=path,
            location=path,
            size=message.size or 0,
            mtime_ns=0,
            options=options,
            order=order,
            owner=peer.who.name,
            tag=message.options.tag,
            sha256=message.sha256,
            repetition=order if message.is_again else 0,
        )
        self._happen(JobArrived(job))
        self._begun[job_id] = now
        self._metrics.uploads.labels("begun").inc()
        self._go_on(job, message, peer, now)

    def chunk(self, message: ms.Chunk, blobs: Sequence[Buffer], peer: Peer, now: float) -> None:
        """Take the next bytes of an upload; raises RefusedError."""
        upload, inflow = self._sent_by(peer, message.job, message.request)
        if upload.commit:
            raise RefusedError("WRONG_STATE", f"job {message.job}: its Commit came before this chunk")
        if len(blobs) != 1 or not len(blobs[0]):
            raise RefusedError(
                "BAD_FORMAT", f"{len(blobs)} blobs; a Chunk has one, of 1 to {CHUNK_BYTES} bytes"
            )
        size = len(blobs[0])
        end = message.offset + size
        if message.offset != upload.received:
            raise RefusedError(
                "WRONG_STATE",
                f"chunk at {message.offset}; the next one begins at {upload.received}; send the Submit again",
            )
        if size > CHUNK_BYTES:
            raise RefusedError("TOO_BIG", f"chunk of {size} bytes; the limit is {CHUNK_BYTES}")
        if end > upload.written + WINDOW_BYTES:
            limit = upload.written + WINDOW_BYTES
            raise RefusedError("TOO_BIG", f"chunk up to {end}; the window ends at {limit}; wait for Credit")
        if inflow.is_full:
            raise RefusedError("TOO_BIG", f"{MAX_WAITING} chunks wait; send longer ones, or wait for Credit")
        if upload.size is not None and end > upload.size:
            raise RefusedError("TOO_BIG", f"chunk up to {end}; the file was said to have {upload.size} bytes")
        self._holdings.arrive(message.job, end)
        upload.received = end
        self._heard[message.job] = now
        self._metrics.upload_bytes.inc(size)
        inflow.write(blobs[0])

    def commit(self, message: ms.Commit, options: Options | None, job: Job, peer: Peer, now: float) -> None:
        """Complete an upload; the answer comes once the file is verified and on the disk. Raises RefusedError."""
        if job.state is JobState.CANCELLED:
            raise RefusedError("WRONG_STATE", _is_over(job))
        if job.state is not JobState.RECEIVING:
            self._tell(peer, message.request, job.id)
            return
        upload, inflow = self._sent_by(peer, job.id)
        is_first = upload.commit is None
        size, sha256 = size_and_hash(message, upload.size, upload.sha256, is_first=is_first)
        if upload.received != size:
            raise RefusedError(
                "WRONG_STATE",
                f"job {job.id}: {upload.received} of {size} bytes have arrived; send the others",
            )
        upload.commit = (peer, message.request)
        upload.sha256 = sha256
        self._heard[job.id] = now
        if is_first:
            upload.options = options
            inflow.finish(partial(self._finished, upload))

    # -- what time brings ------------------------------------------------------------------------------------

    def tick(self, now: float, now_ms: int) -> None:
        """Give up what has had its time."""
        if now < self._look_at:
            return
        self._look_at = now + CHECK_S
        self._holdings.tick(now_ms)
        for job, heard in list(self._heard.items()):
            upload = self._open.get(job)
            if upload is not None and upload.commit:
                continue
            if now - heard >= self.limits.idle_s:
                self._expire(job, f"nothing came of its file for {self.limits.idle_s:g} s (uploads.idle_s)")
            elif now - self._begun[job] >= self.limits.max_age_s:
                self._expire(
                    job, f"its file was not complete after {self.limits.max_age_s:g} s (uploads.max_age_s)"
                )
        for job, ended_ms in list(self._kept.items()):
            if now_ms - ended_ms >= self.limits.keep_failed_s * 1000:
                del self._kept[job]
                self._holdings.discard(job)

    def job_changed(self, job: Job, now_ms: int) -> None:
        """Let go of a job's file once nobody needs it; called after each stored transition."""
        if not self._holdings.holds(job):
            return
        self._kept.pop(job.id, None)
        if job.state in {JobState.DONE, JobState.CANCELLED}:
            if (upload := self._open.get(job.id)) is not None:
                self._refuse(upload, "WRONG_STATE", _is_over(job))
            self._forget(job.id)
            if job.state is JobState.DONE:
                self._holdings.spare(job.id, now_ms)
            else:
                self._holdings.discard(job.id)
        elif job.state is JobState.FAILED:
            self._kept[job.id] = now_ms

    def close(self) -> None:
        """Let go of all files; what has arrived stays on the disk."""
        for upload in self._open.values():
            if upload.inflow is not None:
                upload.inflow.close()
        self._open.clear()

    # -- the way of an upload --------------------------------------------------------------------------------

    def _is_answer(self, job: Job) -> bool:
        """Say whether a job is the answer to its file's being sent again; a failed one is tried again, if it can be."""
        if job.state is not JobState.FAILED or not job.is_closed:
            return True
        if not is_there(os.fsdecode(job.location)):
            return False
        self._happen(RetryRequested(job=job, segments=self._store.segment_rows(job.id)))
        return True

    def _sent_by(self, peer: Peer, job: str, request: int | None = None) -> tuple[_Upload, UploadWriter]:
        """Return the upload that a connection sends, by this Submit if one is named; raises RefusedError."""
        upload = self._open.get(job)
        if (
            upload is None
            or upload.inflow is None
            or not upload.is_accepted
            or upload.peer.connection != peer.connection
            or request not in {None, upload.request}
        ):
            raise RefusedError(
                "WRONG_STATE", f"job {job[:64]}: no upload on this connection; send its Submit again"
            )
        return upload, upload.inflow

    def _go_on(self, job: Job, message: ms.Submit, peer: Peer, now: float) -> None:
        """Have a connection go on with an upload; another that had it before has it no longer."""
        self._heard[job.id] = now
        upload = self._open.get(job.id)
        if upload is None:
            upload = _Upload(job, peer, message.request, message.size, message.sha256)
            self._open[job.id] = upload
            upload.inflow = UploadWriter(
                Path(os.fsdecode(job.location)),
                pool=self._aside.pool,
                call_back=self._call_back,
                written=partial(self._written, upload),
                failed=partial(self._failed, upload),
            )
            upload.inflow.open(partial(self._opened, upload))
            return
        upload.peer, upload.request = peer, message.request
        if upload.commit:
            upload.commit = (peer, message.request)  # answered as the Commit is, with what became of it
        elif upload.is_open:
            self._accept(upload)

    def _accept(self, upload: _Upload) -> None:
        """Answer the Submit once all that has come is written: only then is the whole window free."""
        upload.is_accepted = upload.written == upload.received
        if not upload.is_accepted:
            return
        upload.peer.reply(
            ms.Accepted(
                request=upload.request,
                job=upload.job.id,
                offset=upload.received,
                window_bytes=WINDOW_BYTES,
                chunk_bytes=CHUNK_BYTES,
            )
        )

    def _opened(self, upload: _Upload, offset: int) -> None:
        if self._is_current(upload):
            upload.is_open = True
            upload.received = upload.written = offset
            try:
                self._holdings.arrive(upload.job.id, offset)
            except RefusedError as error:
                del self._open[upload.job.id]
                if upload.inflow is not None:
                    upload.inflow.close()
                upload.peer.refuse(upload.request, error.code, str(error))
                return
            if offset:
                self._metrics.uploads.labels("resumed").inc()
            self._accept(upload)

    def _written(self, upload: _Upload, offset: int) -> None:
        if self._is_current(upload) and upload.is_open:
            upload.written = offset
            if not upload.is_accepted:
                self._accept(upload)
                return
            upload.peer.reply(ms.UploadCredit(request=upload.request, job=upload.job.id, offset=offset))

    def _failed(self, upload: _Upload, error: OSError) -> None:
        """Tell that the disk has refused; what it took stays, and the upload may go on later."""
        if not self._is_current(upload):
            return
        del self._open[upload.job.id]
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        _log.error(log.UPLOAD_FAILED, job=upload.job.id, cause=str(error))
        reason = (
            f"the server's disk refused the file: {error.strerror}; try again later, it goes on where it was"
        )
        self._refuse(upload, "NO_SPACE" if is_full else "INTERNAL", reason)

    def _finished(self, upload: _Upload, arrived: ReceivedFile) -> None:
        if not self._is_current(upload) or upload.commit is None:
            return
        peer, request = upload.commit
        job = upload.job.id
        if arrived.sha256 != upload.sha256 or arrived.size != upload.received:
            cause = f"its file arrived with SHA-256 {arrived.sha256}, {upload.sha256} was announced"
            self._forget(job)
            self._expire(job, cause)
            peer.refuse(request, "HASH_MISMATCH", f"job {job}: {cause}; send the file again")
            return
        self._forget(job)
        self._holdings.complete(job, arrived.size)
        self._metrics.uploads.labels("completed").inc()
        size, mtime_ns, sha256 = arrived.size, arrived.mtime_ns, arrived.sha256
        uploaded = Uploaded(job=job, size=size, mtime_ns=mtime_ns, sha256=sha256, options=upload.options)
        self._happen(uploaded)
        self._tell(peer, request, job)

    def _expire(self, job: str, cause: str) -> None:
        self._metrics.uploads.labels("expired").inc()
        self._happen(Expired(job=job, cause=cause))  # its upload and its file go with it: see job_changed

    @staticmethod
    def _refuse(upload: _Upload, code: str, reason: str) -> None:
        """Tell whoever sends the file, or waits for the answer to its Commit, that it is over."""
        peer, request = upload.commit or (upload.peer, upload.request)
        peer.refuse(request, code, reason)

    def _forget(self, job: str) -> None:
        upload = self._open.pop(job, None)
        if upload is not None and upload.inflow is not None:
            upload.inflow.close()
        self._heard.pop(job, None)
        self._begun.pop(job, None)

    def _is_current(self, upload: _Upload) -> bool:
        return self._open.get(upload.job.id) is upload


def _is_over(job: Job) -> str:
    return f"job {job.id} is cancelled{f': {job.cause}' if job.cause else ''}"
