"""The rules by which an inbox accepts or ignores a file."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from msgspec import Struct

from subtitle.media_source import MEDIA_SUFFIXES
from subtitled.config.schema import BESIDE, FORMATS
from subtitled.files.atomic_files import inside, is_temporary, printable
from subtitled.files.filesystem import SYSTEM_FOLDERS, matching_glob
from subtitled.output.paths import ERROR_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from subtitled.config.schema import InboxConfig

ARCHIVES = frozenset({"done", "failed"})
"""Folders at the root of an inbox that contain finished sources; they are not watched."""

_UNFINISHED_SUFFIXES = (
    *(".part", ".tmp", ".crdownload", ".partial", ".download", ".opdownload"),
    *(
        ".ytdl",
        ".aria2",
        ".aria2__temp",
        ".!qb",
        ".!ut",
        ".bc!",
        ".filepart",
        ".!sync",
        ".bts",
        ".dctmp",
        ".jc!",
    ),
    *(".xltd", ".td", ".fdmdownload", ".incomplete", ".unfinished", ".swp", "~"),
)
_INTERMEDIATE = re.compile(r"\.(f(\d{2,4}|hls|dash|http)(-[-\w]+)?|temp)\.\w+$|\.part-frag\d+$")
"""One stream or fragment of a download by yt-dlp, or its merged file while it is written."""
_EXTRA_FOLDERS = frozenset({"sample", "samples", "trailer", "trailers", "theme-music", "backdrops"})
_EXTRA = re.compile(r"[^/][-._ ](trailer|sample)\.\w+$|^theme\.\w+$")
"""Extras of a film, as Jellyfin, Kodi and Plex name them."""
_OTHER_SUFFIXES = frozenset(
    """
    .txt .md .nfo .log .csv .tsv .json .xml .yaml .yml .toml .ini .conf .html .htm .css .js .py .sh .bat .pdf .doc .docx .odt .rtf
    .xls .xlsx .ppt .pptx .epub .mobi .jpg .jpeg .png .gif .bmp .webp .tif .tiff .svg .heic .avif .ico .psd .zip .rar .7z .tar .gz
    .bz2 .xz .zst .iso .img .exe .dll .msi .dmg .deb .rpm .apk .so .db .sqlite .torrent .nzb .par2 .sfv .md5 .sha256 .url
    .lnk .desktop .srt .vtt .ass .ssa .sub .idx .sup .smi .sami .ttml .dfxp .stl .lrc .sbv .m3u .m3u8 .pls .cue .xspf .mid .midi .kar
    """.split()  # noqa: SIM905 - a list of endings
)
"""Endings that are known not to be media; any other file is recognised by its content."""
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

    def check(self, path: str, *, with_archives: bool = False) -> FilterResult:
        """Return whether the inboxes accept `path`, an absolute one, as it is on disk now.

        `with_archives`: also in `done` and `failed`.
        """
        index = self.inbox_of(path)
        if index is None:
            roots = ", ".join(map(printable, self.roots)) or "none"
            return FilterResult(accepted=False, cause=f"it is in no inbox (inboxes: {roots})")
        return self._check_path(path, index, with_archives=with_archives) or self._check_kind(path, index)

    def is_ignored_path(self, path: str) -> bool:
        """Return whether a file of any content is ignored at `path`, an absolute one, where it may no longer exist."""
        index = self.inbox_of(path)
        return index is None or self._check_path(path, index) is not None

    def _check_path(self, path: str, index: int, *, with_archives: bool = False) -> FilterResult | None:
        below = len(self.roots[index].rstrip("/")) + 1
        if with_archives and self.is_archived(path):
            below = path.index("/", below) + 1
        for at, char in enumerate(path[below:], below):
            if char == "/" and (result := self.check_folder(path[:at])) is not None:
                return result
        return self._check_name(path, index)

    def is_archived(self, path: str) -> bool:
        """Return whether `path` is in `done` or `failed` of its inbox."""
        index = self.inbox_of(path)
        if index is None:
            return False
        first, slash, _ = path[len(self.roots[index].rstrip("/")) + 1 :].partition("/")
        return bool(slash) and first in ARCHIVES

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
        if name.casefold() in SYSTEM_FOLDERS:
            return _rejected(index, f"the folder {printable(name)} belongs to the system, not to your media")
        if name.casefold() in _EXTRA_FOLDERS and not self._inboxes[index].include:
            return _rejected(
                index, f"the folder {printable(name)} contains extras; set include to accept them"
            )
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
        if os.path.lexists(path + ".aria2"):
            return _rejected(index, "its .aria2 file shows that it is unfinished")
        if name.endswith(_OUTPUT_SUFFIXES) and self._outputs[index] in {None, self.roots[index]}:
            return _rejected(index, "it is a subtitle file", is_own_file=True)
        if name.endswith(ERROR_SUFFIX):
            return _rejected(index, "it is the error text of another file", is_own_file=True)
        return self._check_patterns(path, name, index)

    def _check_patterns(self, path: str, name: str, index: int) -> FilterResult | None:
        inbox = self._inboxes[index]
        below = path[len(self.roots[index].rstrip("/")) + 1 :]
        if (pattern := matching_glob(below, inbox.exclude)) is not None:
            return _rejected(index, f'exclude contains "{pattern}"')
        if inbox.include:
            return (
                None
                if matching_glob(below, inbox.include)
                else _rejected(index, "no pattern of include matches")
            )
        if _INTERMEDIATE.search(name):
            return _rejected(index, "its name is that of an intermediate file of a download")
        if _EXTRA.search(name):
            return _rejected(
                index, "its name is that of a trailer, a sample or theme music; set include to accept it"
            )
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
        if suffix in _OTHER_SUFFIXES:
            return _rejected(index, f"its ending {printable(suffix)} is not that of a media file")
        if suffix not in MEDIA_SUFFIXES and not has_media_content(path):
            ending = f"its ending {printable(suffix)} is unknown" if suffix else "it has no ending"
            return _rejected(index, f"{ending}, and its content is not that of a media file")
        settle_s = self._inboxes[index].settle_s
        cause = f"it is a media file ({suffix or 'by its content'}), accepted when its size and time have not changed for {settle_s:g} s"
        return FilterResult(accepted=True, cause=cause, inbox=index)


def has_media_content(path: str) -> bool:
    """Return whether a file begins as a media container of FFmpeg or libsndfile does; False if it cannot be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path objects take most of a scan's time
            head = file.read(1024)
    except OSError:
        return False
    return (
        head.startswith(_MAGIC)
        or head[4:8] in _ATOMS | _LOSSLESS_DOLBY
        or (
            head[:4] in {b"RIFF", b"RIFX", b"RF64", b"BW64"}
            and head[8:12] in {b"WAVE", b"AVI ", b"AMV ", b"QLCM"}
        )
        or (head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"})
        or b"GGGG" in {head[::188][:4], head[4::192][:4]}  # MPEG transport streams
        or _is_mpeg_audio(head)
    )


_ATOMS = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_LOSSLESS_DOLBY = frozenset({b"\xf8\x72\x6f\xba", b"\xf8\x72\x6f\xbb"})
"""TrueHD and MLP."""
_MAGIC = (
    *(
        b"\x1a\x45\xdf\xa3",
        b"OggS",
        b"fLaC",
        b"ID3",
        b"FLV\x01",
        b"#!AMR",
        b"caff",
        b".snd",
        b".RMF",
        b"MAC ",
        b"wvpk",
    ),
    *(
        b"TTA1",
        b"MPCK",
        b"MP+",
        b"\x0b\x77",
        b"\x7f\xfe\x80\x01",
        b"DSD ",
        b"FRM8",
        b"tBaK",
        b"Creative Voice File",
    ),
    *(b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"riff\x2e\x91\xcf\x11"),
    *(b"\x06\x0e\x2b\x34", b"nut/multimedia", b"DKIF", b"\x02dss", b"\x03ds2", b".SoX", b"XoS.", b"ajkg"),
)
"""The first bytes of containers: Matroska, Ogg, FLAC, MP3 with tags, FLV, AMR and others."""


def _is_mpeg_audio(head: bytes) -> bool:
    """Return whether a frame of MP2, MP3 or AAC (ADTS) begins here."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    if head[1] & 0xF6 == 0xF0:  # ADTS
        return head[2] >> 2 & 15 < 13
    layer, bitrate, rate = head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return layer in {1, 2} and bitrate not in {0, 15} and rate != 3


def _rejected(index: int, cause: str, *, is_own_file: bool = False) -> FilterResult:
    return FilterResult(accepted=False, cause=cause, inbox=index, is_own_file=is_own_file)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1]  # noqa: PTH122 - likewise
