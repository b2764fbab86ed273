"""Subtitles again from a stored transcript, with other limits or in other formats; no model is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from subtitled.config.checks import OPENCC_REMEDY
from subtitled.config.schema import Variant
from subtitled.cues.render import read_json
from subtitled.cues.transcript import VERSION
from subtitled.errors import SubtitledError
from subtitled.files.atomic_files import printable, write_whole
from subtitled.output import chinese

if TYPE_CHECKING:
    from subtitled.cues.transcript import Transcript


def read_transcript(path: Path) -> Transcript:
    """Return the transcript in a JSON file of ours; raises SubtitledError where it is none."""
    try:
        transcript = read_json(path.read_bytes())
    except OSError as error:
        raise SubtitledError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise SubtitledError(
            f'{printable(path)} is no transcript ({error}); name a JSON file that was written with formats = ["json"]'
        ) from error
    if transcript.version > VERSION:
        raise SubtitledError(
            f"{printable(path)} has version {transcript.version}, this release knows up to {VERSION}: "
            "use the release that wrote it, or a newer one"
        )
    return transcript


def in_variant(transcript: Transcript, variant: Variant) -> Transcript:
    """Return `transcript` with Chinese as it is written in `variant`; raises SubtitledError without OpenCC."""
    if variant != "off" and not chinese.is_installed():
        raise SubtitledError(f"Chinese cannot be converted without OpenCC; install it: {OPENCC_REMEDY}")
    return chinese.in_variant(transcript, variant)


def target_of(source: Path, output: Path | None, form: str) -> Path:
    """Return the file that a transcript's subtitles go to: beside it, into the folder `output`, or to that file."""
    name = source.with_suffix("").name if source.suffix == ".json" else source.name
    if output is None:
        return source.with_name(f"{name}.{form}")
    return output / f"{name}.{form}" if output.is_dir() else output


def write_new(path: Path, data: bytes, *, is_forced: bool) -> None:
    """Write a file whole; raises SubtitledError where one is there already, unless forced."""
    if path.exists() and not is_forced:
        raise SubtitledError(
            f"{printable(path)} exists already; name another with -o, or write over it with --force"
        )
    write_whole(path, data)
