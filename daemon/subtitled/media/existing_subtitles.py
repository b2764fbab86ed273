"""Subtitles that a media file has already, and whether they make ours needless."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct

from subtitled.core.protocol import SkipRule
from subtitled.core.records import Job
from subtitled.errors import MediaError
from subtitled.files.atomic_files import printable
from subtitled.languages import code_of
from subtitled.media.media_file import MediaFile
from subtitled.output.paths import output_folder

SUFFIXES = frozenset(
    ".srt .vtt .ass .ssa .sub .idx .sup .smi .sami .ttml .dfxp .stl .lrc".split()  # noqa: SIM905 - a list in a word
)
"""Endings of subtitle files that players look for beside a media file."""

_MARKS = frozenset({"default", "forced", "foreign", "sdh", "cc", "hi"})
"""What else than a language Jellyfin, Plex and Emby read from the name of a subtitle file."""
_FORCED = frozenset({"forced", "foreign"})


class ExistingSubtitles(Struct, frozen=True):
    """Subtitles that a media file has already."""

    name: str
    """For people: a file's name, or a track."""
    language: str | None
    """Whisper's code; None where it is not said, or not one of Whisper's."""


class MediaTracks(Struct, frozen=True):
    """What a media file says of its own tracks."""

    subtitles: tuple[ExistingSubtitles, ...] = ()
    audio_language: str | None = None
    """Whisper's code for the language that the first or default audio track names."""


def unless_of(job: Job, outputs_for: Callable[[bytes], tuple[bytes, ...]]) -> SkipRule | None:
    """Return when a job's file is not to be read; None: it is read in any case.

    `outputs_for` gives the files that were written for a source.
    """
    options = job.options
    if options.skip_existing == "never" or not options.inbox:
        return None
    source = os.fsdecode(job.source)
    output = output_folder(os.fsdecode(options.inbox), source, os.fsdecode(options.output))
    return SkipRule(
        rule=options.skip_existing,
        language=language_of(options.language, options.task),
        source=job.source,
        folders=tuple({os.fsencode(Path(source).parent): None, os.fsencode(output): None}),
        ours=outputs_for(job.source),
    )


def language_of(language: str, task: str) -> str | None:
    """Return the language that a job's subtitles will have; None where only its audio can tell."""
    if task == "translate":
        return "en"
    return None if language in {"auto", "multi"} else language


def needless(path: str, unless: SkipRule, root: str | None = None) -> str:
    """Return why the media file at `path` is not to be read; "" where it is. Looks at the file and at folders.

    A file that cannot be opened has no tracks: the reason is told when it is read.
    """
    try:
        contents = look_into(path, root)
    except (MediaError, OSError):
        contents = MediaTracks()
    return verdict(contents, beside(unless), unless)


def verdict(contents: MediaTracks, files: Iterable[ExistingSubtitles], unless: SkipRule) -> str:
    """Return why a media file with these tracks and subtitle files is not to be read; "" where it is."""
    found = [*files, *contents.subtitles]
    if unless.rule == "any":
        return f'it has subtitles already: {found[0].name} (skip_existing = "any")' if found else ""
    wanted = unless.language or contents.audio_language
    same = next((one for one in found if wanted and one.language == wanted), None)
    return f'it has subtitles in {wanted} already: {same.name} (skip_existing = "language")' if same else ""


def look_into(path: str, root: str | None = None) -> MediaTracks:
    """Return the subtitle tracks of a media file and the language of its audio; raises MediaError.

    Tracks that show only what is foreign in a film ("forced") are none that anybody reads it by.
    """
    from av.stream import Disposition

    from subtitled.media.demux import open_container

    file = MediaFile(path, root)
    try:
        container = open_container(file)
        try:
            streams = container.streams
            audio = next((s for s in streams.audio if Disposition.default in s.disposition), None)
            audio = audio or next(iter(streams.audio), None)
            return MediaTracks(
                tuple(
                    ExistingSubtitles(
                        f"track {stream.index}, {stream.language or 'no language'}", code_of(stream.language)
                    )
                    for stream in streams.subtitles
                    if Disposition.forced not in stream.disposition
                ),
                code_of(audio.language) if audio else None,
            )
        finally:
            container.close()
    finally:
        file.close()


def beside(unless: SkipRule) -> tuple[ExistingSubtitles, ...]:
    """Return the subtitle files that players show with a source, of those that are not ours."""
    source = Path(os.fsdecode(unless.source))
    ours = {os.fsdecode(path) for path in unless.ours}
    found = []
    for folder in map(os.fsdecode, unless.folders):
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - names, as they are
        except OSError:
            continue
        for name in names:
            file = named(source.name, name)
            if file is not None and os.path.join(folder, name) not in ours:  # noqa: PTH118 - as `ours` was made
                found.append(file)
    return tuple(found)


def named(source: str, name: str) -> ExistingSubtitles | None:
    """Return what the file `name` is to the media file `source` in its folder, by their names alone.

    `talk.srt`, `talk.en.srt`, `talk.mp4.zh-Hans.forced.srt` belong to `talk.mp4`; `talk.part2.srt` does not.
    None too where only what is foreign is shown (forced).
    """
    base, suffix = os.path.splitext(name)  # noqa: PTH122 - a stem may end in a dot
    stem, own_suffix = os.path.splitext(source)  # noqa: PTH122 - likewise
    if suffix.lower() not in SUFFIXES or not f"{base}.".startswith(f"{stem}."):
        return None
    words = base[len(stem) + 1 :].lower().split(".") if len(base) > len(stem) else []
    if words and words[0] == own_suffix[1:].lower():
        words = words[1:]
    languages = [code for word in words if word not in _MARKS and (code := code_of(word))]
    if words and words[0] not in _MARKS and code_of(words[0]) is None:
        return None
    if _FORCED & set(words):
        return None
    return ExistingSubtitles(printable(name), languages[0] if languages else None)
