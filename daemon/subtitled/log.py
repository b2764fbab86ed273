"""Structured logging: each line is one of the events below, with fields."""

from __future__ import annotations

import contextlib
import datetime as dt
import heapq
import itertools
import logging
import os
import re
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NoReturn, TextIO, cast

# structlog imports rich for tracebacks with local variables, which are not used here: it takes a third of a worker's imports.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _rich:
    sys.modules["rich"] = _rich
else:
    del sys.modules["rich"]

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

# Jobs. `job.done` has duration, segments, speed, attempts and devices.
JOB_ACCEPTED = "job.accepted"
JOB_PLANNED = "job.planned"
JOB_DONE = "job.done"
JOB_UNHEARD = "job.unheard"
JOB_RENAMED = "job.renamed"
JOB_EDITED = "job.edited"
JOB_EDIT_UNWRITTEN = "job.edit_unwritten"
JOB_SOURCE_KEPT = "job.source_kept"
JOB_DAMAGED = "job.damaged"
JOB_ALREADY_SUBTITLED = "job.already_subtitled"
JOB_FAILED = "job.failed"
JOB_CANCELLED = "job.cancelled"
JOB_TRANSLATED = "job.translated"
JOB_TRANSLATION_UNWRITTEN = "job.translation_unwritten"
GLOSSARY_INVALID = "glossary.invalid"
JOB_REQUEUED = "job.requeued"
# The queue, paused and resumed by an admin.
QUEUE_PAUSED = "queue.paused"
QUEUE_RESUMED = "queue.resumed"
# Commands and webhooks after a job.
HOOK_DONE = "hook.done"
HOOK_FAILED = "hook.failed"
HOOK_RETRYING = "hook.retrying"
# Segments and leases.
SEGMENT_DONE = "segment.done"
SEGMENT_SKIPPED = "segment.skipped"
SEGMENT_LOST = "segment.lost"
SEGMENT_FAILED = "segment.failed"
TEXT_TRANSLATED = "text.translated"
TEXT_UNTRANSLATED = "text.untranslated"
LEASE_SENT = "lease.sent"
LEASE_LOST = "lease.lost"
LEASE_STALE = "lease.stale"
# Workers, as the daemon sees them.
WORKER_STARTING = "worker.starting"
WORKER_READY = "worker.ready"
WORKER_UNPROTECTED = "worker.unprotected"
WORKER_LOST = "worker.lost"
WORKER_EXITED = "worker.exited"
WORKER_BROKEN = "worker.broken"
WORKER_STOPPED = "worker.stopped"
WORKER_JOINED = "worker.joined"
WORKER_REFUSED = "worker.refused"
REMOTE_LISTENING = "remote.listening"
# Sessions, in the log of a worker on another host.
SESSION_OPENED = "session.opened"
SESSION_ENDED = "session.ended"
SESSION_WAITING = "session.waiting"
SESSION_REFUSED = "session.refused"
WORKER_LEAVING = "worker.leaving"
# Models.
MODEL_DOWNLOADING = "model.downloading"
MODEL_DOWNLOADED = "model.downloaded"
MODEL_MISSING = "model.missing"
MODEL_LOADED = "model.loaded"
MODEL_UNLOADED = "model.unloaded"
MODEL_LOAD_REQUESTED = "model.load_requested"
MODEL_UNLOAD_REQUESTED = "model.unload_requested"
# Inboxes.
INBOX_WATCHED = "inbox.watched"
INBOX_UNWATCHABLE = "inbox.unwatchable"
INBOX_FOUND = "inbox.found"
INBOX_IGNORED = "inbox.ignored"
INBOX_INCOMPLETE = "inbox.incomplete"
INBOX_PAUSED = "inbox.paused"
INBOX_LOST = "inbox.lost"
STATE_LOST = "state.lost"
STATE_RECOVERED = "state.recovered"
FOLDER_HUNG = "folder.hung"
FOLDER_RECOVERED = "folder.recovered"
# Clients.
UPLOAD_FAILED = "upload.failed"
CLIENT_DISCONNECTED = "client.disconnected"
REQUEST_FAILED = "request.failed"
RESULTS_DAMAGED = "results.damaged"
PREVIEW_LOST = "preview.lost"
LAYOUT_LOST = "layout.lost"
# The daemon and its machine.
DAEMON_READY = "daemon.ready"
DAEMON_STOPPING = "daemon.stopping"
DAEMON_STOPPED = "daemon.stopped"
CONFIG_LOADED = "config.loaded"
CONFIG_REJECTED = "config.rejected"
DISK_FULL = "disk.full"
DISK_OK = "disk.ok"
LOG_LEVEL = "log.level"
# The HTTP gateway.
HTTP_LISTENING = "http.listening"
HTTP_STOPPED = "http.stopped"
HTTP_LOST = "http.lost"
HTTP_FAILED = "http.failed"
HTTP_CONNECTIONS_REFUSED = "http.connections_refused"
HTTP_LOOP_FAILED = "http.loop_failed"
# Workers in a Ray cluster.
RAY_CONNECTED = "ray.connected"
RAY_UNREACHABLE = "ray.unreachable"
RAY_RESTORED = "ray.restored"
RAY_LOST = "ray.lost"
RAY_REQUESTED = "ray.requested"
RAY_CANCELLED = "ray.cancelled"
RAY_PLACED = "ray.placed"
RAY_OVERDUE = "ray.overdue"
RAY_STOPPING = "ray.stopping"
RAY_STOPPED = "ray.stopped"
RAY_FAILED = "ray.failed"
LIBRARY_MESSAGE = "library.message"
"""A message of a library (faster-whisper, watchdog), at warning or above."""

