"""A click group whose help uses the terminal's width and shows each command's first sentence in full."""

from __future__ import annotations

import re
from typing import Any

import click

MAX_HELP_WIDTH = 120


class CommandGroup(click.Group):
    """A group with `-h`; click itself limits help to 80 columns and truncates the commands' descriptions."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": MAX_HELP_WIDTH}
        attributes["context_settings"] = {**settings, **(attributes.get("context_settings") or {})}
        super().__init__(*args, **attributes)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; its first sentence is its description in this group's help."""
        if cmd.short_help is None and cmd.help is not None:
            paragraph = " ".join(cmd.help.partition("\n\n")[0].split())
            cmd.short_help = re.split(r"(?<=[a-z)])\. ", paragraph)[0].rstrip(".")
        super().add_command(cmd, name)


CommandGroup.group_class = CommandGroup  # of sub-groups
