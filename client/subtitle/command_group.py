"""A click group whose help uses the terminal's width and shows each command's first sentence in full."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from typing import IO, Any

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


class InputError(click.UsageError):
    """Input that cannot be used, such as a missing file; displayed in one line, without the usage of the command."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message after the program's name."""
        context = click.get_current_context(silent=True) or self.ctx
        program = context.find_root().info_name if context is not None else None
        click.echo(f"{program}: {self.message}" if program else self.message, file, err=file is None)


def accept_all_names() -> None:
    """Let standard output and error print any file name: raw bytes as they are, what the locale lacks as "?"."""
    codecs.register_error("file_names", _encoded)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="file_names")


def _encoded(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    raw = (bytes([ord(char) - 0xDC00]) if "\udc80" <= char <= "\udcff" else b"?" for char in text)
    return b"".join(raw), error.end


def os_error_text(error: OSError) -> str:
    """Return an error of the system in words, with its file."""
    if error.strerror is None:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror


CommandGroup.group_class = CommandGroup  # of sub-groups
