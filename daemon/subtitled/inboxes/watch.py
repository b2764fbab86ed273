"""The thread that watches the inboxes for media files that have settled."""

from __future__ import annotations

import os
import queue
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserverVFS

from subtitle.media_source import MEDIA_SUFFIXES
from subtitle.messages import OpenFile
from subtitled import log
from subtitled.config.schema import BESIDE
from subtitled.files.atomic_files import printable
from subtitled.files.filesystem import (
    HUNG_S,
    MOUNTS,
    NETWORK_FILE_SYSTEMS,
    file_system,
    is_mount_error,
    is_open_for_writing,
    mount_of,
    read_mounts,
    writer_of,
)
from subtitled.inboxes.debounce import Debouncer
from subtitled.inboxes.file_filter import ARCHIVES, FileFilter, FilterResult
from subtitled.media.completeness import incompleteness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver, ObservedWatch

    from subtitled.config.schema import InboxConfig

_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]
_LOST = "create or mount the folder; it is watched as soon as it exists"
_POLL_S = 5.0
"""Seconds between two scans of a network file system: each lists the whole folder over the network."""
_CHECK_S = 1.0
"""Seconds between two checks whether an inbox is still the watched folder."""
_COMPLETE_CHECK_S = 1.0
"""Seconds between two checks whether a file is closed and whole."""
_RECENT_NS = 600 * 1_000_000_000
"""A processed file whose time is further back is not being written."""
_STOP_S = 2.0
"""Seconds that `stop` waits for the threads, which may be in the middle of a scan."""

_log = log.get()


class SettledFile(Struct, frozen=True):
    """A media file that has settled, with the index of its inbox; in `done` or `failed` if it was processed before."""

    inbox: int
    path: str
    """Absolute. Bytes that are not UTF-8 are surrogate-escaped, as by os.fsdecode."""
    size: int
    mtime_ns: int
    mount: str = ""
    """Mount point of its file system; "" for the root file system."""
    output_mount: str = ""
    """The same of the inbox's output folder; "" if the subtitles lie beside the file."""


class RenamedFile(Struct, frozen=True):
    """A file that was renamed within its inbox, or moved to another folder of it."""

    inbox: int
    before: str
    path: str
    """Both absolute, as in SettledFile."""


class _Change(Struct, frozen=True):
    """A file system event for `path`, in the inbox with index `inbox`."""

    inbox: int
    path: str
    is_directory: bool
    is_gone: bool
    """It was deleted or renamed; another file may be there by now."""
    renamed_to: str = ""
    """Its new path in the same inbox, outside of `done` and `failed`."""


class _WaitingFile(Struct, frozen=True):
    """A file that waits for its writer."""

    values: tuple[int, int]
    """Its size and time."""
    since: float
    is_logged: bool = False
    """Whether a warning was logged after the longest wait."""
    is_open: bool = False
    """It is open for writing."""
    writer: str = ""
    """The process that had it open when the warning was logged, if known."""


class _InboxState:
    """The state of one inbox."""

    def __init__(self, index: int, root: str, inbox: InboxConfig) -> None:
        self.index = index
        self.root = root
        self.output = inbox.output
        self.rescan_s = inbox.rescan_s
        self.incomplete_wait_s = inbox.incomplete_wait_s
        self.debouncer = Debouncer(inbox.settle_s)
        self.ignored: dict[str, str] = {}
        """Ignored paths that were logged, with their causes."""
        self.waiting: dict[str, _WaitingFile] = {}
        """Files that have settled but are open for writing or not whole."""
        self.identity: tuple[int, int] | None = None
        """Device and inode of the watched folder; None while the folder is to be watched again."""
        self.is_lost = False
        self.is_unwatchable = False
        self.observer: BaseObserver | None = None
        self.watch: ObservedWatch | None = None
        self.scan_at = 0.0


