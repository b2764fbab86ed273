"""The thread that watches the inboxes for media files which have come to rest."""

from __future__ import annotations

import os
import queue
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
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

from subtitled.files.atomic_files import printable
from subtitled.files.filesystem import NETWORK_FILE_SYSTEMS, file_system
from subtitled.inboxes.debounce import Debouncer
from subtitled.inboxes.file_filter import MEDIA_SUFFIXES, FileFilter, FilterResult, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver, ObservedWatch

    from subtitled.config.schema import InboxConfig

__all__ = ["FilterResult", "InboxWatcher", "SettledFile", "explain"]

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
_LOST = "make the folder, or mount it; it is watched as soon as it is there"
_MOUNTS = Path("/proc/self/mounts")
_POLL_S = 5.0
"""Seconds between two looks at a network file system: each lists the whole folder over the wire."""
_CHECK_S = 1.0
"""Seconds between two looks at whether an inbox is still the folder that is watched."""
_STOP_S = 30.0
"""Seconds that `stop` waits for the thread, which may be in the middle of a scan."""

_log = structlog.get_logger()


class SettledFile(Struct, frozen=True):
    """A media file that has come to rest: in the inbox of that index, at an absolute path."""

    inbox: int
    path: str
    """Bytes that are no UTF-8 are surrogate-escaped, as os.fsdecode does."""
    size: int
    mtime_ns: int


class _Mark(Struct, frozen=True):
    """Something happened to `path`, in the inbox of index `inbox`."""

    inbox: int
    path: str
    is_directory: bool
    is_gone: bool
    """It was deleted, or moved to another name; something else may be there by now."""


class _Watched:
    """What the thread knows about one inbox."""

    def __init__(self, index: int, root: str, inbox: InboxConfig) -> None:
        self.index = index
        self.root = root
        self.rescan_s = inbox.rescan_s
        self.settling = Debouncer(inbox.settle_s)
        self.ignored: dict[str, str] = {}
        """Paths that were left alone and said so in the log, each with its cause."""
        self.identity: tuple[int, int] | None = None
        """Device and inode of the folder that is watched; None while it is to be watched anew."""
        self.is_lost = False
        self.is_unwatchable = False
        self.observer: BaseObserver | None = None
        self.watch: ObservedWatch | None = None
        self.scan_at = 0.0


