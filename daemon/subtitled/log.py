"""Structured log lines: one event name from the list below, with fields."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, NoReturn, TextIO, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

# A job's life. `job.done` is the one rich line: duration, segments, speed against real time, attempts, devices.
JOB_ACCEPTED = "job.accepted"
JOB_PLANNED = "job.planned"
JOB_DONE = "job.done"
JOB_NEEDLESS = "job.needless"
JOB_FAILED = "job.failed"
JOB_CANCELLED = "job.cancelled"
JOB_REQUEUED = "job.requeued"
# What follows a job's end.
AFTER_DONE = "after.done"
AFTER_FAILED = "after.failed"
AFTER_WAITS = "after.waits"
# A segment's.
SEGMENT_DONE = "segment.done"
SEGMENT_SKIPPED = "segment.skipped"
SEGMENT_LOST = "segment.lost"
SEGMENT_BURIED = "segment.buried"
# A lease's.
LEASE_SENT = "lease.sent"
LEASE_LOST = "lease.lost"
LEASE_STALE = "lease.stale"
# A worker's.
WORKER_STARTING = "worker.starting"
WORKER_READY = "worker.ready"
WORKER_LOST = "worker.lost"
WORKER_EXITED = "worker.exited"
WORKER_BROKEN = "worker.broken"
WORKER_STOPPED = "worker.stopped"
WORKER_JOINED = "worker.joined"
WORKER_LEAVING = "worker.leaving"
WORKER_REFUSED = "worker.refused"
REMOTE_LISTENING = "remote.listening"
# A session's, at a worker on another host than the daemon.
SESSION_OPENED = "session.opened"
SESSION_ENDED = "session.ended"
SESSION_WAITING = "session.waiting"
SESSION_REFUSED = "session.refused"
# A model's, on its way into and out of memory.
MODEL_FETCHING = "model.fetching"
MODEL_FETCHED = "model.fetched"
MODEL_MISSING = "model.missing"
MODEL_LOADED = "model.loaded"
MODEL_UNLOADED = "model.unloaded"
# The inbox's.
INBOX_WATCHED = "inbox.watched"
INBOX_UNWATCHABLE = "inbox.unwatchable"
INBOX_FOUND = "inbox.found"
INBOX_HELD = "inbox.held"
UPLOAD_FAILED = "upload.failed"
COMPOSER_LOST = "composer.lost"
REQUEST_BROKE = "request.broke"
CLIENTS_HUNG_UP = "clients.disconnected"
INBOX_IGNORED = "inbox.ignored"
INBOX_LOST = "inbox.lost"
# The daemon's own, and of the machine it runs on.
DAEMON_READY = "daemon.ready"
DAEMON_STOPPING = "daemon.stopping"
DAEMON_STOPPED = "daemon.stopped"
CONFIG_LOADED = "config.loaded"
CONFIG_REFUSED = "config.refused"
HTTP_LISTENING = "http.listening"
HTTP_STOPPED = "http.stopped"
HTTP_LOST = "http.lost"
# Of the workers that Ray places.
RAY_CONNECTED = "ray.connected"
RAY_UNREACHABLE = "ray.unreachable"
RAY_BACK = "ray.back"
RAY_LOST = "ray.lost"
RAY_ASKED = "ray.asked"
RAY_WITHDRAWN = "ray.withdrawn"
RAY_PLACED = "ray.placed"
RAY_UNJOINED = "ray.unjoined"
RAY_LEAVING = "ray.leaving"
RAY_LEFT = "ray.left"
RAY_GONE = "ray.gone"
DISK_FULL = "disk.full"
DISK_OK = "disk.ok"
LOG_LEVEL = "log.level"
LIBRARY_MESSAGE = "library.message"
"""What a library (faster-whisper, watchdog) has to say, at warning or above."""

_LEVELS = ("debug", "info", "warning", "error")
"""From all to little."""

_ONE_LINE_AT_A_TIME = threading.Lock()
_EVENT_COLUMNS = 16
"""The console's width for an event name, so that the fields stand below each other."""