class InboxWatcher:
    """Reports each media file of `inboxes` to `sink` when it has settled, once per path, size and time, and renames.

    Existing files are reported too. Each inbox has a thread of its own, so that a mount that hangs stops no other inbox; `sink`
    is called in these threads and must not raise. A missing inbox is watched as soon as it exists.
    """

    def __init__(
        self,
        inboxes: Sequence[InboxConfig],
        sink: Callable[[SettledFile | RenamedFile], None],
        *,
        mounts: Path = MOUNTS,
        poll_s: float = _POLL_S,
        check_s: float = _CHECK_S,
    ) -> None:
        file_filter = FileFilter(inboxes)
        self._threads = [
            _InboxThread(
                _InboxState(index, root, inbox),
                sink,
                file_filter,
                mounts=mounts,
                poll_s=poll_s,
                check_s=check_s,
            )
            for index, (root, inbox) in enumerate(zip(file_filter.roots, inboxes, strict=True))
        ]

    def start(self) -> None:
        """Start the threads; returns at once. Once only."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads and wait at most 2 s for their end. `sink` is not called afterwards."""
        for thread in self._threads:
            thread.stop()
        deadline = time.monotonic() + _STOP_S
        for thread in self._threads:
            if not thread.hung_s:
                thread.join(deadline - time.monotonic())

    @property
    def is_alive(self) -> bool:
        """Whether all threads run; between `start` and `stop` they always should."""
        return all(thread.is_alive for thread in self._threads)

    @property
    def hung_s(self) -> dict[str, float]:
        """Seconds for which an inbox has not answered, by its path, of those that do not answer."""
        return {thread.root: seconds for thread in self._threads if (seconds := thread.hung_s)}

    @property
    def open_files(self) -> list[OpenFile]:
        """The files that wait for a process that keeps them open for writing."""
        return [file for thread in self._threads for file in thread.open_files]


