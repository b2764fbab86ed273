"""Downloads of the files that clients submit by their addresses.

The job exists, as RECEIVING, before the first byte is requested; its address is one of its options. So a download outlives the
daemon: at the next start it continues where it stopped. Each runs in a separate process (`subtitled.download.process`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import select
import stat
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from subtitle import messages as ms
from subtitled import log
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.upload_store import UploadStore
from subtitled.api.upload_writer import ReceivedFile
from subtitled.api.validation import safe_name
from subtitled.config.checks import LANGUAGES
from subtitled.config.schema import UploadsConfig, UrlConfig
from subtitled.config.url_rules import UrlError, check_url, without_queries
from subtitled.core.events import DownloadFailed, Event, JobArrived, Uploaded
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.download.messages import DownloadReport, DownloadSettings
from subtitled.files.atomic_files import sync_folder
from subtitled.inboxes.arrivals import new_job, new_job_id
from subtitled.languages import option_of
from subtitled.runtime.background import BackgroundPool, CallInLoop
from subtitled.runtime.pipes import end_child, pipes_of, start_child
from subtitled.runtime.processes import describe_status, module_command
from subtitled.storage.store import Store

COMMAND = module_command("subtitled.download.process")
START_S = 30.0
"""Time to start a process while the system lacks what it takes."""
MAX_LINE_BYTES = 2**16
READ_BYTES = 2**20
MIB = 2**20
_report_decoder = msgspec.json.Decoder(DownloadReport)
_log = log.get()


class _Download(Struct, eq=False):
    """The download of one job's file; belongs to the loop, but for `process`."""

    job: Job
    process: subprocess.Popen[bytes] | None = None
    is_stopped: bool = False
    """Its job is cancelled, or the daemon stops: the outcome does not matter."""
    failure: str = ""
    """Why it was stopped: a limit of the server."""
    received_bytes: int = 0
    total_bytes: int = 0
    lock: threading.Lock = msgspec.field(default_factory=threading.Lock)
    """Protects `process` and `is_stopped` between the loop and the thread."""