def configure(level: str, format: str, stream: TextIO, **fields: object) -> None:  # noqa: A002 - the key's name
    """Send this process's log lines to `stream`, each with `fields`; may be called again.

    `level` and `format` are those of the configuration ("auto": console form on a terminal, JSON lines otherwise).
    What other libraries log comes along from warning on, as `library.message`.
    A line is one write. No text makes logging raise, nor does a stream that is closed or full.
    """
    is_console = format == "console" or (format == "auto" and stream.isatty())
    is_unicode = (stream.encoding or "utf-8").lower().replace("-", "") == "utf8"

    def add_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**fields, **event}

    shape: list[Processor]
    if is_console:
        # The plain traceback: rich's would show local variables, transcripts among them.
        formatter = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(
            _EVENT_COLUMNS, colors=stream.isatty(), exception_formatter=formatter, sort_keys=False
        )
        shape = [_make_printable, renderer]
    else:
        # Names stay readable where the stream can carry them; a surrogate becomes its own JSON escape there.
        renderer_json = structlog.processors.JSONRenderer(ensure_ascii=not is_unicode, default=_plain)
        shape = [structlog.processors.format_exc_info, renderer_json]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_fields,
            structlog.processors.add_log_level,
            _add_time,
            *shape,
        ],
        wrapper_class=_filter(level),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Library)]:
        root.removeHandler(handler)
    root.addHandler(_Library())
    root.setLevel(logging.WARNING)


def level() -> str:
    """Return the level below which lines are dropped."""
    return logging.getLevelName(get().get_effective_level()).lower()


def set_level(wanted: str, *, by: str) -> None:
    """Drop lines below another level from now on, until `configure` is called again; `by` is told in a line."""
    before = level()
    if _LEVELS.index(wanted) <= _LEVELS.index(before):
        structlog.configure(wrapper_class=_filter(wanted))
    get().info(LOG_LEVEL, to=wanted, before=before, by=by)
    structlog.configure(wrapper_class=_filter(wanted))


def get(**fields: object) -> FilteringBoundLogger:
    """Give a logger that adds `fields` to each of its lines; it follows a later `configure`."""
    return cast("FilteringBoundLogger", structlog.get_logger(**fields))


def _filter(level: str) -> type[FilteringBoundLogger]:
    return structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()])


class _Lines:
    """What structlog writes to: whole lines, one write each, that do not fail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = stream.encoding or "utf-8"

    def msg(self, line: str) -> None:
        """Write `line`, with what the stream's encoding lacks as escapes."""
        text = f"{line}\n".encode(self._encoding, "backslashreplace").decode(self._encoding)
        # A terminal that went away or a full disk must not take the daemon with it.
        with _ONE_LINE_AT_A_TIME, contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()

    debug = info = warning = error = critical = msg


class _Library(logging.Handler):
    """Other libraries' log records, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get().log(
                record.levelno,
                LIBRARY_MESSAGE,
                logger=record.name,
                message=record.getMessage(),
                **({"exc_info": record.exc_info} if record.exc_info else {}),
            )
        except Exception:  # noqa: BLE001 - a record whose arguments do not fit its format is theirs, not ours
            self.handleError(record)


def _add_time(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    return {"timestamp": now.replace("+00:00", "Z"), **event}


def _make_printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape what would move the cursor, break the line or fail to encode: file names hold anything."""
    for key, value in event.items():
        text = os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else value
        if isinstance(text, str) and not text.isprintable() and key not in {"exception", "stack"}:
            text = _Verbatim(repr(text))
        event[key] = text
    return event


class _Verbatim:
    """Text that is already escaped; the renderer must not escape it again."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _plain(value: object) -> str:
    """Give what JSON has no form for as text."""
    return os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else repr(value)


def leave(status: int) -> NoReturn:
    """End the process with this status, which systemd goes by, also where the log cannot be written.

    Python would try to flush it once more at its end, and exit with 120 on a full disk.
    """
    try:
        sys.stderr.flush()
    except OSError:
        os._exit(status)
    sys.exit(status)
