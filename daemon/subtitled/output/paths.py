"""Paths of the files of a finished job."""

from __future__ import annotations

import re
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from subtitle.messages import Flag
from subtitled.config.schema import BESIDE
from subtitled.errors import FileWriteError
from subtitled.files.atomic_files import fitted, move_whole, printable, write_whole
from subtitled.languages import code_of, iso_639

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


ERROR_SUFFIX = ".error.txt"

_SUBTITLE_SUFFIXES = frozenset({".srt", ".vtt"})
_LANGUAGE = re.compile(r"[a-z]{2,3}|[A-Za-z]{2,3}[-_]\w+")
"""A tag in a file name; "No" or "It" before the suffix is a word of the title."""
FLAGS = get_args(Flag)
"""Flags in a file name, in this order after the language; Jellyfin, Plex and Emby read them."""
_MARKS = frozenset({*FLAGS, "cc", "foreign"})
"""Flags in the names of other programs' files, besides "hi"."""


def output_folder(inbox_root: str | Path, source: str | Path, output: str | Path) -> Path:
    """Return the folder for the subtitles of `source`: the inbox's sub-folders, mirrored in `output`.

    With `output` "beside" it is the folder of `source`. Raises FileWriteError if `source` is not in the inbox.
    """
    below = _below(inbox_root, source)
    return Path(source).parent if str(output) == BESIDE else Path(output) / below.parent


def output_paths(
    folder: str | Path,
    source: str | Path,
    language: str | None,
    formats: Iterable[str],
    is_mine: Callable[[Path], bool],
    *,
    flags: Iterable[str] = (),
    is_partial: bool = False,
    is_bilingual: bool = False,
) -> dict[str, Path]:
    """Return the file of each format, all with one base name: `talk.zh`, else `talk.mp4.zh`, `talk.mp4.zh.2` ….

    It is the first base name whose paths `is_mine` all accepts: paths that do not exist, or were written for the same source.
    `language` is Whisper's code, None if no language was detected (`talk.srt`); the `flags` follow it (`talk.zh.forced.srt`). A
    partial result is named `talk.zh.partial.srt`, a file in two languages `talk.bilingual.zh.srt`: players read the language before
    the suffix. No name is longer than 255 bytes.
    """
    endings = {form: f".partial.{form}" if is_partial else f".{form}" for form in formats}
    longest = max(endings.values(), key=len, default="")
    tag = language_tag(language, is_bilingual=is_bilingual) + flag_tag(flags)
    for base in _bases(split_language(Path(source).name)[0], tag, longest):
        paths = {form: Path(folder, base + ending) for form, ending in endings.items()}
        if all(is_mine(path) for path in paths.values()):
            return paths
    raise AssertionError  # _bases() has no end


def language_tag(language: str | None, *, is_bilingual: bool = False) -> str:
    """Return the language ending that media players read: `.zh`, `.zh-TW`, `.bilingual.zh`; "" for None.

    Two letters if ISO 639-1 has them, else Whisper's code (`.yue`).
    """
    mark = ".bilingual" if is_bilingual else ""
    return f"{mark}.{iso_639(language)}" if language else mark


def flag_tag(flags: Iterable[str]) -> str:
    """Return the ending for these flags: `.sdh.forced`; "" for none."""
    wanted = set(flags)
    return "".join(f".{flag}" for flag in FLAGS if flag in wanted)


def archive(source: str | Path, inbox_root: str | Path, outcome: Literal["done", "failed"]) -> Path:
    """Move `source` to the same sub-folder of `done` or `failed` in its inbox; return its new path.

    Never overwrites a file. Raises FileWriteError and leaves `source` in place if it cannot be moved.
    """
    return move_whole(source, Path(inbox_root, outcome, _below(inbox_root, source)), root=inbox_root)


def write_error(folder: str | Path, name: str, text: str, *, root: str | Path | None = None) -> Path:
    """Write `text` to `name`.error.txt in `folder`, replacing an earlier one, and return its path."""
    path = Path(folder, fitted(name, ERROR_SUFFIX))
    write_whole(path, text.encode("utf-8", "backslashreplace"), root=root)
    return path


def error_text(job: str, source: str | Path, cause: str, remedy: str) -> str:
    """Return the text for the owner of `source`: the file, the reason, the remedy."""
    return (
        "This file could not be turned into subtitles.\n"
        "\n"
        f"File:   {printable(source)}\n"
        f"Job:    {job}\n"
        f"Reason: {cause}\n"
        "\n"
        f"What to do: {remedy}\n"
    )


def split_language(name: str) -> tuple[str, str | None]:
    """Return the name of a source without its language, and Whisper's code of that: `talk.srt` and "en" for `talk.en.sdh.srt`.

    Only a subtitle file has its language before the suffix, or before flags. "hi" after another language is the flag of subtitles
    for the hearing impaired, else Hindi.
    """
    path = Path(name)
    marks = path.stem.split(".")
    if path.suffix.lower() not in _SUBTITLE_SUFFIXES:
        return name, None
    while len(marks) > 1 and marks[-1].lower() in _MARKS:
        marks.pop()
    if len(marks) > 2 and marks[-1].lower() == "hi" and _code_of_mark(marks[-2]):
        marks.pop()
    code = _code_of_mark(marks[-1]) if len(marks) > 1 else None
    return ".".join(marks[:-1] if code else marks) + path.suffix, code


def _code_of_mark(mark: str) -> str | None:
    return code_of(mark) if _LANGUAGE.fullmatch(mark) else None


def _bases(name: str, tag: str, longest: str) -> Iterable[str]:
    """Yield base names with `tag`, the preferred one first, without end; `longest` is the longest ending."""
    stems = chain([(Path(name).stem, tag), (name, tag)], ((name, f"{tag}.{number}") for number in count(2)))
    for stem, end in stems:
        yield fitted(stem, end + longest).removesuffix(longest)


def _below(inbox_root: str | Path, source: str | Path) -> Path:
    """Return the path of `source` relative to its inbox."""
    root, path = Path(inbox_root), Path(source)
    if ".." in path.parts or not path.is_relative_to(root) or path == root:
        raise FileWriteError(f"{printable(path)} is not in the inbox {printable(root)}; name a file below it")
    return path.relative_to(root)
