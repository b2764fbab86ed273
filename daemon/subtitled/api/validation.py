"""What a client asks of a job, checked before the job is accepted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from subtitle.messages import Commit, JobOptions, LayoutOptions
from subtitled.api.peer import RefusedError
from subtitled.config.checks import LANGUAGES
from subtitled.config.layout_limits import check_overrides, overrides_of
from subtitled.config.model_files import can_translate
from subtitled.config.schema import FORMATS
from subtitled.core.records import Options
from subtitled.files.atomic_files import fitted

NAME_BYTES_LEFT = 64
"""Room that a name from a client leaves for endings that are added to it."""
_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Marks that turn the direction of text: `gpj.exe` must not be shown as `exe.jpg`."""
_CORE = re.compile(r"[^.~\s](?:.*[^.\s])?", re.DOTALL)
"""A name from where it is not hidden or temporary on, without the dots and spaces at its end, which Windows drops."""


def options_of(wanted: JobOptions, *, model: str, languages: Iterable[str], after: str) -> Options:
    """Return what is asked of a job; raises RefusedError for what cannot be done, or contradicts itself.

    `languages` are those that the loaded model has tokens for; empty while none is loaded.
    """
    known = tuple(languages)
    language = wanted.language
    if language not in {"auto", "multi", *LANGUAGES}:
        raise RefusedError(
            "BAD_FORMAT",
            f'language {language!r}: allowed are "auto", "multi" (each segment its own), or one of {" ".join(LANGUAGES)}',
        )
    if known and language not in {"auto", "multi", *known}:
        raise RefusedError(
            "UNSUPPORTED", f"language {language!r}: the model {model} knows {' '.join(sorted(known))}"
        )
    if wanted.task == "translate" and (not can_translate(model) or len(known) == 1):
        raise RefusedError(
            "UNSUPPORTED", f'task "translate": the model {model} cannot; "large-v3" and "medium" can'
        )
    if not wanted.formats:
        raise RefusedError("BAD_FORMAT", f"formats: none; name at least one of {', '.join(FORMATS)}")
    unknown = [form for form in wanted.formats if form not in FORMATS]
    if unknown:
        raise RefusedError("BAD_FORMAT", f"format {unknown[0]!r}: this server writes {', '.join(FORMATS)}")
    check_layout(wanted.layout)
    return Options(
        language=language,
        task=wanted.task,
        formats=wanted.formats,
        word_timestamps=wanted.word_timestamps,
        priority=wanted.priority,
        initial_prompt=wanted.initial_prompt,
        hotwords=wanted.hotwords,
        vad=wanted.vad,
        layout=wanted.layout,
        after=after,
        output=b"",
    )


def check_layout(wanted: LayoutOptions) -> None:
    """Raise RefusedError for limits of cues that cannot be kept to, or contradict each other."""
    try:
        check_overrides(wanted.profile, overrides_of(wanted))
    except ValueError as error:
        raise RefusedError("BAD_FORMAT", f"layout: {error}") from error
    gap_ms, chain_ms = wanted.gap_ms, wanted.chain_ms
    if gap_ms is not None and chain_ms is not None and chain_ms < gap_ms:
        raise RefusedError(
            "BAD_FORMAT",
            f"layout: chain_ms = {chain_ms} is less than gap_ms = {gap_ms}; cues cannot be closed up to more",
        )


def size_and_hash(message: Commit, size: int | None, sha256: str, *, is_first: bool) -> tuple[int, str]:
    """Return a complete file's size and hash, from its Submit or its Commit; raises RefusedError where they contradict each other.

    `is_first`: the hash is that of the Submit, if there is one, not of a Commit before this.
    """
    for name, said, meant in (("sha256", sha256, message.sha256), ("size", size, message.size)):
        if said not in {None, ""} and meant not in {None, ""} and said != meant:
            raise RefusedError("BAD_FORMAT", f"{name}: Submit said {said}, Commit says {meant}")
    whole = message.size if size is None else size
    if whole is None or not (sha256 or message.sha256):
        raise RefusedError("BAD_FORMAT", "size and sha256 must be in Submit or in Commit")
    if message.options is not None and is_first and sha256:
        # By hash and options an upload is found again: they cannot be others at its end.
        raise RefusedError("BAD_FORMAT", "options: Submit named the file's sha256, and its options hold")
    return whole, sha256 or message.sha256


def safe_name(name: str) -> str:
    """Return a file name for what a client calls its file: one component, printable, not hidden, not too long."""
    last = re.split(r"[/\\]", name)[-1]
    text = unicodedata.normalize("NFC", last.encode("utf-8", "replace").decode("utf-8"))
    text = _DIRECTION.sub("", text)
    text = "".join(
        "_" if unicodedata.category(char) in {"Cc", "Cs", "Co", "Zl", "Zp"} else char for char in text
    )
    core = _CORE.search(text)
    text = core[0] if core else ""
    stem, dot, suffix = text.rpartition(".")
    if not dot or len(suffix.encode()) > NAME_BYTES_LEFT // 2:
        stem, suffix = text, ""
    tail = f".{suffix}" if suffix else ""
    return (
        fitted(stem, tail + "x" * NAME_BYTES_LEFT).removesuffix("x" * NAME_BYTES_LEFT)
        if stem
        else f"upload{tail}"
    )
