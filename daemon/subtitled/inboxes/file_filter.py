"""The rules by which an inbox takes a file or leaves it alone."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from msgspec import Struct

from subtitled.config.schema import BESIDE, FORMATS
from subtitled.files.atomic_files import inside, is_temporary, printable
from subtitled.output.paths import ERROR_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from subtitled.config.schema import InboxConfig

ARCHIVES = frozenset({"done", "failed"})
"""Folders at an inbox's root that keep finished sources; they are not watched."""

_SOUND = """
    .3ga .aac .ac3 .aif .aifc .aiff .amr .ape .au .caf .dsf .dts .eac3 .flac .m4a .m4b .mka .mp1 .mp2 .mp3 .mpa
    .mpc .oga .ogg .oma .opus .ra .rf64 .snd .spx .tak .tta .voc .w64 .wav .wave .weba .wma .wv
"""
_PICTURES = """
    .3g2 .3gp .asf .avi .divx .dv .f4v .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut .ogm .ogv .qt
    .rm .rmvb .ts .vob .webm .wmv .wtv
"""
MEDIA_SUFFIXES = frozenset((_SOUND + _PICTURES).split())
"""Endings, in lower case, of the files that are taken: containers of FFmpeg and libsndfile, no playlists."""

_UNFINISHED_SUFFIXES = (".part", ".tmp", ".crdownload", ".partial")
_OUTPUT_SUFFIXES = tuple(f".{form}" for form in FORMATS)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FilterResult(Struct, frozen=True):
    """What becomes of a path, with the rule that says so."""

    accepted: bool
    cause: str
    inbox: int | None = None
    """Index of the inbox that the path lies in."""
    is_ours: bool = False
    """The daemon itself made it: not worth a line in the log."""


def explain(path: str | Path, inboxes: Sequence[InboxConfig]) -> FilterResult:
    """Return whether one of `inboxes` takes what is at `path` now, and why. Looks at the file system."""
    return FileFilter(inboxes).judge(absolute(path))


def absolute(path: str | Path) -> str:
    """Return `path` from the root on, without `.` and `..`; symbolic links stay as they are."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve() follows links


class FileFilter:
    """Judges paths by the rules of some inboxes; `roots` are their absolute paths, in order."""

    def __init__(self, inboxes: Sequence[InboxConfig]) -> None:
        self._inboxes = inboxes
        self.roots = tuple(absolute(inbox.path) for inbox in inboxes)
        self._outputs = tuple(None if inbox.output == BESIDE else absolute(inbox.output) for inbox in inboxes)

    def judge(self, path: str) -> FilterResult:
        """Return the verdict on `path`, an absolute one, as the file system has it now."""
        index = self.inbox_of(path)
        if index is None:
            roots = ", ".join(map(printable, self.roots)) or "none"
            return FilterResult(accepted=False, cause=f"it lies in no inbox (the inboxes: {roots})")
        for at, char in enumerate(path[len(self.roots[index]) + 1 :], len(self.roots[index]) + 1):
            if char == "/" and (verdict := self.judge_folder(path[:at])) is not None:
                return verdict
        return self._by_name(path, index) or self._by_kind(path, index)

    def judge_folder(self, path: str) -> FilterResult | None:
        """Return why the folder `path`, an absolute one, is not looked into; None where it is.

        The folders above it are taken to be looked into.
        """
        index = self.inbox_of(path)
        parent, name = os.path.split(path)
        if index is None:
            return None
        if (parent == self.roots[index] and name in ARCHIVES) or path == self._outputs[index]:
            return _left(index, f"{name}/ keeps what is finished", is_ours=True)
        if name.startswith("."):
            return _left(index, f"the name of the folder {printable(name)} begins with a dot")
        if os.path.islink(path):  # noqa: PTH114 - Path objects take most of a scan's time
            return _left(index, f"the folder {printable(name)} is a symbolic link, which is not followed")
        return None

    def inbox_of(self, path: str) -> int | None:
        """Return the index of the innermost inbox that `path` lies below."""
        holding = (at for at, root in enumerate(self.roots) if path.startswith(root.rstrip("/") + "/"))
        return max(holding, key=lambda at: len(self.roots[at]), default=None)

    def _by_name(self, path: str, index: int) -> FilterResult | None:
        name = os.path.basename(path).casefold()  # noqa: PTH119 - likewise
        if is_temporary(name):
            return _left(index, "it is a subtitle file that is being written", is_ours=True)
        if name.startswith("."):
            return _left(index, "its name begins with a dot")
        if name.startswith("~"):
            return _left(index, "its name begins with a tilde, as those of temporary files do")
        if name.endswith(_UNFINISHED_SUFFIXES):
            return _left(index, f"its ending {_suffix(name)} says that it is unfinished")
        if name.endswith(_OUTPUT_SUFFIXES) and self._outputs[index] in {None, self.roots[index]}:
            return _left(index, "it is a subtitle file", is_ours=True)
        if name.endswith(ERROR_SUFFIX):
            return _left(index, "it says why another file failed", is_ours=True)
        return None

    def _by_kind(self, path: str, index: int) -> FilterResult:
        try:
            is_link = stat.S_ISLNK(os.lstat(path).st_mode)
            mode = os.stat(path).st_mode  # noqa: PTH116 - likewise
        except FileNotFoundError:
            is_link = os.path.islink(path)  # noqa: PTH114 - likewise
            return _left(index, "it is a symbolic link to nothing" if is_link else "it does not exist")
        except OSError as error:
            return _left(index, f"it cannot be looked at: {error.strerror}")
        if is_link and not inside(self.roots[index], path):
            return _left(index, "it is a symbolic link that leads out of the inbox")
        if is_link and stat.S_ISDIR(mode):
            return _left(index, "it is a symbolic link to a folder, which is not followed")
        if stat.S_ISDIR(mode):
            return _left(index, "it is a folder; what it holds is judged file by file")
        if not stat.S_ISREG(mode):
            return _left(index, f"it is {_KINDS.get(stat.S_IFMT(mode), 'no file')}")
        suffix = _suffix(path.casefold())
        if suffix not in MEDIA_SUFFIXES:
            ending = f"its ending {printable(suffix)} is" if suffix else "it has no ending, so its name is"
            return _left(index, f"{ending} not that of a media file")
        settle_s = self._inboxes[index].settle_s
        cause = (
            f"it is a media file ({suffix}), taken when its size and time have not changed for {settle_s:g} s"
        )
        return FilterResult(accepted=True, cause=cause, inbox=index)


def _left(index: int, cause: str, *, is_ours: bool = False) -> FilterResult:
    return FilterResult(accepted=False, cause=cause, inbox=index, is_ours=is_ours)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1]  # noqa: PTH122 - likewise
