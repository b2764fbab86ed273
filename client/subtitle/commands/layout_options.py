"""How cues are to be made, as options of a command."""

from __future__ import annotations

from typing import Any

import click

from subtitle.commands.connection_options import Command
from subtitle.messages import LayoutOptions
from subtitle.requests import JobKeywords, options_of

_OPTIONS = (
    click.option(
        "--layout",
        "layout_profile",
        type=click.Choice(["default", "strict", "raw"]),
        help="How cues are made.",
    ),
    click.option("--max-chars", "layout_max_chars", type=int, metavar="N", help="Characters of a line."),
    click.option("--max-lines", "layout_max_lines", type=int, metavar="N", help="Lines of a cue."),
    click.option(
        "--max-chars-per-s", "layout_max_chars_per_s", type=float, metavar="N", help="Reading speed."
    ),
    click.option("--min-ms", "layout_min_ms", type=int, metavar="MS", help="Shortest cue."),
    click.option("--max-ms", "layout_max_ms", type=int, metavar="MS", help="Longest cue."),
    click.option("--gap-ms", "layout_gap_ms", type=int, metavar="MS", help="Time between two cues."),
    click.option(
        "--chain-ms", "layout_chain_ms", type=int, metavar="MS", help="Cues nearer than this are closed up."
    ),
)
_PREFIX = "layout_"


def layout_options(command: Command) -> Command:
    """Add the options to a command; it gets them as keywords, for `chosen_layout`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen_layout(words: dict[str, Any]) -> LayoutOptions | None:
    """Take the layout's keywords out of a command's; None where none of them is given. Raises OptionError."""
    names = [name for name in words if name.startswith(_PREFIX)]
    fields = {name.removeprefix(_PREFIX): words.pop(name) for name in names}
    given = {name: value for name, value in fields.items() if value is not None}
    return options_of(None, JobKeywords(layout=LayoutOptions(**given))).layout if given else None
