"""Receive uploads: chunks under a credit window, verification, and the job of each file.

The job of an upload exists, as RECEIVING, before the first byte is requested. So an upload outlives its connection, its client
and the daemon: received bytes stay on the disk, and sending the same Submit again resumes the upload.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitled import log
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.upload_store import UploadStore
from subtitled.api.upload_writer import MAX_QUEUED, ReceivedFile, UploadWriter
from subtitled.api.validation import safe_name, size_and_hash
from subtitled.config.schema import UploadsConfig
from subtitled.core.events import Event, JobArrived, RetryRequested, Uploaded, UploadExpired
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.files.atomic_files import is_there
from subtitled.inboxes.arrivals import new_job, new_job_id
from subtitled.observability.metrics import Metrics
from subtitled.runtime.background import BackgroundPool, CallInLoop
from subtitled.storage.store import Store

CHUNK_BYTES = 2**20
WINDOW_BYTES = 8 * CHUNK_BYTES
CHECK_S = 1.0
"""Seconds between two checks for expired uploads."""
_log = log.get()


class _Upload(Struct):
    """A file that a connection sends."""

    job: Job
    peer: Peer
    request: int
    """Number of its Submit."""
    size: int | None
    sha256: str
    received: int = 0
    """Bytes received."""
    written: int = 0
    """Bytes on the disk."""
    writer: UploadWriter | None = None
    is_open: bool = False
    """The file is open and its previous size is known."""
    is_accepted: bool = False
    """Its Submit is answered: the client may send."""
    commit: tuple[Peer, int] | None = None
    """The sender and number of its Commit."""
    options: Options | None = None
    """Options of the Commit, in place of those of the Submit."""


class Uploads:
    """All uploads; belongs to the thread of the server's loop."""

    def __init__(
        self,
        limits: UploadsConfig,
        *,
        store: Store,
        upload_store: UploadStore,
        dispatch: Callable[[Event], None],
        reply_with_job: Callable[[Peer, int, str], None],
        pool: BackgroundPool,
        hash_pool: BackgroundPool,
        call_in_loop: CallInLoop,
        metrics: Metrics,
    ) -> None:
        """`reply_with_job` answers a request with a job once the job is on the disk."""
        self.limits = limits
        self._store = store
        self._upload_store = upload_store
        self._dispatch = dispatch
        self._reply_with_job = reply_with_job
        self._pool = pool
        self._hash_pool = hash_pool
        self._call_in_loop = call_in_loop
        self._metrics = metrics
        self._open: dict[str, _Upload] = {}
        self._active_at: dict[str, float] = {}
        """When data of each RECEIVING job last received."""
        self._started_at: dict[str, float] = {}
        self._check_at = 0.0

    def start(self, now: float, now_ms: int) -> list[Job]:
        """Restore unfinished uploads from the database; their clients have `idle_s` to resume them.

        Returns the jobs whose files are downloaded instead.
        """
        rows = self._store.uploaded_jobs(
            self._upload_store.stored_jobs(),
            done_since_ms=now_ms - int(self.limits.keep_done_s * 1000),
            failed_since_ms=now_ms - int(self.limits.keep_failed_s * 1000),
        )
        receiving = [row.job.id for row in rows if row.job.state is JobState.RECEIVING]
        done = {row.job.id: row.ended_ms or now_ms for row in rows if row.job.state is JobState.DONE}
        failed = {row.job.id: row.ended_ms or now_ms for row in rows if row.job.state is JobState.FAILED}
        self._upload_store.restore([row.job for row in rows], receiving=receiving, done=done, failed=failed)
        downloaded = [row.job for row in rows if row.job.state is JobState.RECEIVING and row.job.options.url]
        for row in rows:
            if row.job.state is JobState.RECEIVING and not row.job.options.url:
                self._active_at[row.job.id] = now
                self._started_at[row.job.id] = now - (now_ms - row.created_ms) / 1000
        return downloaded

    @property
    def count(self) -> int:
        """Uploads that are not complete."""
        return len(self._active_at)

    def received_bytes(self, job: str) -> int:
        """Return how many bytes have arrived of a job's file; 0 if no connection sends it."""
        upload = self._open.get(job)
        return upload.received if upload else 0

    # -- requests --------------------------------------------------------------------------------------------

    def submit(self, message: ms.Submit, options: Options, peer: Peer, now: float) -> None:
        """Start an upload, resume one, or reply with the job that the file already has; raises RefusedError."""
        known = self._store.find_upload(peer.principal.name, message.sha256, options, message.options.tag)
        if known is not None and known.job.state is JobState.RECEIVING:
            self._attach(known.job, message, peer, now)
            return
        if known is not None and not message.allow_duplicate and self._is_usable(known.job):
            self._reply_with_job(peer, message.request, known.job.id)
            return
        if self.count >= self.limits.max_open:
            raise RefusedError(
                "RATE_LIMITED",
                f"{self.count} uploads are in progress (limit: uploads.max_open); try again when one has ended",
            )
        order = self._store.next_order()
        job_id = new_job_id(order)
        self._upload_store.reserve(job_id, message.size)
        path = os.fsencode(self._upload_store.path(job_id, safe_name(message.name)))
        job = replace(
            new_job(path, message.size or 0, 0, options, order),
            id=job_id,
            state=JobState.RECEIVING,
            owner=peer.principal.name,
            tag=message.options.tag,
            sha256=message.sha256,
            repetition=order if message.allow_duplicate else 0,
        )
        self._dispatch(JobArrived(job))
        self._started_at[job_id] = now
        self._metrics.uploads.labels("started").inc()
        self._attach(job, message, peer, now)

    def chunk(self, message: ms.Chunk, blobs: Sequence[Buffer], peer: Peer, now: float) -> None:
        """Accept the next bytes of an upload; raises RefusedError."""
        upload, writer = self._upload_of(peer, message.job, message.request)
        if upload.commit:
            raise RefusedError("WRONG_STATE", f"job {message.job}: this chunk follows the Commit")
        if len(blobs) != 1 or not len(blobs[0]):
            raise RefusedError(
                "BAD_FORMAT", f"{len(blobs)} blobs; a Chunk has one of 1 to {CHUNK_BYTES} bytes"
            )
        size = len(blobs[0])
        end = message.offset + size
        if message.offset != upload.received:
            raise RefusedError(
                "WRONG_STATE",
                f"chunk at offset {message.offset}; expected {upload.received}; send the Submit again",
            )
        if size > CHUNK_BYTES:
            raise RefusedError("TOO_BIG", f"chunk of {size} bytes; the limit is {CHUNK_BYTES}")
        if end > upload.written + WINDOW_BYTES:
            limit = upload.written + WINDOW_BYTES
            raise RefusedError(
                "TOO_BIG", f"chunk up to {end}; the window ends at {limit}; wait for UploadCredit"
            )
        if writer.is_full:
            raise RefusedError(
                "TOO_BIG", f"{MAX_QUEUED} chunks are queued; send larger ones or wait for UploadCredit"
            )
        if upload.size is not None and end > upload.size:
            raise RefusedError("TOO_BIG", f"chunk up to {end}; the announced size is {upload.size}")
        self._upload_store.grow(message.job, end)
        upload.received = end
        self._active_at[message.job] = now
        self._metrics.upload_bytes.inc(size)
        writer.write(blobs[0])

    def commit(self, message: ms.Commit, options: Options | None, job: Job, peer: Peer, now: float) -> None:
        """Complete an upload; the reply follows once the file is verified and on the disk. Raises RefusedError."""
        if job.state is JobState.CANCELLED:
            raise RefusedError("WRONG_STATE", _cancellation(job))
        if job.state is not JobState.RECEIVING:
            self._reply_with_job(peer, message.request, job.id)
            return
        upload, writer = self._upload_of(peer, job.id)
        is_first = upload.commit is None
        size, sha256 = size_and_hash(message, upload.size, upload.sha256, is_first=is_first)
        if upload.received != size:
            raise RefusedError(
                "WRONG_STATE",
                f"job {job.id}: {upload.received} of {size} bytes received; send the rest",
            )
        upload.commit = (peer, message.request)
        upload.sha256 = sha256
        self._active_at[job.id] = now
        if is_first:
            upload.options = options
            writer.finish(partial(self._finished, upload))

    # -- timers and job transitions --------------------------------------------------------------------------

    def tick(self, now: float, now_ms: int) -> None:
        """Expire uploads and delete kept files whose time is over."""
        if now < self._check_at:
            return
        self._check_at = now + CHECK_S
        self._upload_store.tick(now_ms)
        for job, active_at in list(self._active_at.items()):
            upload = self._open.get(job)
            if upload is not None and upload.commit:
                continue
            if now - active_at >= self.limits.idle_s:
                self._expire(job, f"no data of its file for {self.limits.idle_s:g} s (uploads.idle_s)")
            elif now - self._started_at[job] >= self.limits.max_age_s:
                self._expire(
                    job, f"its file is not complete after {self.limits.max_age_s:g} s (uploads.max_age_s)"
                )

    def job_changed(self, job: Job, now_ms: int) -> None:
        """Release a job's file once it is no longer needed; called after each committed transition."""
        if not self._upload_store.contains(job):
            return
        self._upload_store.claim(job.id)
        if job.state in {JobState.DONE, JobState.CANCELLED}:
            if (upload := self._open.get(job.id)) is not None:
                self._refuse(upload, "WRONG_STATE", _cancellation(job))
            if job.state is JobState.DONE:
                self._remove(job.id)
                self._upload_store.keep(job.id, now_ms, is_failed=False)
            else:
                self._remove(job.id, partial(self._upload_store.discard, job.id))
        elif job.state is JobState.FAILED:
            self._upload_store.keep(job.id, now_ms, is_failed=True)

    def job_deleted(self, job: Job) -> None:
        """Delete the file of a deleted job, if it is an upload."""
        self._upload_store.discard(job.id)

    def close(self) -> None:
        """Close all files; received bytes stay on the disk."""
        for upload in self._open.values():
            if upload.writer is not None:
                upload.writer.close()
        self._open.clear()

    # -- steps of an upload ----------------------------------------------------------------------------------

    def _is_usable(self, job: Job) -> bool:
        """Return whether a known job answers a repeated Submit; a failed job is retried if its file exists."""
        if job.state is not JobState.FAILED or not job.is_closed:
            return True
        if not is_there(os.fsdecode(job.location)):
            return False
        self._dispatch(RetryRequested(job=job, segments=self._store.segment_rows(job.id)))
        return True

    def _upload_of(self, peer: Peer, job: str, request: int | None = None) -> tuple[_Upload, UploadWriter]:
        """Return the upload of a connection (and of this Submit, if given); raises RefusedError."""
        upload = self._open.get(job)
        if (
            upload is None
            or upload.writer is None
            or not upload.is_accepted
            or upload.peer.connection != peer.connection
            or request not in {None, upload.request}
        ):
            raise RefusedError(
                "WRONG_STATE", f"job {job[:64]}: no upload on this connection; send its Submit again"
            )
        return upload, upload.writer

    def _attach(self, job: Job, message: ms.Submit, peer: Peer, now: float) -> None:
        """Assign an upload to a connection, in place of an earlier one."""
        self._active_at[job.id] = now
        upload = self._open.get(job.id)
        if upload is None:
            upload = _Upload(job, peer, message.request, message.size, message.sha256)
            self._open[job.id] = upload
            upload.writer = UploadWriter(
                Path(os.fsdecode(job.location)),
                pool=self._pool.pool,
                hash_pool=(self._hash_pool if self._upload_store.received(job.id) else self._pool).pool,
                call_in_loop=self._call_in_loop,
                written=partial(self._written, upload),
                failed=partial(self._failed, upload),
            )
            upload.writer.open(partial(self._opened, upload))
            return
        upload.peer, upload.request = peer, message.request
        if upload.commit:
            upload.commit = (peer, message.request)  # the reply to the Commit answers this Submit
        elif upload.is_open:
            self._accept(upload)

    def _accept(self, upload: _Upload) -> None:
        """Answer the Submit once all received bytes are written: only then is the whole window free."""
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
                self._upload_store.grow(upload.job.id, offset)
            except RefusedError as error:
                del self._open[upload.job.id]
                if upload.writer is not None:
                    upload.writer.close()
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
        """Report a disk error; written bytes stay, and the upload can be resumed."""
        if not self._is_current(upload):
            return
        del self._open[upload.job.id]
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        _log.error(log.UPLOAD_FAILED, job=upload.job.id, cause=str(error))
        reason = f"the server cannot write the file: {error.strerror}; try again later to resume the upload"
        self._refuse(upload, "NO_SPACE" if is_full else "INTERNAL", reason)

    def _finished(self, upload: _Upload, received: ReceivedFile) -> None:
        if not self._is_current(upload) or upload.commit is None:
            return
        peer, request = upload.commit
        job = upload.job.id
        if received.sha256 != upload.sha256 or received.size != upload.received:
            cause = f"the received file has SHA-256 {received.sha256}, the announced one is {upload.sha256}"
            self._remove(job)
            self._expire(job, cause)
            peer.refuse(request, "HASH_MISMATCH", f"job {job}: {cause}; send the file again")
            return
        self._remove(job)
        self._upload_store.complete(job, received.size)
        self._metrics.uploads.labels("completed").inc()
        size, mtime_ns, sha256 = received.size, received.mtime_ns, received.sha256
        uploaded = Uploaded(job=job, size=size, mtime_ns=mtime_ns, sha256=sha256, options=upload.options)
        self._dispatch(uploaded)
        self._reply_with_job(peer, request, job)

    def _expire(self, job: str, cause: str) -> None:
        self._metrics.uploads.labels("expired").inc()
        self._dispatch(UploadExpired(job=job, cause=cause))  # job_changed then deletes its file

    @staticmethod
    def _refuse(upload: _Upload, code: str, reason: str) -> None:
        """Send an Error to the upload's sender."""
        peer, request = upload.commit or (upload.peer, upload.request)
        peer.refuse(request, code, reason)

    def _remove(self, job: str, removed: Callable[[], None] | None = None) -> None:
        """Forget an upload; the loop calls `removed` once nothing writes its file any more."""
        upload = self._open.pop(job, None)
        if upload is not None and upload.writer is not None:
            upload.writer.close(removed)
        elif removed is not None:
            removed()
        self._active_at.pop(job, None)
        self._started_at.pop(job, None)

    def _is_current(self, upload: _Upload) -> bool:
        return self._open.get(upload.job.id) is upload


def _cancellation(job: Job) -> str:
    return f"job {job.id} is cancelled{f': {job.cause}' if job.cause else ''}"
