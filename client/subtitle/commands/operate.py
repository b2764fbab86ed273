"""Commands that operate the server: the queue and its order, the models, log level and log."""

from __future__ import annotations

from typing import get_args

import click

from subtitle.client import Client
from subtitle.command_group import CommandGroup
from subtitle.commands.connection_options import (
    ConnectionOptions,
    as_json,
    print_json,
    with_client,
    with_connection,
)
from subtitle.commands.selection import complete_jobs, file_name, find_one
from subtitle.messages import LogLevelName, ModelFacts

LEVELS = get_args(LogLevelName)


@click.command()
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="Maximum number of jobs."
)
@as_json
@with_client
def queue(client: Client, limit: int, *, is_json: bool) -> None:
    """Show the queue in its order: jobs in progress first, then the waiting ones with their positions."""
    from subtitle import tables

    jobs = client.list(limit=limit, sort="queue")
    is_paused = client.stats().is_paused
    if is_json:
        for job in jobs:
            print_json(job)
        return
    if is_paused:
        click.echo("the queue is paused; `subtitle resume` resumes it", err=True)
    tables.print_queue(jobs)


@click.command()
@click.argument("job", metavar="JOB|FILENAME", shell_complete=complete_jobs)
@click.option("--before", metavar="JOB|FILENAME", help="Start it directly before this waiting job.")
@click.option("--after", metavar="JOB|FILENAME", help="Start it directly after this waiting job.")
@click.option("--first", "is_first", is_flag=True, help="Start it before all waiting jobs.")
@click.option(
    "--priority", type=click.IntRange(-100, 100), help="Change its priority; a higher one is started first."
)
@as_json
@with_client
def move(
    client: Client,
    job: str,
    before: str | None,
    after: str | None,
    priority: int | None,
    *,
    is_first: bool,
    is_json: bool,
) -> None:
    """Move a job in the queue.

    Beside another job it gets the priority of that job; both must wait.
    """
    if sum((before is not None, after is not None, is_first, priority is not None)) != 1:
        raise click.UsageError("give one of --before, --after, --first and --priority")
    chosen = find_one(client, job)
    if priority is not None:
        moved = client.reorder(chosen.id, priority=priority)
    elif after is not None:
        moved = client.reorder(chosen.id, after=find_one(client, after).id)
    elif before is not None:
        moved = client.reorder(chosen.id, before=find_one(client, before).id)
    else:
        [first, *_] = (*client.list(("queued",), limit=1, sort="queue"), chosen)
        moved = chosen if chosen.position == 1 else client.reorder(chosen.id, before=first.id)
    if is_json:
        print_json(moved)
        return
    place = f"position {moved.position}" if moved.position else moved.state
    click.echo(f"{moved.id} {place}, priority {moved.priority} {file_name(moved)}")


@click.command()
@as_json
@with_client
def pause(client: Client, *, is_json: bool) -> None:
    """Pause the queue: running work is finished, nothing new is started, uploads are accepted; for an admin.

    It stays paused, also after a restart of the daemon, until `subtitle resume`.
    """
    _set_paused(client, is_paused=True, is_json=is_json)


@click.command()
@as_json
@with_client
def resume(client: Client, *, is_json: bool) -> None:
    """Resume the queue after `subtitle pause`; for an admin."""
    _set_paused(client, is_paused=False, is_json=is_json)


def _set_paused(client: Client, *, is_paused: bool, is_json: bool) -> None:
    info = client.operate(is_paused=is_paused)
    print_json(info) if is_json else click.echo("paused" if info.is_paused else "running")


@click.group(cls=CommandGroup, invoke_without_command=True)
@as_json
@with_connection
@click.pass_context
def models(context: click.Context, connection: ConnectionOptions, *, is_json: bool) -> None:
    """List the server's models, with their languages and tasks, workers, memory, loads and jobs.

    The commands below load and unload a model, for an admin.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from subtitle import tables

    with connection.client() as client:
        found = client.stats().models
    if is_json:
        print_json(found)
        return
    console = Console()
    console.print(tables.models_table(found))
    for model in found:
        if line := tables.model_note(model):
            console.print(line, highlight=False, markup=False)


@models.command()
@click.argument("name")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 4096), help="How many workers keep it."
)
@as_json
@with_client
def load(client: Client, name: str, workers: int, *, is_json: bool) -> None:
    """Load a model before a job needs it, and keep it until it is unloaded.

    Idle workers load it at once, busy ones after their present work, as far as their memory allows. It is kept until
    `subtitle models unload`, a change of its configuration, or a restart of the daemon.
    """
    count = "1 worker" if workers == 1 else f"{workers} workers"
    _show(client.load_model(name, workers), f"{name}: {count} will load it and keep it", is_json=is_json)


@models.command()
@click.argument("name")
@as_json
@with_client
def unload(client: Client, name: str, *, is_json: bool) -> None:
    """Unload a model from all workers as soon as they do not use it; a job that needs it loads it again."""
    _show(
        client.unload_model(name), f"{name}: workers unload it as soon as they do not use it", is_json=is_json
    )


def _show(model: ModelFacts, text: str, *, is_json: bool) -> None:
    print_json(model) if is_json else click.echo(f"{text}; see `subtitle models`")


@click.group(cls=CommandGroup)
def admin() -> None:
    """Change the log level and show the log; for an admin."""


@admin.command("log-level")
@click.argument("level", required=False, type=click.Choice(LEVELS))
@as_json
@with_client
def log_level(client: Client, level: LogLevelName | None, *, is_json: bool) -> None:
    """Set the daemon's log level to LEVEL until it reloads its configuration; show the level without LEVEL."""
    answer = client.set_log_level(level)
    if is_json:
        print_json(answer)
    else:
        click.echo(answer.level if level is None else f"{answer.level}, before: {answer.before}")


@admin.command()
@click.option(
    "--lines", default=50, show_default=True, type=click.IntRange(1, 1000), help="Maximum number of lines."
)
@click.option(
    "--level", default="debug", type=click.Choice(LEVELS), help="Only lines of this level or above."
)
@click.option("--text", default="", help="Only lines that contain this text, such as the id of a job.")
@as_json
@with_client
def log(client: Client, lines: int, level: LogLevelName, text: str, *, is_json: bool) -> None:
    """Show the last lines of the log, with those of workers and the gateway on the daemon's host."""
    info = client.operate(log_lines=lines, log_level=level, log_text=text)
    for line in info.log:
        print_json(line) if is_json else click.echo(line)
