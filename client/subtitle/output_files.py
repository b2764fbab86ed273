"""Writes subtitles atomically, without overwriting other files.

The server's file names are untrusted: separators, control characters and leading dots are replaced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from subtitle.errors import OptionError, SubtitleError

MAX_NAME_BYTES = 200
"""Maximum length of a file name; a file system allows 255, which leaves room for a number and a suffix."""
MAX_NUMBER = 999


def safe_name(name: str, form: str) -> str:
    """Return a safe file name for `name`, with the format's suffix."""
    plain = "".join(char if char.isprintable() and char not in '/\\:*?"<>|' else "_" for char in name)
    suffix = f".{form}"
    stem = plain.removesuffix(suffix).strip(" .")
    stem = stem.encode("utf-8", "replace")[: MAX_NAME_BYTES - len(suffix)].decode("utf-8", "ignore")
    return f"{stem or 'subtitles'}{suffix}"


def save_in(folder: Path, name: str, body: bytes, *, is_forced: bool = False) -> Path:
    """Write `body` as `name` into a folder, and return its path.

    An existing file with the same content is not written again. One with other content is kept, and the next free name is
    used: `talk.en.srt`, `talk.en.2.srt`; with `is_forced` it is replaced. Raises OSError.
    """
    stem, dot, suffix = name.rpartition(".")
    for number in range(1, MAX_NUMBER + 1):
        target = folder / (name if number == 1 else f"{stem}.{number}{dot}{suffix}")
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