class _InboxThread:
    """Watches one inbox; everything except `start`, `stop`, `join` and the properties belongs to its thread."""

    def __init__(
        self,
        state: _InboxState,
        sink: Callable[[SettledFile | RenamedFile], None],
        file_filter: FileFilter,
        *,
        mounts: Path,
        poll_s: float,
        check_s: float,
    ) -> None:
        self._state = state
        self.root = printable(state.root)
        self._sink = sink
        self._mounts = mounts
        self._poll_s = poll_s
        self._check_s = check_s
        self._filter = file_filter
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._is_stopping = threading.Event()
        self._check_at = 0.0
        self._observers: dict[bool, BaseObserver] = {}
        self._busy_since: float | None = None
        """When the file system was asked last; None while the thread waits for changes."""
        self._failing_since: float | None = None
        """When the mount of the inbox was found without its server."""
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once. Once only."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to stop. `sink` is not called afterwards."""
        self._is_stopping.set()
        self._changes.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_s))

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def hung_s(self) -> float:
        """Seconds since the file system was asked; 0 if it has answered, or still may within `HUNG_S`.

        An error of a mount whose server has gone is no answer.
        """
        since = self._busy_since if self._failing_since is None else self._failing_since
        busy_s = 0.0 if since is None else time.monotonic() - since
        return busy_s if busy_s >= HUNG_S else 0.0

    @property
    def open_files(self) -> list[OpenFile]:
        """The files that wait for a process that keeps them open for writing."""
        now = time.monotonic()
        return [
            OpenFile(path=printable(path), process=file.writer, seconds=round(now - file.since))
            for path, file in list(self._state.waiting.items())
            if file.is_open and file.is_logged
        ]

    def _run(self) -> None:
        try:
            while not self._is_stopping.is_set():
                self._turn()
        finally:
            for observer in self._observers.values():
                observer.stop()
            for observer in self._observers.values():
                observer.join(_STOP_S)

    def _turn(self) -> None:
        """Check, scan and observe what is due, then wait for events until the next deadline."""
        state = self._state
        self._busy_since = time.monotonic()
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + self._check_s
            self._check(state)
        if state.identity is not None and time.monotonic() >= state.scan_at:
            self._rescan(state)
        for path in state.debouncer.due(time.monotonic()):
            self._observe(path)
        self._busy_since = None
        changes = self._changes_until(self._next_deadline())
        self._busy_since = time.monotonic()
        for change in changes:
            self._handle(change)

    def _next_deadline(self) -> float:
        state = self._state
        scan_at = float("inf") if state.identity is None else state.scan_at
        settles_at = state.debouncer.next_deadline
        return min(self._check_at, scan_at, float("inf") if settles_at is None else settles_at)

    def _changes_until(self, deadline: float) -> list[_Change]:
        """Wait until `deadline` for a change; return all pending changes, each once."""
        changes: dict[_Change, None] = {}
        try:
            change = self._changes.get(timeout=max(0.0, deadline - time.monotonic()))
            while change is not None:
                changes[change] = None
                change = self._changes.get_nowait()
        except queue.Empty:
            pass
        return list(changes)

    def _handle(self, change: _Change) -> None:
        if self._is_stopping.is_set():
            return
        state = self._state
        if change.path == state.root:
            # The folder was deleted: its watch is dead, even if a new folder has the same inode.
            state.identity = None
            self._check_at = 0.0
        elif change.is_directory:
            self._scan(state, change.path, set())
        else:
            if change.is_gone:
                # A file that exists now is a new one, even with the same size and time.
                self._forget(change.path)
            after = change.renamed_to
            # A file that was moved to a recycle bin counts as deleted.
            if (
                after
                and self._filter.inbox_of(after) == state.index
                and not self._filter.is_ignored_path(after)
            ):
                self._sink(RenamedFile(state.index, change.path, after))
            self._observe(change.path)

    def _check(self, state: _InboxState) -> None:
        """Watch the inbox's folder, if it is not the folder that is watched."""
        try:
            info = os.stat(os.path.join(state.root, ""))  # noqa: PTH116, PTH118 - the slash demands a folder
        except OSError as error:
            self._unwatch(state)
            if not is_mount_error(error):
                self._failing_since = None
            elif self._failing_since is None:
                self._failing_since = time.monotonic()
            if not state.is_lost:
                state.is_lost = True
                _log.warning(log.INBOX_LOST, path=printable(state.root), cause=error.strerror, remedy=_LOST)
            return
        self._failing_since = None
        identity = (info.st_dev, info.st_ino)
        if identity == state.identity:
            return
        self._unwatch(state)
        state.identity = identity
        state.is_lost = False
        state.scan_at = 0.0

    def _unwatch(self, state: _InboxState) -> None:
        state.identity = None
        if state.watch is not None and state.observer is not None:
            state.observer.unschedule(state.watch)
        state.watch = state.observer = None

    def _watch(self, state: _InboxState) -> None:
        # inotify does not follow links here, so the target of an inbox that is a link is watched.
        real = os.path.realpath(state.root)
        kind = file_system(real, read_mounts(self._mounts))
        is_remote = kind in NETWORK_FILE_SYSTEMS
        marker = _EventHandler(state.index, state.root, real, self._changes)
        try:
            observer = self._observer(is_remote=is_remote)
            state.watch = observer.schedule(marker, real, recursive=True, event_filter=_EVENTS)
            state.observer = observer
        except FileNotFoundError:
            # It was deleted just now; the next check logs it, or watches its replacement.
            state.identity = None
            return
        except OSError as error:
            if not state.is_unwatchable:
                state.is_unwatchable = True
                remedy = (
                    f"raise fs.inotify.max_user_watches; until then it is scanned every {state.rescan_s:g} s"
                )
                path, cause = printable(state.root), error.strerror
                _log.warning(log.INBOX_UNWATCHABLE, path=path, cause=cause, remedy=remedy)
            return
        state.is_unwatchable = False
        _log.info(log.INBOX_WATCHED, path=printable(state.root), file_system=kind, is_polled=is_remote)

    def _observer(self, *, is_remote: bool) -> BaseObserver:
        """Return the running observer of that kind. Raises OSError if the kernel provides no inotify."""
        if is_remote not in self._observers:
            # watchdog 7 warns when folders are created faster than it reads events, and handles it correctly;
            # where warnings are errors, as in the tests, the warning would end its thread.
            warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
            # lstat: watchdog's own polling follows links to folders, even in a circle.
            observer: BaseObserver = (
                PollingObserverVFS(stat=os.lstat, listdir=os.scandir, polling_interval=self._poll_s)
                if is_remote
                else Observer()
            )
            observer.start()
            self._observers[is_remote] = observer
        return self._observers[is_remote]

    def _rescan(self, state: _InboxState) -> None:
        """Observe everything in the inbox: files that existed before the watch, or without an event."""
        # Watch first, then scan: a file that arrives between the two is found by both, not by neither.
        if state.watch is None:
            self._watch(state)
        seen: set[str] = set()
        self._scan(state, state.root, seen)
        failed = os.path.join(state.root, "failed")  # noqa: PTH118
        for folder, _, names in os.walk(failed):
            self._busy_since = time.monotonic()
            for name in names:  # a file may have changed while the daemon did not run
                path = os.path.join(folder, name)  # noqa: PTH118
                seen.add(path)
                self._observe(path)
        for path in (state.debouncer.settled | state.ignored.keys() | state.waiting.keys()) - seen:
            if _is_missing(path):
                self._forget(path)
        state.scan_at = time.monotonic() + state.rescan_s

    def _scan(self, state: _InboxState, top: str, seen: set[str]) -> None:
        """Observe every file in the folder `top` and below; add all paths to `seen`."""
        folders = [top]
        while folders and not self._is_stopping.is_set():
            folder = folders.pop()
            seen.add(folder)
            self._busy_since = time.monotonic()
            if self._filter.inbox_of(os.path.join(folder, "_")) != state.index:  # noqa: PTH118
                continue  # an inbox in this one
            if (result := self._filter.check_folder(folder)) is not None:
                self._ignore(state, folder, result)
                continue
            try:
                with os.scandir(folder) as entries:
                    found = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                cause = f"the folder cannot be listed: {error.strerror}"
                self._ignore(state, folder, FilterResult(accepted=False, cause=cause))
                continue
            if folder != state.root and os.path.splitext(folder)[1].casefold() in MEDIA_SUFFIXES:  # noqa: PTH122
                self._ignore(state, folder, self._filter.check(folder))
            for path, is_folder in found:
                if is_folder:
                    folders.append(path)
                else:
                    seen.add(path)
                    self._observe(path)

    def _observe(self, path: str) -> None:
        """Report the file at `path` if it has settled; postpone it, or log why it is ignored."""
        self._busy_since = time.monotonic()
        result = self._filter.check(path, with_archives=True)
        state = self._state
        if result.inbox != state.index or self._is_stopping.is_set():
            return
        if not result.accepted:
            state.debouncer.forget(path)
            state.waiting.pop(path, None)
            if _is_missing(path):
                state.ignored.pop(path, None)
            elif not self._filter.is_archived(path):
                self._ignore(state, path, result)
            return
        try:
            info = os.stat(path)  # noqa: PTH116
        except OSError:
            # Deleted between two observations, or unreachable; the next scan observes it again.
            self._forget(path)
            return
        now = time.monotonic()
        if state.debouncer.observe(path, info.st_size, info.st_mtime_ns, now):
            if self._is_unfinished(path, (info.st_size, info.st_mtime_ns), now):
                state.debouncer.postpone(path, info.st_size, info.st_mtime_ns, now, _COMPLETE_CHECK_S)
                return
            state.ignored.pop(path, None)
            _log.debug(log.INBOX_FOUND, path=printable(path), size=info.st_size)
            mounts = read_mounts()
            self._sink(
                SettledFile(
                    result.inbox,
                    path,
                    info.st_size,
                    info.st_mtime_ns,
                    mount_of(path, mounts),
                    "" if state.output == BESIDE else mount_of(state.output, mounts),
                )
            )

    def _is_unfinished(self, path: str, values: tuple[int, int], now: float) -> bool:
        """Return whether a settled file waits for its writer: a copy that pauses has its final size, but not its content.

        A file that is open for writing waits until it is closed; one that is not whole waits for `incomplete_wait_s`.
        """
        state = self._state
        limit_s = state.incomplete_wait_s
        if self._filter.is_archived(path) and time.time_ns() - values[1] > _RECENT_NS:
            return False  # it failed and has not changed since
        is_open = is_open_for_writing(path, self._mounts)
        cause = "it is open for writing; it waits" if is_open else ""
        if not is_open and (fault := _incompleteness(path)):
            cause = f"{fault}; it waits {limit_s:g} s for the rest"
        if not cause:
            state.waiting.pop(path, None)
            return False
        waiting = state.waiting.get(path)
        if waiting is None or waiting.values != values:
            waiting = state.waiting[path] = _WaitingFile(values, now)
        is_over = now - waiting.since >= limit_s
        if is_over and not waiting.is_logged:
            writer = writer_of(path) if is_open else ""
            outcome = (
                f"it is still open for writing{writer and f' by {writer}'}; it waits until it is closed"
                if is_open
                else f"{fault}; it is accepted as it is"
            )
            _log.warning(
                log.INBOX_INCOMPLETE,
                path=printable(path),
                waited_s=round(now - waiting.since, 1),
                cause=outcome,
            )
            state.waiting[path] = _WaitingFile(
                values, waiting.since, is_logged=True, is_open=is_open, writer=writer
            )
        if is_over and not is_open:
            del state.waiting[path]
            return False
        self._ignore(state, path, FilterResult(accepted=False, cause=cause))
        return True

    def _forget(self, path: str) -> None:
        """Drop the state of a file that is gone."""
        self._state.debouncer.forget(path)
        self._state.ignored.pop(path, None)
        self._state.waiting.pop(path, None)

    def _ignore(self, state: _InboxState, path: str, result: FilterResult) -> None:
        """Log that `path` is ignored; again only if the cause changes."""
        if not result.is_own_file and state.ignored.get(path) != result.cause:
            state.ignored[path] = result.cause
            _log.info(log.INBOX_IGNORED, path=printable(path), cause=result.cause)


