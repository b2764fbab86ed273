"""Subtitles from a stored transcript, with other limits or in other formats, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from subtitle.messages import Chinese
from subtitled.config.checks import OPENCC_REMEDY
from subtitled.cues import chinese
from subtitled.cues.render import read_json
from subtitled.cues.transcript import VERSION
from subtitled.errors import SubtitledError
from subtitled.files.atomic_files import printable, write_whole

if TYPE_CHECKING:
    from subtitled.cues.transcript import Transcript


def read_transcript(path: Path) -> Transcript:
    """Return the transcript in a JSON file; raises SubtitledError if it contains none."""
    try:
        transcript = read_json(path.read_bytes())
    except OSError as error:
        raise SubtitledError(f"{printable(path)} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise SubtitledError(
            f'{printable(path)} is not a transcript ({error}); name a JSON file written with formats = ["json"]'
        ) from error
    if transcript.version > VERSION:
        raise SubtitledError(
            f"{printable(path)} has version {transcript.version}, this release supports up to {VERSION}; "
            "use the release that wrote it, or a newer one"
        )
    return transcript


def in_variant(transcript: Transcript, variant: Chinese) -> Transcript:
    """Return `transcript` with Chinese in `variant`; raises SubtitledError without OpenCC."""
    if variant != "off" and not chinese.is_installed():
        raise SubtitledError(f"Chinese cannot be converted without OpenCC; install it: {OPENCC_REMEDY}")
    return chinese.in_variant(transcript, variant)


def target_of(source: Path, output: Path | None, form: str) -> Path:
    """Return the path for a transcript's subtitles: beside it, in the folder `output`, or `output` itself."""
    name = source.with_suffix("").name if source.suffix == ".json" else source.name
    if output is None:
        return source.with_name(f"{name}.{form}")
    return output / f"{name}.{form}" if output.is_dir() else output


def write_new(path: Path, data: bytes, *, is_forced: bool) -> None:
    """Write a file; raises SubtitledError if it exists, unless forced."""
    if path.exists() and not is_forced:
        raise SubtitledError(
            f"{printable(path)} already exists; choose another file with -o, or overwrite it with --force"
        )
    write_whole(path, data)
