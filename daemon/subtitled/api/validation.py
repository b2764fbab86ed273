"""Validate the options, file names and paths that clients send."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from subtitle.messages import Commit, JobOptions, LayoutOptions
from subtitle.output_files import DIRECTION_MARKS
from subtitled import log
from subtitled.api.peer import RefusedError
from subtitled.config.checks import LANGUAGES, OPENCC_REMEDY, lacks_opencc
from subtitled.config.layout_limits import check_limits
from subtitled.config.model_choice import (
    ConfiguredModel,
    ModelChoiceError,
    choose_model,
    choose_translator,
)
from subtitled.config.schema import FORMATS
from subtitled.core.records import Options, options_of
from subtitled.core.states import JobState
from subtitled.files.atomic_files import fitted, inside
from subtitled.files.filesystem import mount_of, read_mounts
from subtitled.languages import is_audio_track, named_language, option_of, target_tag
from subtitled.translation.glossary import Glossary, GlossaryError

NAME_BYTES_LEFT = 64
"""Bytes that a client's file name leaves for suffixes that are added to it."""
_CORE = re.compile(r"[^.~\s](?:.*[^.\s])?", re.DOTALL)
"""A name without leading characters that hide it, and without trailing dots and spaces, which Windows drops."""
_log = log.get()


P = ParamSpec("P")
T = TypeVar("T")


def _refuses(check: Callable[P, T]) -> Callable[P, T]:
    """Return a check that raises only RefusedError: an unexpected error in it refuses one request, and the daemon continues."""

    @wraps(check)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return check(*args, **kwargs)
        except RefusedError:
            raise
        except Exception as error:
            _log.exception(log.REQUEST_FAILED, cause=repr(error)[:400])
            raise RefusedError("INTERNAL", "the request cannot be checked; see the server's log") from error

    return checked


@_refuses
def job_options(
    wanted: JobOptions,
    *,
    models: Sequence[ConfiguredModel],
    languages: Mapping[str, Sequence[str]],
    after: str,
) -> Options:
    """Return a job's validated options; raises RefusedError.

    `languages` are those that each loaded model has tokens for, by its name in the options.
    """
    language = option_of(wanted.language)
    configured = {code for model in models for code in model.languages}
    if language not in {"auto", "multi", *LANGUAGES, *configured}:
        raise RefusedError(
            "BAD_FORMAT",
            f'language {language!r} is not supported; use "auto", "multi" or one of '
            f"{' '.join((*LANGUAGES, *sorted(configured - set(LANGUAGES))))}",
        )
    if not is_audio_track(wanted.audio_track):
        raise RefusedError(
            "BAD_FORMAT",
            f"audio_track {wanted.audio_track!r} is not an audio track; use a number from 1 to 1000, a language such as"
            ' "en", or "auto"',
        )
    if len(set(wanted.tasks)) < len(wanted.tasks):
        raise RefusedError("BAD_FORMAT", f"tasks: {', '.join(wanted.tasks)}; list each task once")
    tasks = wanted.tasks or (wanted.task,)
    # A loaded model with one language was trained on that language alone.
    able = [
        replace(
            one,
            tasks=("transcribe",) if len(known) == 1 else one.tasks,
            known_languages=known or one.known_languages,
        )
        for one in models
        for known in [languages.get(one.option, ())]
    ]
    try:
        choice = choose_model(able, wanted=wanted.model, tasks=tasks, language=language)
    except ModelChoiceError as error:
        raise RefusedError("UNSUPPORTED", str(error)) from error
    chosen = next(one for one in able if one.option == choice.model)
    if language in LANGUAGES and chosen.lacks(language):
        name, known = chosen.name, chosen.known_languages
        raise RefusedError(
            "UNSUPPORTED", f"language {language!r}: the model {name} supports {' '.join(sorted(known))}"
        )
    check_translations(
        models, wanted.translate_to, model=wanted.translate_model, source=language, glossary=wanted.glossary
    )
    if not wanted.formats:
        raise RefusedError("BAD_FORMAT", f"formats: empty; choose at least one of {', '.join(FORMATS)}")
    unknown = [form for form in wanted.formats if form not in FORMATS]
    if unknown:
        raise RefusedError("BAD_FORMAT", f"unknown format {unknown[0]!r}; supported: {', '.join(FORMATS)}")
    if lacks_opencc(wanted.chinese):
        raise RefusedError(
            "UNSUPPORTED",
            f'chinese "{wanted.chinese}": OpenCC is not installed on the server; install it: {OPENCC_REMEDY}',
        )
    check_layout(wanted.layout)
    return options_of(
        wanted,
        choice,
        initial_prompt=wanted.initial_prompt,
        hotwords=wanted.hotwords,
        glossary=wanted.glossary,
        vad=wanted.vad,
        layout=wanted.layout,
        after=after,
        output=b"",
    )


