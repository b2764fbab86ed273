"""Commands that change what the daemon does as it runs: for an admin."""

from __future__ import annotations

from typing import get_args

import click

from subtitle.client import Client
from subtitle.commands.connection_options import as_json, print_json, with_client
from subtitle.messages import LogLevelName


@click.group()
def admin() -> None:
    """Change what the daemon does as it runs; for an admin."""


@admin.command("log-level")
@click.argument("level", required=False, type=click.Choice(get_args(LogLevelName)))
@as_json
@with_client
def log_level(client: Client, level: LogLevelName | None, *, is_json: bool) -> None:
    """Have the daemon log from LEVEL on, until it reads its configuration again; say which it is without one."""
    answer = client.set_log_level(level)
    if is_json:
        print_json(answer)
    else:
        click.echo(answer.level if level is None else f"{answer.level}, before: {answer.before}")
