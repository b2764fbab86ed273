"""Subtitles that a media file already has, and whether the file is skipped because of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct

from subtitle.media_source import MEDIA_SUFFIXES
from subtitled.core.protocol import SkipRule
from subtitled.core.records import Job
from subtitled.errors import MediaError
from subtitled.files.atomic_files import printable
from subtitled.languages import UNDETERMINED, code_of, named_language
from subtitled.media.media_file import MediaFile
from subtitled.output.paths import output_folder

SUFFIXES = frozenset(
    ".srt .vtt .ass .ssa .sub .idx .sup .smi .sami .ttml .dfxp .stl .lrc".split()  # noqa: SIM905 - a list in a word
)
"""Endings of subtitle files that players look for beside a media file."""

_MARKS = frozenset({"default", "forced", "foreign", "sdh", "cc", "hi"})
"""Parts of a subtitle file's name that Jellyfin, Plex and Emby read besides the language."""
_FORCED = frozenset({"forced", "foreign"})


class ExistingSubtitles(Struct, frozen=True):
    """A subtitle track, or a subtitle file beside the media file."""

    name: str
    """For people: a file's name, or a track."""
    language: str | None
    """Whisper's code; None if there is no language, or none that Whisper knows."""


class MediaTracks(Struct, frozen=True):
    """The tracks of a media file, by its container."""

    subtitles: tuple[ExistingSubtitles, ...] = ()
    audio_language: str | None = None
    """Whisper's code for the language of the default audio track, or the first."""


def skip_rule_of(job: Job, outputs_for: Callable[[bytes], tuple[bytes, ...]]) -> SkipRule | None:
    """Return the rule by which a job's file is skipped; None if it is never skipped.

    `outputs_for` returns the files that were written for a source.
    """
    options = job.options
    if options.skip_existing == "never" or not options.inbox:
        return None
    source = os.fsdecode(job.source)
    output = output_folder(os.fsdecode(options.inbox), source, os.fsdecode(options.output))
    return SkipRule(
        rule=options.skip_existing,
        language=language_of(options.language, options.task) or _track_language(options.audio_track),
        source=job.source,
        folders=tuple({os.fsencode(Path(source).parent): None, os.fsencode(output): None}),
        ours=outputs_for(job.source),
    )


def language_of(language: str, task: str) -> str | None:
    """Return the language of a job's subtitles; None if it is detected from the audio."""
    return "en" if task == "translate" else named_language(language)


def _track_language(audio_track: str) -> str | None:
    """Return the language that an audio track is chosen by; None if it is chosen otherwise."""
    return None if audio_track == "auto" or audio_track.isdecimal() else audio_track


def skip_cause(path: str, rule: SkipRule, root: str | None = None) -> str:
    """Return why the media file at `path` is skipped; "" if it is not. Reads the file and folders.

    A file that cannot be opened has no tracks: the error is reported when the file is read.
    """
    try:
        tracks = read_tracks(path, root)
    except (MediaError, OSError):
        tracks = MediaTracks()
    return apply_rule(tracks, subtitle_files(rule), rule)


def apply_rule(tracks: MediaTracks, files: Iterable[ExistingSubtitles], rule: SkipRule) -> str:
    """Return why a media file with these tracks and subtitle files is skipped; "" if it is not."""
    found = [*files, *tracks.subtitles]
    if rule.rule == "any":
        return f'it has subtitles already: {found[0].name} (skip_existing = "any")' if found else ""
    wanted = rule.language or tracks.audio_language
    same = next((one for one in found if wanted and one.language == wanted), None)
    return f'it has subtitles in {wanted} already: {same.name} (skip_existing = "language")' if same else ""


def read_tracks(path: str, root: str | None = None) -> MediaTracks:
    """Return the subtitle tracks of a media file and the language of its audio; raises MediaError.

    Forced tracks, which translate only the foreign parts of a film, are left out.
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


def subtitle_files(rule: SkipRule) -> tuple[ExistingSubtitles, ...]:
    """Return the subtitle files that players show with a source, without those that the daemon wrote."""
    source = Path(os.fsdecode(rule.source))
    ours = {os.fsdecode(path) for path in rule.ours}
    found = []
    for folder in map(os.fsdecode, rule.folders):
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - names, as they are
        except OSError:
            continue
        others = _other_stems(source.name, names)
        for name in names:
            if name.startswith(others):
                continue  # `talk.2.en.srt` belongs to `talk.2.mp4`
            file = parse_name(source.name, name)
            if file is not None and os.path.join(folder, name) not in ours:  # noqa: PTH118 - as `ours` was made
                found.append(file)
    return tuple(found)


def _other_stems(source: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the stems, with a dot, of the other files in `names` that begin with the stem of `source`; no subtitles."""
    stem = os.path.splitext(source)[0]  # noqa: PTH122 - likewise
    parts = (os.path.splitext(name) for name in names if name.startswith(f"{stem}."))  # noqa: PTH122 - likewise
    return tuple(
        f"{other}."
        for other, suffix in parts
        if other not in {stem, source} and suffix.lower() in MEDIA_SUFFIXES
    )


def parse_name(source: str, name: str) -> ExistingSubtitles | None:
    """Return the file `name` as subtitles of the media file `source` in its folder, by their names; None if it is not.

    `talk.srt`, `talk.English.srt`, `talk.2.en.srt`, `talk.und.srt`, `talk.mp4.zh-Hans.sdh.srt` belong to `talk.mp4`;
    `talk.part2.srt` does not. None also for forced subtitles.
    """
    base, suffix = os.path.splitext(name)  # noqa: PTH122 - a stem may end in a dot
    stem, own_suffix = os.path.splitext(source)  # noqa: PTH122 - likewise
    if suffix.lower() not in SUFFIXES or not f"{base}.".startswith(f"{stem}."):
        return None
    words = base[len(stem) + 1 :].lower().split(".") if len(base) > len(stem) else []
    if words and words[0] == own_suffix[1:].lower():
        words = words[1:]
    numbered = [word for word in words if not word.isdecimal()]
    languages = [code for word in numbered if word not in _MARKS and (code := code_of(word))]
    if numbered and numbered[0] not in _MARKS | UNDETERMINED and code_of(numbered[0]) is None:
        return None
    if _FORCED & set(words):
        return None
    return ExistingSubtitles(printable(name), languages[0] if languages else None)
