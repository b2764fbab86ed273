"""Writes subtitles atomically, without overwriting other files.

The server's file names are untrusted: separators, control characters, direction marks and leading dots are replaced.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from subtitle.errors import OptionError, SubtitleError

MAX_NAME_BYTES = 255
"""The limit of a file name in common file systems."""
MAX_NUMBER = 999
DIRECTION_MARKS = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that change the direction of text: `gpj.exe` must not be displayed as `exe.jpg`."""
_RESERVED = re.compile(r"""[/\\:*?"<>|]""")
"""Characters that a system does not allow in a file name."""
_TAGS = re.compile(r"(?:\.[A-Za-z0-9-]{1,35}){0,5}\Z")
"""Language tag, flags and format at the end of a subtitle's name, such as `.bilingual.zh-TW.sdh.srt`."""


def safe_name(name: str, form: str) -> str:
    """Return a safe file name for `name`, with the format's suffix."""
    suffix = f".{form}"
    stem = safe_text(name).removesuffix(suffix).strip(" .")
    return limited(stem or "subtitles", suffix)


def safe_text(text: str) -> str:
    """Return `text` with "_" for characters that a file name must not have; spaces and joiners of all scripts stay."""
    text = _RESERVED.sub("_", DIRECTION_MARKS.sub("_", text))
    return "".join("_" if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} else char for char in text)


def split_tags(name: str) -> tuple[str, str]:
    """Return a file name's stem, and its tags and format: ("talk", ".en.srt")."""
    found = _TAGS.search(name)
    at = len(name) if found is None else found.start()
    return name[:at], name[at:]


def limited(name: str, ending: str) -> str:
    """Return `name + ending` with at most MAX_NAME_BYTES; a longer name is cut before its tags."""
    if _size(name + ending) <= MAX_NAME_BYTES:
        return name + ending
    stem, tags = split_tags(name)
    stem = stem[:MAX_NAME_BYTES]
    while stem and _size(stem + tags + ending) > MAX_NAME_BYTES:
        stem = stem[:-1]
    return stem + tags + ending


def _size(name: str) -> int:
    """Return the size of a file name in bytes."""
    return len(name.encode("utf-8", "replace"))


def save_in(folder: Path, name: str, body: bytes, *, is_forced: bool = False) -> Path:
    """Write `body` as `name` into a folder, and return its path.

    An existing file with the same content is not written again. One with other content is kept, and the next free name is
    used: `talk.en.srt`, `talk.en.2.srt`; with `is_forced` it is replaced. Raises OSError.
    """
    stem, dot, suffix = name.rpartition(".")
    for number in range(1, MAX_NUMBER + 1):
        target = folder / limited(stem, f"{f'.{number}' if number > 1 else ''}{dot}{suffix}")
        if is_forced:
            return replace_file(target, body)
        if _is_written(target, body):
            return target
    raise SubtitleError(
        f"{folder}: has {MAX_NUMBER} files named like {name!r} already; move some, or give a file name"
    )


def save_all(target: Path, files: Sequence[tuple[str, str, bytes]]) -> list[Path]:
    """Write files, given as format, server's name and body, into a folder; or a single one to the path itself."""
    if target.is_dir():
        saved = [save_in(target, safe_name(name, form), body) for form, name, body in files]
        return list(dict.fromkeys(saved))  # the translation of English is the same file
    if len(files) != 1:
        raise OptionError(f"{target}: is not a folder, and cannot contain {len(files)} files")
    return [replace_file(target, files[0][2])]


def format_of(target: Path) -> tuple[str, ...]:
    """Return the format of a path's suffix; none for a folder."""
    return () if target.is_dir() or not target.suffix else (target.suffix[1:].lower(),)


def replace_file(target: Path, body: bytes) -> Path:
    """Replace a file atomically; raises OSError."""
    with _temporary(target, body) as temporary:
        temporary.replace(target)
    return target


def _is_written(target: Path, body: bytes) -> bool:
    """Create a file; returns True if it contains `body` now, False if it existed with other content."""
    if os.path.lexists(target):
        return target.is_file() and target.stat().st_size == len(body) and target.read_bytes() == body
    with _temporary(target, body) as temporary:
        try:
            target.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError:
            # A file system without links: a file created since the check above is replaced.
            temporary.replace(target)
    return True


@contextlib.contextmanager
def _temporary(target: Path, body: bytes) -> Iterator[Path]:
    """Yield the path of a temporary file beside `target` that contains `body`; it is deleted afterwards."""
    path = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.part")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(body)
            opened.flush()
            os.fsync(file)
        yield path
    finally:
        path.unlink(missing_ok=True)
