"""The rules by which an inbox accepts or ignores a file."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from msgspec import Struct

from subtitle.media_source import MEDIA_SUFFIXES
from subtitled.config.schema import BESIDE, FORMATS
from subtitled.files.atomic_files import inside, is_temporary, printable
from subtitled.output.paths import ERROR_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from subtitled.config.schema import InboxConfig

ARCHIVES = frozenset({"done", "failed"})
"""Folders at the root of an inbox that contain finished sources; they are not watched."""

_UNFINISHED_SUFFIXES = (".part", ".tmp", ".crdownload", ".partial")
_OUTPUT_SUFFIXES = tuple(f".{form}" for form in FORMATS)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FilterResult(Struct, frozen=True):
    """Whether a path is accepted, with the reason."""

    accepted: bool
    cause: str
    inbox: int | None = None
    """Index of the inbox that contains the path."""
    is_own_file: bool = False
    """Whether the daemon wrote the file; it is ignored without a log line."""


def absolute(path: str | Path) -> str:
    """Return `path` as an absolute path without `.` and `..`; symbolic links are not resolved."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve() follows links


class FileFilter:
    """Checks paths by the rules of some inboxes; `roots` are their absolute paths, in order."""

    def __init__(self, inboxes: Sequence[InboxConfig]) -> None:
        self._inboxes = inboxes
        self.roots = tuple(absolute(inbox.path) for inbox in inboxes)
        self._outputs = tuple(None if inbox.output == BESIDE else absolute(inbox.output) for inbox in inboxes)

    def check(self, path: str) -> FilterResult:
        """Return whether the inboxes accept `path`, an absolute one, as it is on disk now."""
        index = self.inbox_of(path)
        if index is None:
            roots = ", ".join(map(printable, self.roots)) or "none"
            return FilterResult(accepted=False, cause=f"it is in no inbox (inboxes: {roots})")
        for at, char in enumerate(path[len(self.roots[index]) + 1 :], len(self.roots[index]) + 1):
            if char == "/" and (result := self.check_folder(path[:at])) is not None:
                return result
        return self._check_name(path, index) or self._check_kind(path, index)

    def check_folder(self, path: str) -> FilterResult | None:
        """Return why the folder `path`, an absolute one, is not scanned; None if it is.

        Its parent folders are taken to be scanned.
        """
        index = self.inbox_of(path)
        parent, name = os.path.split(path)
        if index is None:
            return None
        if (parent == self.roots[index] and name in ARCHIVES) or path == self._outputs[index]:
            return _rejected(index, f"{name}/ contains finished files", is_own_file=True)
        if name.startswith("."):
            return _rejected(index, f"the name of the folder {printable(name)} begins with a dot")
        if os.path.islink(path):  # noqa: PTH114 - Path objects take most of a scan's time
            return _rejected(index, f"the folder {printable(name)} is a symbolic link, which is not followed")
        return None

    def inbox_of(self, path: str) -> int | None:
        """Return the index of the innermost inbox that contains `path`."""
        holding = (at for at, root in enumerate(self.roots) if path.startswith(root.rstrip("/") + "/"))
        return max(holding, key=lambda at: len(self.roots[at]), default=None)

    def _check_name(self, path: str, index: int) -> FilterResult | None:
        name = os.path.basename(path).casefold()  # noqa: PTH119 - likewise
        if is_temporary(name):
            return _rejected(index, "it is a temporary file of the daemon", is_own_file=True)
        if name.startswith("."):
            return _rejected(index, "its name begins with a dot")
        if name.startswith("~"):
            return _rejected(index, "its name begins with a tilde, which marks a temporary file")
        if name.endswith(_UNFINISHED_SUFFIXES):
            return _rejected(index, f"its ending {_suffix(name)} marks an unfinished file")
        if name.endswith(_OUTPUT_SUFFIXES) and self._outputs[index] in {None, self.roots[index]}:
            return _rejected(index, "it is a subtitle file", is_own_file=True)
        if name.endswith(ERROR_SUFFIX):
            return _rejected(index, "it is the error text of another file", is_own_file=True)
        return None

    def _check_kind(self, path: str, index: int) -> FilterResult:
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
            mode = os.stat(path).st_mode  # noqa: PTH116 - likewise
        except FileNotFoundError:
            is_link = os.path.islink(path)  # noqa: PTH114 - likewise
            return _rejected(index, "it is a symbolic link to nothing" if is_link else "it does not exist")
        except OSError as error:
            return _rejected(index, f"it cannot be read: {error.strerror}")
        if is_link and not inside(self.roots[index], path):
            return _rejected(index, "it is a symbolic link that leads out of the inbox")
        if is_link and stat.S_ISDIR(mode):
            return _rejected(index, "it is a symbolic link to a folder, which is not followed")
        if stat.S_ISDIR(mode):
            return _rejected(index, "it is a folder; its files are checked one by one")
        if not stat.S_ISREG(mode):
            return _rejected(index, f"it is {_KINDS.get(stat.S_IFMT(mode), 'not a file')}")
        suffix = _suffix(path.casefold())
        if suffix not in MEDIA_SUFFIXES:
            ending = f"its ending {printable(suffix)} is not" if suffix else "it has no ending"
            return _rejected(index, f"{ending} that of a media file" if suffix else ending)
        settle_s = self._inboxes[index].settle_s
        cause = f"it is a media file ({suffix}), accepted when its size and time have not changed for {settle_s:g} s"
        return FilterResult(accepted=True, cause=cause, inbox=index)


def _rejected(index: int, cause: str, *, is_own_file: bool = False) -> FilterResult:
    return FilterResult(accepted=False, cause=cause, inbox=index, is_own_file=is_own_file)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1]  # noqa: PTH122 - likewise
