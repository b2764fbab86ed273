"""What all commands share: which server, with which key; how values are printed."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import click
import msgspec

from subtitle.client import Client
from subtitle.keys import KEY_VARIABLE
from subtitle.transport import SERVER_VARIABLE

Command = Callable[..., Any]


class CommandExitCode(IntEnum):
    """Exit statuses of the `subtitle` commands."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


class ConnectionOptions:
    """How the server is reached, as the options before and after the command's name say; the later ones win."""

    def __init__(self) -> None:
        self.server: str | None = None
        self.key: str | None = None
        self.timeout_s = 5.0

    def client(self) -> Client:
        """Return a client of that server."""
        return Client(self.server, self.key, timeout_s=self.timeout_s)

    def hint(self, *words: str) -> str:
        """Return a command to type that reaches the same server."""
        server = [] if self.server is None else ["--server", self.server]
        key = [] if self.key is None else ["--key", self.key]
        return shlex.join(["subtitle", *words, *server, *key])


as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON, one value a line.")


def reach_options(command: Command) -> Command:
    """Add the options that say how the server is reached."""
    for option in (
        click.option(
            "--timeout", "timeout_s", type=click.FloatRange(0.01), metavar="SECONDS", expose_value=False,
            callback=_remember, help="How long an answer may take; 5 if nothing else is said.",
        ),
        click.option(
            "--key", metavar="FILE", expose_value=False, callback=_remember,
            help=f'The key to show on TCP; else {KEY_VARIABLE}, else ~/.config/subtitle/key.toml; "" shows none.',
        ),
        click.option(
            "--server", metavar="ENDPOINT", expose_value=False, callback=_remember,
            help=f"Such as tcp://gpu.example:5570; else {SERVER_VARIABLE}, else the local daemon's socket.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def with_client(command: Command) -> Command:
    """Give a command the client as its first argument, and the options that say which server."""

    @reach_options
    @click.pass_context
    @functools.wraps(command)
    def call(context: click.Context, *args: Any, **words: Any) -> Any:
        return command(
            context.with_resource(context.ensure_object(ConnectionOptions).client()), *args, **words
        )

    return call


def json_line(value: object) -> str:
    """Return a value as one line of JSON."""
    return msgspec.json.encode(value).decode()


def print_json(value: object) -> None:
    """Print one value on a line of its own."""
    click.echo(json_line(value))


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    reach = context.ensure_object(ConnectionOptions)
    if value is not None and parameter.name is not None:
        setattr(reach, parameter.name, value)