@_refuses
def check_translations(
    models: Sequence[ConfiguredModel],
    languages: Sequence[str],
    *,
    model: str = "",
    source: str | None = None,
    glossary: str = "",
) -> None:
    """Raise RefusedError for languages that no model translates to, and for an invalid glossary.

    `source` is the language of the transcript; "auto", "multi" or None: not known.
    """
    source = source and named_language(source)
    for name in languages:
        if (target := target_tag(name)) is None:
            raise RefusedError(
                "BAD_FORMAT",
                f'translate_to {name!r} is not a language; use one such as "zh-TW", "ja" or "es"',
            )
        try:
            choose_translator(models, wanted=model, source=source, target=target)
        except ModelChoiceError as error:
            raise RefusedError("UNSUPPORTED", f"translate_to: {error}") from error
    try:
        Glossary(glossary)
    except GlossaryError as error:
        raise RefusedError("BAD_FORMAT", f"glossary: {error}") from error


@_refuses
def check_layout(wanted: LayoutOptions) -> None:
    """Raise RefusedError for cue limits that are out of range or contradict each other."""
    try:
        check_limits(wanted)
    except ValueError as error:
        raise RefusedError("BAD_FORMAT", f"layout: {error}") from error
    gap_ms, chain_ms = wanted.gap_ms, wanted.chain_ms
    if gap_ms is not None and chain_ms is not None and chain_ms < gap_ms:
        raise RefusedError(
            "BAD_FORMAT",
            f"layout: chain_ms = {chain_ms} is less than gap_ms = {gap_ms}; set chain_ms to at least gap_ms",
        )


def size_and_hash(message: Commit, size: int | None, sha256: str, *, is_first: bool) -> tuple[int, str]:
    """Return a complete file's size and hash from its Submit or Commit; raises RefusedError when these contradict each other.

    `is_first`: this is the upload's first Commit, so `sha256` is that of its Submit.
    """
    for name, submitted, committed in (("sha256", sha256, message.sha256), ("size", size, message.size)):
        if submitted not in {None, ""} and committed not in {None, ""} and submitted != committed:
            raise RefusedError(
                "BAD_FORMAT", f"{name}: {submitted} in Submit, {committed} in Commit; send the same value"
            )
    whole = message.size if size is None else size
    if whole is None or not (sha256 or message.sha256):
        raise RefusedError("BAD_FORMAT", "size and sha256 are required in Submit or in Commit")
    if message.options is not None and is_first and sha256:
        # An upload is found again by hash and options, so the options cannot change at its end.
        raise RefusedError("BAD_FORMAT", "options: not allowed in Commit when Submit has the sha256")
    return whole, sha256 or message.sha256


def safe_name(name: str) -> str:
    """Return a safe file name for a client's name: one component, printable, not hidden, not too long."""
    last = re.split(r"[/\\]", name)[-1]
    text = unicodedata.normalize("NFC", last.encode("utf-8", "replace").decode("utf-8"))
    text = DIRECTION_MARKS.sub("", text)
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


@_refuses
def job_states(names: Iterable[str]) -> tuple[JobState, ...]:
    """Return the states of a List; raises RefusedError."""
    known = {state.value: state for state in JobState}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RefusedError("BAD_FORMAT", f"unknown state {unknown[0][:64]!r}; allowed: {', '.join(known)}")
    return tuple(known[name] for name in names)


class FileOnServer(Struct, frozen=True):
    """A file on this machine that a client submitted by its path."""

    path: bytes
    size: int
    mtime_ns: int
    mount: bytes = b""
    """Mount point of its file system; b"" for the root file system."""


def find_file(path: str, folders: Sequence[str]) -> FileOnServer:
    """Return the regular file at `path`, which must be in one of `folders`; raises RefusedError. May block."""
    if not Path(path).is_absolute() or "\0" in path:
        raise RefusedError("BAD_FORMAT", f"path {path[:200]!r} is not an absolute path")
    real = os.path.realpath(path)
    if not any(inside(folder, real) for folder in folders):
        allowed = ", ".join(folders) or "none"
        raise RefusedError(
            "FORBIDDEN", f"path {path[:200]!r} is not in a folder of uploads.paths (allowed: {allowed})"
        )
    try:
        found = os.stat(real)  # noqa: PTH116 - the path is text, as in all of this function
    except OSError as error:
        raise RefusedError("NOT_FOUND", f"path {path[:200]!r}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError("BAD_FORMAT", f"path {path[:200]!r} is not a regular file")
    if not os.access(real, os.R_OK):
        raise RefusedError("FORBIDDEN", f"path {path[:200]!r}: the daemon's user cannot read it")
    mount = mount_of(real, read_mounts())
    return FileOnServer(os.fsencode(real), found.st_size, found.st_mtime_ns, os.fsencode(mount))