class Downloads:
    """All downloads; belongs to the thread of the server's loop."""

    def __init__(
        self,
        config: UrlConfig,
        limits: UploadsConfig,
        *,
        store: Store,
        upload_store: UploadStore,
        dispatch: Callable[[Event], None],
        reply_with_job: Callable[[Peer, int, str], None],
        hash_pool: BackgroundPool,
        call_in_loop: CallInLoop,
    ) -> None:
        """`reply_with_job` answers a request with a job once the job is on the disk."""
        self.config = config
        self.limits = limits
        self._store = store
        self._upload_store = upload_store
        self._dispatch = dispatch
        self._reply_with_job = reply_with_job
        self._hash_pool = hash_pool
        self._call_in_loop = call_in_loop
        self._waiting: deque[_Download] = deque()
        self._open: dict[str, _Download] = {}
        """All downloads that have not ended, by job."""
        self._running: set[str] = set()
        self._threads: set[threading.Thread] = set()
        self._is_closed = False

    @property
    def count(self) -> int:
        """Downloads that are not complete."""
        return len(self._open)

    def progress(self, job: str) -> tuple[int, int] | None:
        """Return the bytes that have arrived of a job's file, and its size (0: unknown); None if it is not downloaded."""
        download = self._open.get(job)
        return (download.received_bytes, download.total_bytes) if download else None

    def start(self, jobs: Iterable[Job]) -> None:
        """Continue the downloads of these jobs, after a start of the daemon."""
        for job in jobs:
            self._add(job)

    def check(self, url: str) -> str:
        """Return an address that may be downloaded, in its canonical form; raises RefusedError."""
        if not self.config.allowed_hosts:
            raise RefusedError(
                "UNSUPPORTED",
                "url: this server downloads no files; upload the file, or ask its operator to set url.allowed_hosts",
            )
        try:
            return check_url(url, self.config.allowed_hosts)
        except UrlError as error:
            raise RefusedError(
                "FORBIDDEN" if "not allowed" in str(error) else "BAD_FORMAT", str(error)
            ) from error

    def submit(self, message: ms.Submit, options: Options, peer: Peer) -> None:
        """Make a job of an address, or reply with the one that is downloading it; raises RefusedError."""
        url = self.check(message.url or "")
        options = replace(options, url=url)
        owner, tag = peer.principal.name, message.options.tag
        known = (one.job for one in self._open.values())
        same = next(
            (job for job in known if job.options.is_same(options) and (job.owner, job.tag) == (owner, tag)),
            None,
        )
        if same is not None and not message.allow_duplicate:
            self._reply_with_job(peer, message.request, same.id)
            return
        if self.count >= self.limits.max_open:
            raise RefusedError(
                "RATE_LIMITED",
                f"{self.count} downloads are in progress (limit: uploads.max_open); try again when one has ended",
            )
        order = self._store.next_order()
        job_id = new_job_id(order)
        self._upload_store.reserve(job_id, None)
        path = os.fsencode(self._upload_store.path(job_id, safe_name(message.name or _name_of(url))))
        job = new_job(path, 0, 0, options, order)
        job = replace(job, id=job_id, state=JobState.RECEIVING, owner=owner, tag=tag, repetition=order)
        self._dispatch(JobArrived(job))
        self._add(job)
        self._reply_with_job(peer, message.request, job_id)

    def job_changed(self, job: Job) -> bool:
        """Stop or start a job's download after a transition; return whether the job's file is in use by it."""
        download = self._open.get(job.id)
        match job.state:
            case JobState.RECEIVING if download is None and job.options.url:
                self._open[job.id] = download = _Download(
                    job
                )  # so that a cancellation before its start stops it
                self._call_in_loop(partial(self._start_again, download))
                return True
            case JobState.CANCELLED if download is not None:
                self._stop(download)
                return True
            case _:
                return False

    def close(self) -> None:
        """Stop all processes; the downloads continue after the next start."""
        self._is_closed = True
        for download in self._open.values():
            self._kill(download)
        for thread in list(self._threads):
            thread.join()

    # -- queue -----------------------------------------------------------------------------------------------

    def _start_again(self, download: _Download) -> None:
        """Reserve space for a job that is retried, and download its file."""
        job = download.job
        if self._is_closed:
            return
        if download.is_stopped:
            self._end(download)
            self._upload_store.discard(job.id)
            return
        try:
            self.check(job.options.url)
            self._upload_store.reserve(job.id, None)
        except RefusedError as error:
            self._end(download)
            self._dispatch(DownloadFailed(job=job.id, cause=without_queries(str(error))))
            return
        self._waiting.append(download)
        self._start_next()

    def _add(self, job: Job) -> None:
        self._open[job.id] = download = _Download(job)
        self._waiting.append(download)
        self._start_next()

    def _start_next(self) -> None:
        while self._waiting and len(self._running) < self.config.parallel and not self._is_closed:
            download = self._waiting.popleft()
            job = download.job
            self._running.add(job.id)
            settings = DownloadSettings(
                url=job.options.url,
                folder=str(Path(os.fsdecode(job.location)).parent),
                max_bytes=min(self.config.max_mb * MIB, self._upload_store.max_file_bytes),
                max_s=self.config.max_hours * 3600,
                stall_s=self.config.stall_s,
                allowed_hosts=self.config.allowed_hosts,
                allowed_networks=self.config.allowed_networks,
                parent_pid=os.getpid(),
            )
            thread = threading.Thread(
                target=self._run,
                args=(download, settings, self.config.timeout_s),
                name="download",
                daemon=True,
            )
            self._threads.add(thread)
            thread.start()

    def _stop(self, download: _Download) -> None:
        """Stop the download of a cancelled job; its folder is removed once nothing writes to it."""
        self._kill(download)
        if download in self._waiting:
            self._waiting.remove(download)
            self._end(download)
            self._upload_store.discard(download.job.id)

    @staticmethod
    def _kill(download: _Download) -> None:
        with download.lock:
            download.is_stopped = True
            if download.process is not None:
                download.process.kill()

    def _end(self, download: _Download) -> None:
        self._open.pop(download.job.id, None)
        self._running.discard(download.job.id)

    # -- outcome ---------------------------------------------------------------------------------------------

    def _on_report(self, download: _Download, report: DownloadReport) -> None:
        if download.is_stopped or download.failure:
            return
        download.received_bytes, download.total_bytes = report.received_bytes, report.total_bytes
        try:
            self._upload_store.grow(download.job.id, report.received_bytes)
        except RefusedError as error:
            download.failure = str(error)
            with download.lock:
                if download.process is not None:
                    download.process.kill()

    def _on_end(self, download: _Download, report: DownloadReport) -> None:
        """Handle the end of a process."""
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if self._is_closed:
            return
        job = download.job
        if download.is_stopped:
            self._end(download)
            self._upload_store.discard(job.id)
        elif error := download.failure or report.error:
            self._fail(download, error)
        else:
            folder = Path(os.fsdecode(job.location)).parent
            title = f"{report.title}{Path(report.file).suffix}" if report.title else Path(report.file).name
            self._hash_pool.run(
                partial(_take, folder, report.file, safe_name(re.sub(r"[/\\]", "_", title))),
                partial(self._taken, download, report),
                partial(self._take_failed, download),
                OSError,
            )
        self._start_next()

    def _take_failed(self, download: _Download, error: OSError) -> None:
        _log.error(log.UPLOAD_FAILED, job=download.job.id, cause=str(error))
        self._fail(download, f"the server cannot keep the file: {error.strerror or error}; retry the job")

    def _fail(self, download: _Download, error: str) -> None:
        self._end(download)
        self._upload_store.discard(download.job.id)
        if not download.is_stopped:
            cause = f"download of {without_queries(download.job.options.url)[:300]}: {without_queries(error)}"
            self._dispatch(DownloadFailed(job=download.job.id, cause=cause))
        self._start_next()

    def _taken(self, download: _Download, report: DownloadReport, found: tuple[bytes, ReceivedFile]) -> None:
        path, file = found
        self._end(download)
        job = download.job
        if download.is_stopped:
            self._upload_store.discard(job.id)
        else:
            self._upload_store.complete(job.id, file.size)
            self._dispatch(
                Uploaded(
                    job=job.id,
                    size=file.size,
                    mtime_ns=file.mtime_ns,
                    sha256=file.sha256,
                    options=_with_language(job.options, report.language),
                    source=path,
                )
            )
        self._start_next()

    # -- the thread of one download --------------------------------------------------------------------------

    def _run(self, download: _Download, settings: DownloadSettings, timeout_s: float) -> None:
        """Run the process of a download and report its outcome to the loop."""
        try:
            report = self._supervise(download, settings, timeout_s)
        except Exception as error:  # noqa: BLE001 - whatever the process sends, its end must reach the loop
            report = DownloadReport(error=f"the download process failed: {error}; retry the job")
        self._call_in_loop(partial(self._on_end, download, report))

    def _supervise(self, download: _Download, settings: DownloadSettings, timeout_s: float) -> DownloadReport:
        until = time.monotonic() + timeout_s
        process = start_child(
            COMMAND, time.monotonic() + START_S, lambda: download.is_stopped, stderr=subprocess.DEVNULL
        )
        try:
            with download.lock:
                download.process = process
                if download.is_stopped:
                    process.kill()
            stdin, stdout = pipes_of(process)
            with suppress(BrokenPipeError):
                stdin.write(msgspec.json.encode(settings) + b"\n")
            final = DownloadReport()
            for report in _reports(stdout, until, settings.stall_s):
                final = report
                if report.missing:
                    _log.warning(log.WORKER_UNPROTECTED, missing=list(report.missing))
                self._call_in_loop(partial(self._on_report, download, report))
            if final.file or final.error:
                return final
        except TimeoutError as error:
            return DownloadReport(
                error=f"not complete after {timeout_s:g} s (url.timeout_s)"
                if time.monotonic() >= until
                else str(error)
            )
        finally:
            with download.lock:
                download.process = None
            status = end_child(process)
        return DownloadReport(error=f"the download process ended ({describe_status(status)}); retry the job")


