"""Shared by all commands: the options for the server and key, and JSON output."""

from __future__ import annotations

import functools
import shlex
import socket
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import click
import msgspec

from subtitle.client import Client
from subtitle.errors import UnreachableError
from subtitle.keys import KEY_VARIABLE
from subtitle.transport import SERVER_VARIABLE, default_server

Command = Callable[..., Any]
LISTENER_TIMEOUT_S = 0.3


class CommandExitCode(IntEnum):
    """Exit statuses of the `subtitle` commands."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


class ConnectionOptions:
    """The connection, from the options before and after the command's name; later ones win."""

    def __init__(self) -> None:
        self.server: str | None = None
        self.key: str | None = None
        self.timeout_s = 5.0

    def client(self) -> Client:
        """Return a client for the server; raises UnreachableError at once if nothing listens there."""
        check_listener(self.server or default_server())
        return Client(self.server, self.key, timeout_s=self.timeout_s)

    def hint(self, *words: str) -> str:
        """Return a command line for the same server."""
        server = [] if self.server is None else ["--server", self.server]
        key = [] if self.key is None else ["--key", self.key]
        return shlex.join(["subtitle", *words, *server, *key])


def check_listener(endpoint: str) -> None:
    """Raise UnreachableError, with a remedy, if nothing listens at an endpoint; an unclear answer raises nothing."""
    scheme, _, address = endpoint.partition("://")
    host, _, port = address.rpartition(":")
    remedy = f"give another server with --server or {SERVER_VARIABLE}"
    try:
        if scheme == "ipc":
            remedy = (
                "start it with `systemctl start subtitled` or `subtitled run`; for one file without a daemon: "
                f"`subtitled transcribe FILE`; or {remedy}"
            )
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(LISTENER_TIMEOUT_S)
                probe.connect(address)
        elif scheme == "tcp" and port.isdecimal():
            remedy = f"is the daemon running there? Or {remedy}"
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENER_TIMEOUT_S).close()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise UnreachableError(f"no daemon listens at {endpoint}; {remedy}") from error
    except OSError:
        pass  # permissions, names and slow networks: the connection itself reports them


as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON, one value per line.")


def connection_options(command: Command) -> Command:
    """Add the options of the connection."""
    for option in (
        click.option(
            "--timeout", "timeout_s", type=click.FloatRange(0.01), metavar="SECONDS", expose_value=False,
            callback=_remember, help="Time limit of an answer; default: 5.",
        ),
        click.option(
            "--key", metavar="FILE", expose_value=False, callback=_remember,
            help=f'Key file for TCP; default: {KEY_VARIABLE}, then ~/.config/subtitle/key.toml; "": none.',
        ),
        click.option(
            "--server", metavar="ENDPOINT", expose_value=False, callback=_remember,
            help=f"Such as tcp://gpu.example:5570; default: {SERVER_VARIABLE}, then the local daemon.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def with_connection(command: Command) -> Command:
    """Add the options of the connection, and pass them as the first argument."""

    @connection_options
    @click.pass_context
    @functools.wraps(command)
    def call(context: click.Context, *args: Any, **keywords: Any) -> Any:
        return command(context.ensure_object(ConnectionOptions), *args, **keywords)

    return call


def with_client(command: Command) -> Command:
    """Add the options of the connection, and pass the client as the first argument."""

    @with_connection
    @functools.wraps(command)
    def call(connection: ConnectionOptions, *args: Any, **keywords: Any) -> Any:
        with connection.client() as client:
            return command(client, *args, **keywords)

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
