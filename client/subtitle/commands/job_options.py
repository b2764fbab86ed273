"""What may be asked of a job, as options of a command."""

from __future__ import annotations

from typing import Any

import click

from subtitle.commands.connection_options import Command
from subtitle.commands.jobs import split_formats
from subtitle.commands.layout_options import chosen_layout, layout_options
from subtitle.messages import JobOptions, VadOptions
from subtitle.requests import JobKeywords, options_of

_OPTIONS = (
    click.option("--language", metavar="CODE", help='Such as en; "auto" (by vote; the default) or "multi".'),
    click.option(
        "--task",
        type=click.Choice(["transcribe", "translate"]),
        help="Translate: into English; not all models can.",
    ),
    click.option(
        "--format", "formats", metavar="FORMATS", help="Such as srt,vtt; srt if nothing else is said."
    ),
    click.option("--priority", type=int, metavar="N", help="-100 to 100; higher goes first."),
    click.option("--tag", help="A note of your own; `subtitle list --tag` finds it."),
    click.option(
        "--prompt", "initial_prompt", metavar="TEXT", help="As if said before: names, spelling, style."
    ),
    click.option("--hotwords", metavar="WORDS", help="What the model should expect to hear."),
    click.option(
        "--word-timestamps/--no-word-timestamps",
        default=None,
        help="Time each word, or none; else those of phrases that are more than a cue holds.",
    ),
)


_VAD_OPTIONS = (
    click.option(
        "--vad-threshold", type=float, metavar="P", help="0 to 1; with less, more is taken for speech."
    ),
    click.option("--vad-min-silence-ms", type=int, metavar="MS", help="Shorter pauses do not part speech."),
    click.option("--vad-pad-ms", type=int, metavar="MS", help="Kept around speech."),
)


def job_options(command: Command) -> Command:
    """Add the options to a command; it gets them as keywords, for `chosen`."""
    for option in reversed(_VAD_OPTIONS):
        command = option(command)
    command = layout_options(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen(words: dict[str, Any]) -> JobOptions:
    """Return what the keywords of a command ask for; raises OptionError."""
    said = {name: value for name, value in words.items() if value is not None}
    if "formats" in said:
        said["formats"] = split_formats(said["formats"])
    if (layout := chosen_layout(said)) is not None:
        said["layout"] = layout
    names = [name for name in said if name.startswith("vad_")]
    if fields := {name.removeprefix("vad_"): said.pop(name) for name in names}:
        said["vad"] = VadOptions(**fields)
    return options_of(None, JobKeywords(**said))  # type: ignore[typeddict-item]