class _EventHandler(FileSystemEventHandler):
    """Puts the events of watchdog, on its thread, into a queue."""

    def __init__(self, inbox: int, root: str, real: str, changes: queue.SimpleQueue[_Change | None]) -> None:
        self._inbox = inbox
        self._root = root
        self._real = real
        self._archives = tuple(os.path.join(root, name, "") for name in ARCHIVES)  # noqa: PTH118
        self._changes = changes

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Enqueue the paths of `event`."""
        is_removed = isinstance(event, (FileDeletedEvent, FileMovedEvent))
        is_written = isinstance(event, (FileModifiedEvent, FileClosedEvent))
        for raw, is_gone in ((event.src_path, is_removed), (event.dest_path, False)):
            path = os.fsdecode(raw)
            # A deleted folder contains nothing to observe, unless it is the inbox itself.
            if path and (not isinstance(event, DirDeletedEvent) or path == self._real):
                shown = self._shown(path)
                is_archived = shown.startswith(self._archives)
                if is_archived and not (is_written or is_gone):
                    continue  # a file that was processed
                renamed_to = ""
                if isinstance(event, FileMovedEvent) and is_gone and not is_archived:
                    after = self._shown(os.fsdecode(event.dest_path))
                    renamed_to = "" if after.startswith(self._archives) else after
                self._changes.put(_Change(self._inbox, shown, event.is_directory, is_gone, renamed_to))

    def _shown(self, path: str) -> str:
        """Return a path below the inbox as it is configured."""
        return self._root + path.removeprefix(self._real)


def _incompleteness(path: str) -> str:
    """Return why a file is not whole; "" if it is, if its kind is unknown, or if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    found = None
    with suppress(OSError, ValueError, OverflowError):
        found = incompleteness(descriptor)
    with suppress(OSError):  # a mount that has gone reports an error here too
        os.close(descriptor)
    return found.cause if found else ""


def _is_missing(path: str) -> bool:
    """Return whether nothing exists at `path`; False if that cannot be determined."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
