"""What a caller may ask of a job, as keywords."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import msgspec

from subtitle.errors import OptionError
from subtitle.messages import JobOptions, LayoutOptions, VadOptions, WordTimestamps


class JobKeywords(TypedDict, total=False):
    """The fields of JobOptions; what is not given is as in `options`, or as the server has it."""

    language: str
    task: Literal["transcribe", "translate"]
    formats: Sequence[str]
    word_timestamps: WordTimestamps
    initial_prompt: str
    hotwords: str
    priority: int
    vad: VadOptions
    layout: LayoutOptions
    tag: str


def options_of(options: JobOptions | None, words: JobKeywords) -> JobOptions:
    """Return the options with `words` in place of their own; raises OptionError for what the protocol does not allow."""
    if isinstance(words.get("formats"), str):
        raise OptionError(
            f'formats={words["formats"]!r}: is one text; give a sequence, such as ("srt", "vtt")'
        )
    unknown = sorted(words.keys() - set(JobOptions.__struct_fields__))
    if unknown:
        raise OptionError(f"{unknown[0]}: is none of {', '.join(JobOptions.__struct_fields__)}")
    try:
        return msgspec.convert({**msgspec.to_builtins(options or JobOptions()), **_plain(words)}, JobOptions)
    except msgspec.ValidationError as error:
        fault, _, where = str(error).partition(" - at `$.")
        raise OptionError(f"{where.rstrip('`') or 'options'}: {fault}") from None


def _plain(words: JobKeywords) -> dict[str, object]:
    return {name: msgspec.to_builtins(value) for name, value in words.items()}
