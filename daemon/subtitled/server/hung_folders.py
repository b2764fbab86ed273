"""Folders on a mount that does not answer: checked, logged, counted, and shown to clients."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from threading import Event

from subtitled import log
from subtitled.core import events as ev
from subtitled.core.actions import CheckFile
from subtitled.core.events import FileChecked
from subtitled.core.records import Job
from subtitled.files.atomic_files import printable
from subtitled.files.filesystem import HUNG_S, wait_until_answers
from subtitled.files.open_beneath import open_beneath
from subtitled.observability.metrics import Metrics
from subtitled.runtime.background import CallInLoop, FolderThread, busy_folders

REMEDY = (
    "check the server and the network of this mount, or mount it again; its files wait, all others are "
    "processed; to give it up: umount -f -l FOLDER; mount --bind FOLDER FOLDER"
)
AT_ONCE_S = 2.0
"""A folder that needs longer to open a file was the reason why a worker could not read it."""
_log = log.get()


class FileChecks:
    """Opens files that a worker could not read, each folder in a separate thread; belongs to the loop's thread."""

    def __init__(self, dispatch: Callable[[ev.Event], None], call_in_loop: CallInLoop) -> None:
        """`dispatch` receives a FileChecked for each file."""
        self._dispatch = dispatch
        self._call_in_loop = call_in_loop
        self._threads: dict[bytes, FolderThread] = {}
        self._stops: dict[bytes, Event] = {}

    @property
    def hung_s(self) -> dict[str, float]:
        """Seconds for which a folder has not answered, by its path, of those that do not answer."""
        return busy_folders(self._threads, HUNG_S)

    def check(self, action: CheckFile) -> None:
        """Open the file of a job, for however long that takes; the broker has one check for a folder at a time."""
        thread = self._threads[action.folder] = FolderThread("file check", self._call_in_loop)
        is_stopped = self._stops[action.folder] = Event()
        thread.run(
            partial(_can_be_opened_at_once, action.job, is_stopped),
            partial(self._checked, action, is_stopped),
        )

    def stop(self, folder: bytes) -> None:
        """Stop the check of a folder: no FileChecked follows. A call that hangs keeps its thread."""
        self._stops.pop(folder).set()
        self._threads.pop(folder).close(0)

    def _checked(self, action: CheckFile, is_stopped: Event, is_at_once: bool) -> None:
        if is_stopped.is_set():
            return
        self.stop(action.folder)
        blame = action.suspicion if is_at_once else ""
        self._dispatch(
            FileChecked(job=action.job.id, folder=action.folder, blame=blame, is_missing=action.is_missing)
        )


def _can_be_opened_at_once(job: Job, is_stopped: Event) -> bool:
    """Wait until a job's folder answers and its mount and inbox are there, then open its file and read a byte; return whether all that took no time.

    Any error of the file itself is an answer of its file system. It returns early once `is_stopped` is set.
    """
    started = time.monotonic()
    path, root = os.fsdecode(job.location), os.fsdecode(job.options.inbox)
    folder = os.path.dirname(path)  # noqa: PTH120 - Path objects would change the path
    is_at_once = wait_until_answers([root or folder, folder], job.options.mount, root, is_stopped)
    if is_stopped.is_set():
        return False
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        descriptor = open_beneath(root, path, flags) if root else os.open(path, flags)
        try:
            os.read(descriptor, 1)
        finally:
            os.close(descriptor)
    return is_at_once and time.monotonic() - started < AT_ONCE_S


class HungFolders:
    """Belongs to the thread of the server's loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.hung_s: dict[str, float] = {}
        """Seconds for which a folder has not answered, by its path, of those that do not answer."""

    def update(self, hung_s: Mapping[str, float]) -> None:
        """Note which folders do not answer now."""
        for folder in hung_s.keys() - self.hung_s.keys():
            _log.error(log.FOLDER_HUNG, path=printable(folder), remedy=REMEDY)
            self._metrics.folder_hung.labels(printable(folder)).set(1)
        for folder in self.hung_s.keys() - hung_s.keys():
            _log.info(log.FOLDER_RECOVERED, path=printable(folder))
            with contextlib.suppress(KeyError):
                self._metrics.folder_hung.remove(printable(folder))
        self.hung_s.clear()
        self.hung_s.update(hung_s)