def _reports(pipe: IO[bytes], until: float, stall_s: float) -> Iterator[DownloadReport]:
    """Yield the reports of a process until its output ends; raises TimeoutError, msgspec.DecodeError.

    Each report but the first means progress: more bytes, or the end.
    """
    buffer = b""
    progress_until = time.monotonic() + stall_s
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    while True:
        timeout_s = min(until, progress_until) - time.monotonic()
        if timeout_s <= 0 or not poller.poll(1000 * timeout_s):
            if time.monotonic() >= min(until, progress_until):
                raise TimeoutError(f"no progress for {stall_s:g} s (url.stall_s)")
            continue
        if not (data := os.read(pipe.fileno(), MAX_LINE_BYTES)):
            return
        *lines, buffer = (buffer + data).split(b"\n")
        if len(buffer) > MAX_LINE_BYTES:
            raise msgspec.DecodeError(f"a report of more than {MAX_LINE_BYTES} bytes")
        for line in lines:
            progress_until = time.monotonic() + stall_s
            yield _report_decoder.decode(line)


def _take(folder: Path, name: str, wanted: str) -> tuple[bytes, ReceivedFile]:
    """Give a downloaded file its final name, sync and hash it. Blocks; raises OSError."""
    if name != Path(name).name or "\0" in name:
        raise OSError(errno.EINVAL, f"the file name {name[:100]!r} is not in the folder of the job")
    path = folder / wanted
    (folder / name).rename(path)
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.EINVAL, "the download is not a regular file")
        while data := file.read(READ_BYTES):
            digest.update(data)
        os.fsync(file.fileno())
    for one in (folder, folder.parent):
        sync_folder(one)
    received = ReceivedFile(size=found.st_size, mtime_ns=found.st_mtime_ns, sha256=digest.hexdigest())
    return os.fsencode(path), received


def _with_language(options: Options, named: str) -> Options:
    """Return the options with the language that the site names, if the client left it open and Whisper knows it."""
    language = option_of(named) if named else ""
    return (
        replace(options, language=language)
        if options.language == "auto" and language in LANGUAGES
        else options
    )


def _name_of(url: str) -> str:
    """Return a name for a job whose title is not known yet: the end of its address, or the host."""
    parts = urlsplit(url)
    return unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.hostname or ""