_LEVELS = ("debug", "info", "warning", "error")
_LEVEL_NUMBERS = frozenset({"10", "20", "30", "40", "50"})
_ONE_LINE_AT_A_TIME = threading.Lock()
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_EVENT_COLUMNS = 16
"""Width of the event column on a console."""


def configure(level: str, format: str, stream: TextIO, **fields: object) -> None:  # noqa: A002 - the key's name
    """Send this process's log lines to `stream`, each with `fields`; may be called again.

    `level` and `format` are those of the configuration ("auto": console on a terminal, JSON lines otherwise).
    Messages of libraries are logged from warning on, as `library.message`. A line is one write. Logging never raises, whatever
    the text, even if the stream is closed or full.
    """
    is_console = format == "console" or (format == "auto" and stream.isatty())
    is_unicode = (stream.encoding or "utf-8").lower().replace("-", "") == "utf8"

    def add_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**fields, **event}

    shape: list[Processor]
    if is_console:
        # The plain traceback: rich's would show local variables, such as transcripts.
        formatter = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(
            _EVENT_COLUMNS, colors=stream.isatty(), exception_formatter=formatter, sort_keys=False
        )
        shape = [_make_printable, renderer]
    else:
        # Names stay readable if the stream's encoding has them; a surrogate becomes a JSON escape.
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
    """Return the current level."""
    return logging.getLevelName(get().get_effective_level()).lower()


def set_level(wanted: str, *, by: str) -> None:
    """Change the level until `configure` is called again; logs the change with its origin `by`."""
    before = level()
    if _LEVELS.index(wanted) <= _LEVELS.index(before):
        structlog.configure(wrapper_class=_filter(wanted))
    get().info(LOG_LEVEL, to=wanted, before=before, by=by)
    structlog.configure(wrapper_class=_filter(wanted))


def get(**fields: object) -> FilteringBoundLogger:
    """Return a logger that adds `fields` to each of its lines; a later `configure` applies to it."""
    return cast("FilteringBoundLogger", structlog.get_logger(**fields))


def _filter(level: str) -> type[FilteringBoundLogger]:
    return structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()])


LAST_LINES: Final[deque[tuple[int, int, str]]] = deque(maxlen=2000)
"""Number, level and text of the last lines, without colors, for an admin's page; only in a process that calls `remember_lines`."""
CHILD_LINES: Final[deque[tuple[int, int, str]]] = deque(maxlen=2000)
"""Lines of child processes, apart from the daemon's, which they cannot displace."""
_numbers = itertools.count()
MAX_LINE_CHARS = 2000
"""Maximum length of a line that is kept."""
_UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal or reorder text."""
_FORWARD_VARIABLE = "_SUBTITLED_LOG_LINES"
"""Environment variable with the descriptor of `_line_pipe` that a child process inherits."""
_RECORD_BYTES = 4000
"""Less than PIPE_BUF: a record is written whole or not at all (pipe(7))."""
_MAX_RECORDS = 200
"""Maximum lines of each read of the pipe; older ones are dropped."""
_READ_PAUSE_S = 0.05
"""Between two reads of the pipe: a child that logs without end must not take the daemon's time."""
_line_pipe: tuple[int, int] | None = None
"""Receives the lines of child processes, as "LEVEL TEXT" with a zero byte after it."""
_forward_to: int | None = None


def remember_lines() -> None:
    """Keep the last lines from now on: those of this process, and of its children that call `forward_lines`."""
    global _line_pipe  # noqa: PLW0603 - as the log itself, it is one for each process
    if _line_pipe is None:
        _line_pipe = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(_line_pipe[1], False)
        threading.Thread(target=_read_lines, args=(_line_pipe[0],), name="log-lines", daemon=True).start()


def for_children() -> tuple[dict[str, str], tuple[int, ...]]:
    """Return environment variables and descriptors for a child process that calls `forward_lines`."""
    if _line_pipe is None:
        return {}, ()
    return {_FORWARD_VARIABLE: str(_line_pipe[1])}, (_line_pipe[1],)