class InboxWatcher:
    """Reports each media file of `inboxes` to `sink` once it has rested, once per path, size and mtime.

    What is there at the start is reported too. `sink` is called on the watcher's own thread, to which all
    else here belongs but `start` and `stop`; it must not raise. A missing inbox is waited for.
    """

    def __init__(
        self,
        inboxes: Sequence[InboxConfig],
        sink: Callable[[SettledFile], None],
        *,
        mounts: Path = _MOUNTS,
        poll_s: float = _POLL_S,
        check_s: float = _CHECK_S,
    ) -> None:
        self._sink = sink
        self._mounts = mounts
        self._poll_s = poll_s
        self._check_s = check_s
        self._admission = FileFilter(inboxes)
        self._watched = tuple(
            _Watched(index, root, inbox)
            for index, (root, inbox) in enumerate(zip(self._admission.roots, inboxes, strict=True))
        )
        self._marks: queue.SimpleQueue[_Mark | None] = queue.SimpleQueue()
        self._is_stopping = threading.Event()
        self._check_at = 0.0
        self._observers: dict[bool, BaseObserver] = {}
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def start(self) -> None:
        """Start the thread; returns at once. Once only."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for its end, 30 s at most. `sink` is not called afterwards."""
        self._is_stopping.set()
        self._marks.put(None)
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs: between `start` and `stop` anything else is a bug."""
        return self._thread.is_alive()

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
        """Check, scan, look at what is due; then wait for events until the next of these."""
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + self._check_s
            for watched in self._watched:
                self._check(watched)
        for watched in self._watched:
            if watched.identity is not None and time.monotonic() >= watched.scan_at:
                self._rescan(watched)
            for path in watched.settling.due(time.monotonic()):
                self._look(path)
        for mark in self._marks_until(self._next_deadline()):
            self._handle(mark)

    def _next_deadline(self) -> float:
        rests = [watched.settling.next_deadline for watched in self._watched]
        scans = [watched.scan_at for watched in self._watched if watched.identity is not None]
        return min(self._check_at, *scans, *(rest for rest in rests if rest is not None), float("inf"))

    def _marks_until(self, deadline: float) -> list[_Mark]:
        """Wait for the first mark until `deadline`; return all that there are, each once."""
        marks: dict[_Mark, None] = {}
        try:
            mark = self._marks.get(timeout=max(0.0, deadline - time.monotonic()))
            while mark is not None:
                marks[mark] = None
                mark = self._marks.get_nowait()
        except queue.Empty:
            pass
        return list(marks)

    def _handle(self, mark: _Mark) -> None:
        if self._is_stopping.is_set():
            return
        watched = self._watched[mark.inbox]
        if mark.path == watched.root:
            # The folder was deleted: its watch is dead, even if a new one got the same inode since.
            watched.identity = None
            self._check_at = 0.0
        elif mark.is_directory:
            self._scan(watched, mark.path, set())
        else:
            if mark.is_gone:
                # What is there now, alike to the last byte perhaps, came after it.
                watched.settling.forget(mark.path)
                watched.ignored.pop(mark.path, None)
            self._look(mark.path)

    def _check(self, watched: _Watched) -> None:
        """Watch the inbox's folder, if another one is there than the one that is watched."""
        try:
            info = os.stat(os.path.join(watched.root, ""))  # noqa: PTH116, PTH118 - the slash demands a folder
        except OSError as error:
            self._unwatch(watched)
            if not watched.is_lost:
                watched.is_lost = True
                _log.warning("inbox.lost", path=printable(watched.root), cause=error.strerror, remedy=_LOST)
            return
        identity = (info.st_dev, info.st_ino)
        if identity == watched.identity:
            return
        self._unwatch(watched)
        watched.identity = identity
        watched.is_lost = False
        watched.scan_at = 0.0

    def _unwatch(self, watched: _Watched) -> None:
        watched.identity = None
        if watched.watch is not None and watched.observer is not None:
            watched.observer.unschedule(watched.watch)
        watched.watch = watched.observer = None

    def _watch(self, watched: _Watched) -> None:
        # The kernel is not asked to follow links, so an inbox that is one is watched where it leads.
        real = os.path.realpath(watched.root)
        kind = file_system(real, self._mounts.read_text("utf-8", "surrogateescape"))
        is_remote = kind in NETWORK_FILE_SYSTEMS
        marker = _Marker(watched.index, watched.root, real, self._marks)
        try:
            observer = self._observer(is_remote=is_remote)
            watched.watch = observer.schedule(marker, real, recursive=True, event_filter=_EVENTS)
            watched.observer = observer
        except FileNotFoundError:
            # It vanished just now; the next check says so, or watches what took its place.
            watched.identity = None
            return
        except OSError as error:
            if not watched.is_unwatchable:
                watched.is_unwatchable = True
                remedy = f"raise fs.inotify.max_user_watches; until then it is scanned every {watched.rescan_s:g} s"
                path, cause = printable(watched.root), error.strerror
                _log.warning("inbox.unwatchable", path=path, cause=cause, remedy=remedy)
            return
        watched.is_unwatchable = False
        _log.info("inbox.watched", path=printable(watched.root), file_system=kind, is_polled=is_remote)

    def _observer(self, *, is_remote: bool) -> BaseObserver:
        """Return the observer of that kind, running. Raises OSError where the kernel gives no inotify."""
        if is_remote not in self._observers:
            # watchdog 7 warns whenever folders are made faster than it reads, and then does the right thing;
            # made an error, as in our tests, the warning would end its thread.
            warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
            # lstat: watchdog's own polling follows links to folders, in circles if they lead there.
            observer: BaseObserver = (
                PollingObserverVFS(stat=os.lstat, listdir=os.scandir, polling_interval=self._poll_s)
                if is_remote
                else Observer()
            )
            observer.start()
            self._observers[is_remote] = observer
        return self._observers[is_remote]

    def _rescan(self, watched: _Watched) -> None:
        """Look at everything in the inbox: what no event told, what was there before it was watched."""
        # Watch first, then scan: a file that comes between the two is seen by both, not by neither.
        if watched.watch is None:
            self._watch(watched)
        seen: set[str] = set()
        self._scan(watched, watched.root, seen)
        for path in (watched.settling.taken | watched.ignored.keys()) - seen:
            if _is_missing(path):
                watched.settling.forget(path)
                watched.ignored.pop(path, None)
        watched.scan_at = time.monotonic() + watched.rescan_s

    def _scan(self, watched: _Watched, top: str, seen: set[str]) -> None:
        """Look at every file in the folder `top` and below; add all paths to `seen`."""
        folders = [top]
        while folders and not self._is_stopping.is_set():
            folder = folders.pop()
            seen.add(folder)
            if (verdict := self._admission.judge_folder(folder)) is not None:
                self._ignore(watched, folder, verdict)
                continue
            try:
                with os.scandir(folder) as entries:
                    found = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                cause = f"the folder cannot be listed: {error.strerror}"
                self._ignore(watched, folder, FilterResult(accepted=False, cause=cause))
                continue
            if folder != watched.root and os.path.splitext(folder)[1].casefold() in MEDIA_SUFFIXES:  # noqa: PTH122
                self._ignore(watched, folder, self._admission.judge(folder))
            for path, is_folder in found:
                if is_folder:
                    folders.append(path)
                else:
                    seen.add(path)
                    self._look(path)

    def _look(self, path: str) -> None:
        """Report the file at `path`, if it is to be taken now; put it off, or say why it is left alone."""
        verdict = self._admission.judge(path)
        if verdict.inbox is None:
            return
        watched = self._watched[verdict.inbox]
        if not verdict.accepted:
            watched.settling.forget(path)
            if _is_missing(path):
                watched.ignored.pop(path, None)
            else:
                self._ignore(watched, path, verdict)
            return
        try:
            info = os.stat(path)  # noqa: PTH116
        except OSError:
            # Gone between two looks; or unreachable, and the next scan looks again.
            watched.settling.forget(path)
            return
        if watched.settling.look(path, info.st_size, info.st_mtime_ns, time.monotonic()):
            _log.debug("inbox.found", path=printable(path), size=info.st_size)
            self._sink(SettledFile(verdict.inbox, path, info.st_size, info.st_mtime_ns))

    def _ignore(self, watched: _Watched, path: str, verdict: FilterResult) -> None:
        """Log that `path` is left alone; not again until the cause is another."""
        if not verdict.is_ours and watched.ignored.get(path) != verdict.cause:
            watched.ignored[path] = verdict.cause
            _log.info("inbox.ignored", path=printable(path), cause=verdict.cause)


class _Marker(FileSystemEventHandler):
    """Enqueues what watchdog tells, on watchdog's thread."""

    def __init__(self, inbox: int, root: str, real: str, marks: queue.SimpleQueue[_Mark | None]) -> None:
        self._inbox = inbox
        self._root = root
        self._real = real
        self._marks = marks

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Mark the paths of `event` as to be looked at."""
        has_left = isinstance(event, (FileDeletedEvent, FileMovedEvent))
        for raw, is_gone in ((event.src_path, has_left), (event.dest_path, False)):
            path = os.fsdecode(raw)
            # A deleted folder holds nothing to look at, unless it is the inbox itself.
            if path and (not isinstance(event, DirDeletedEvent) or path == self._real):
                shown = self._root + path[len(self._real) :]
                self._marks.put(_Mark(self._inbox, shown, event.is_directory, is_gone))


def _is_missing(path: str) -> bool:
    """Whether nothing is at `path`; not so where that cannot be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
