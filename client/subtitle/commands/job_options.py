"""The options of jobs and cue layouts, for several commands."""

from __future__ import annotations

from typing import Any, TextIO, get_args

import click

from subtitle.commands.connection_options import Command
from subtitle.errors import OptionError
from subtitle.messages import Channels, Chinese, JobOptions, LayoutOptions, Task, VadOptions
from subtitle.requests import JobKeywords, options_of

_OPTIONS = (
    click.option(
        "--language",
        metavar="CODE",
        help='Such as en, zh-Hant; default: "auto" (one language per file); "multi": several languages.',
    ),
    click.option(
        "--audio-track",
        metavar="TRACK",
        help='Number of the audio track, from 1, or its language; default: "auto", one with speech, not commentary.',
    ),
    click.option(
        "--channels",
        type=click.Choice(get_args(Channels)),
        help="split: separate cues for two channels, or tracks, with different speakers.",
    ),
    click.option(
        "--task",
        type=click.Choice(get_args(Task)),
        help="translate: into English; turbo models cannot.",
    ),
    click.option("--translate", "is_translation", is_flag=True, help="The same as --task translate."),
    click.option(
        "--tasks",
        metavar="TASKS",
        help="transcribe,translate: subtitles of both, from one reading of the file.",
    ),
    click.option("--format", "formats", metavar="FORMATS", help="Such as srt,vtt; default: srt."),
    click.option(
        "--prompt",
        "initial_prompt",
        metavar="TEXT",
        help="Text that the model treats as earlier speech: names, spelling, style.",
    ),
    click.option("--hotwords", metavar="WORDS", help="Words that the model should prefer."),
    click.option(
        "--word-timestamps/--no-word-timestamps",
        default=None,
        help="Time all words, or none; default: only where a phrase does not fit into one cue.",
    ),
    click.option(
        "--chinese",
        type=click.Choice(get_args(Chinese)),
        metavar="VARIANT",
        help=f"Characters of Chinese text: {', '.join(get_args(Chinese))}; default: by --language.",
    ),
    click.option(
        "--flags", metavar="FLAGS", help="Marks for players in the file names: default, sdh, forced."
    ),
)


_TRANSLATION_OPTIONS = (
    click.option(
        "--translate-to",
        metavar="LANGUAGES",
        help="Such as zh-TW,ja: also translate the transcript to these languages.",
    ),
    click.option(
        "--translate-model",
        metavar="NAME",
        help="Model for --translate-to; default: the first one that covers both languages.",
    ),
    click.option(
        "--bilingual/--no-bilingual",
        "is_bilingual",
        default=None,
        help="With --translate-to: also files with both languages.",
    ),
    click.option(
        "--glossary",
        metavar="FILE",
        type=click.File(encoding="utf-8"),
        help="Translations of names and terms (names.toml).",
    ),
)
_QUEUE_OPTIONS = (
    click.option(
        "--model",
        metavar="NAME",
        help="One of the server's models (`subtitle ping`); default: chosen by task and language.",
    ),
    click.option(
        "--priority",
        type=int,
        metavar="N",
        help="-100 to 100; a job with a higher priority is started first.",
    ),
    click.option("--tag", help="Free text, for `subtitle list --tag`."),
)
_VAD_OPTIONS = (
    click.option(
        "--vad-threshold", type=float, metavar="P", help="0 to 1; a lower value detects more speech."
    ),
    click.option("--vad-min-silence-ms", type=int, metavar="MS", help="Shorter pauses do not split speech."),
    click.option("--vad-pad-ms", type=int, metavar="MS", help="Padding around speech."),
)


_LAYOUT_OPTIONS = (
    click.option(
        "--layout",
        "layout_profile",
        type=click.Choice(["default", "strict", "raw"]),
        help="Cue layout.",
    ),
    click.option(
        "--max-chars", "layout_max_chars", type=int, metavar="N", help="Maximum characters per line."
    ),
    click.option("--max-lines", "layout_max_lines", type=int, metavar="N", help="Maximum lines per cue."),
    click.option(
        "--max-chars-per-s", "layout_max_chars_per_s", type=float, metavar="N", help="Maximum reading speed."
    ),
    click.option("--min-ms", "layout_min_ms", type=int, metavar="MS", help="Minimum duration of a cue."),
    click.option("--max-ms", "layout_max_ms", type=int, metavar="MS", help="Maximum duration of a cue."),
    click.option("--gap-ms", "layout_gap_ms", type=int, metavar="MS", help="Minimum gap between two cues."),
    click.option(
        "--chain-ms", "layout_chain_ms", type=int, metavar="MS", help="Reduce shorter gaps to --gap-ms."
    ),
)
_PREFIX = "layout_"


def job_options(command: Command, *, with_queue: bool = True) -> Command:
    """Add the options of a job to a command, as keywords for `job_options_of`.

    `with_queue`: also translations, model, priority and tag.
    """
    for option in reversed(_VAD_OPTIONS):
        command = option(command)
    command = layout_options(command)
    for option in reversed((*_OPTIONS, *_TRANSLATION_OPTIONS, *_QUEUE_OPTIONS) if with_queue else _OPTIONS):
        command = option(command)
    return command


def job_options_of(keywords: dict[str, Any]) -> JobOptions:
    """Return the job options of a command's keywords; raises OptionError."""
    given = {name: value for name, value in keywords.items() if value is not None}
    for name in ("formats", "tasks", "flags"):
        if name in given:
            given[name] = split_list(given[name])
    if "translate_to" in given:
        given["translate_to"] = split_languages(given["translate_to"])
    if "glossary" in given:
        given["glossary"] = read_text(given["glossary"])
    if given.pop("is_translation", False):
        if given.get("task") == "transcribe" or "tasks" in given:
            raise OptionError("--translate contradicts --task and --tasks; give one of them")
        given["task"] = "translate"
    if "task" in given and "tasks" in given:
        raise OptionError("--task contradicts --tasks; give one of them")
    if (layout := layout_options_of(given)) is not None:
        given["layout"] = layout
    names = [name for name in given if name.startswith("vad_")]
    if fields := {name.removeprefix("vad_"): given.pop(name) for name in names}:
        given["vad"] = VadOptions(**fields)
    return options_of(None, JobKeywords(**given))  # type: ignore[typeddict-item]


def layout_options(command: Command) -> Command:
    """Add the options of a layout to a command, as keywords for `layout_options_of`."""
    for option in reversed(_LAYOUT_OPTIONS):
        command = option(command)
    return command


def layout_options_of(keywords: dict[str, Any]) -> LayoutOptions | None:
    """Remove the layout's keywords and return them as options; None if none is given. Raises OptionError."""
    names = [name for name in keywords if name.startswith(_PREFIX)]
    fields = {name.removeprefix(_PREFIX): keywords.pop(name) for name in names}
    given = {name: value for name, value in fields.items() if value is not None}
    return options_of(None, JobKeywords(layout=LayoutOptions(**given))).layout if given else None


def split_list(text: str | None) -> tuple[str, ...]:
    """Return the words of a list such as "srt,vtt"."""
    return tuple(part.strip().lower() for part in (text or "").split(",") if part.strip())


def split_languages(text: str) -> tuple[str, ...]:
    """Return the languages of a list such as "zh-TW,ja"."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def read_text(file: TextIO) -> str:
    """Return the text of a file; raises OptionError if it is not UTF-8."""
    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise OptionError(f"{file.name}: the file is not UTF-8 (byte {error.start})") from None