def forward_lines(environ: Mapping[str, str]) -> None:
    """Send this process's lines to the daemon that started it, if it keeps them, besides the stream.

    A line that the pipe has no room for is left out there.
    """
    global _forward_to  # noqa: PLW0603
    number = environ.get(_FORWARD_VARIABLE, "")
    with contextlib.suppress(OSError, ValueError):
        if number and stat.S_ISFIFO(os.fstat(int(number)).st_mode):
            _forward_to = int(number)


def last_lines(count: int, level: str = "debug", text: str = "") -> tuple[str, ...]:
    """Return at most `count` of the last lines of `level` or above that contain `text` (case is ignored), oldest first."""
    lowest, needle = logging.getLevelNamesMapping()[level.upper()], text.casefold()
    # A page requests them again and again: only as many are read as are needed.
    newest = heapq.merge(reversed(LAST_LINES.copy()), reversed(CHILD_LINES.copy()), reverse=True)
    found = (
        line for _, number, line in newest if number >= lowest and (not needle or needle in line.casefold())
    )
    return tuple(itertools.islice(found, count))[::-1]


def _remember(name: str, line: str) -> None:
    number = logging.getLevelNamesMapping()[name.upper()]
    if _line_pipe is not None:
        # A lone surrogate, from a name that is not UTF-8, becomes an escape, as in the stream.
        plain = _COLOR.sub("", line).encode("utf-8", "backslashreplace").decode("utf-8")
        LAST_LINES.append((next(_numbers), number, plain[:MAX_LINE_CHARS]))
    elif _forward_to is not None:
        record = f"{number} {line}".replace("\0", "").encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            os.write(_forward_to, record[: _RECORD_BYTES - 1] + b"\0")


def _read_lines(pipe: int) -> None:
    """Keep the lines of child processes. A decoder that a malicious media file controls may write anything."""
    rest = b""
    while data := os.read(pipe, 65_536):
        *records, rest = (rest + data).split(b"\0")
        if dropped := len(records[:-_MAX_RECORDS]):
            text = f"{dropped} lines of child processes are left out here: too many at once"
            CHILD_LINES.append((next(_numbers), logging.WARNING, text))
        for record in records[-_MAX_RECORDS:]:
            number, _, text = record.decode("utf-8", "replace").partition(" ")
            if number in _LEVEL_NUMBERS:
                plain = _COLOR.sub("", text[: 2 * MAX_LINE_CHARS])[:MAX_LINE_CHARS]
                CHILD_LINES.append((next(_numbers), int(number), _UNSAFE.sub("\ufffd", plain)))
        rest = rest[-_RECORD_BYTES:]
        time.sleep(_READ_PAUSE_S)


class _Lines:
    """Structlog's output: whole lines, one write each, without errors."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = stream.encoding or "utf-8"

    def msg(self, line: str) -> None:
        """Write `line`, with escapes for characters that the stream's encoding lacks."""
        text = f"{line}\n".encode(self._encoding, "backslashreplace").decode(self._encoding)
        # A closed terminal or a full disk must not end the daemon.
        with _ONE_LINE_AT_A_TIME, contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()

    def debug(self, line: str) -> None:
        """Write a line of this level; the other levels likewise."""
        _remember("debug", line)
        self.msg(line)

    def info(self, line: str) -> None:
        _remember("info", line)
        self.msg(line)

    def warning(self, line: str) -> None:
        _remember("warning", line)
        self.msg(line)

    def error(self, line: str) -> None:
        _remember("error", line)
        self.msg(line)

    critical = error


class _Library(logging.Handler):
    """Logs the records of other libraries."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get().log(
                record.levelno,
                LIBRARY_MESSAGE,
                logger=record.name,
                message=record.getMessage(),
                **({"exc_info": record.exc_info} if record.exc_info else {}),
            )
        except Exception:  # noqa: BLE001 - a library's record may have arguments that do not fit its format
            self.handleError(record)


def _add_time(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    return {"timestamp": now.replace("+00:00", "Z"), **event}


def _make_printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape control characters and invalid text: file names may contain anything."""
    for key, value in event.items():
        text = os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else value
        if isinstance(text, str) and not text.isprintable() and key not in {"exception", "stack"}:
            text = _Verbatim(repr(text))
        event[key] = text
    return event


class _Verbatim:
    """Escaped text, which the renderer must not escape again."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _plain(value: object) -> str:
    """Return a value that JSON lacks as text."""
    return os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else repr(value)


def leave(status: int) -> NoReturn:
    """Exit with this status, which systemd evaluates, even if the log cannot be written.

    Python would flush stderr at exit, and change the status to 120 on a full disk.
    """
    try:
        sys.stderr.flush()
    except OSError:
        os._exit(status)
    sys.exit(status)
