"""The `subtitle` commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec
from rich.console import Console

from subtitle import display
from subtitle.client import Client, LogLevelName
from subtitle.errors import ServerError, SubtitleError, UnreachableError
from subtitle.transport import SERVER_VARIABLE, default_server

F = TypeVar("F", bound=Callable[..., Any])


class ExitCode(IntEnum):
    """Exit statuses of the `subtitle` commands."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3


ENDED = frozenset({"done", "failed", "cancelled"})
"""States of a job in which nothing more comes by itself."""

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON, one value a line.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="subtitled", prog_name="subtitle")
@click.option(
    "--server",
    metavar="ENDPOINT",
    envvar=SERVER_VARIABLE,
    help=f"The daemon's socket, such as ipc:///run/subtitled/clients.sock; or set {SERVER_VARIABLE}.",
)
@click.option("--timeout", "timeout_s", default=5.0, show_default=True, help="Seconds to wait for an answer.")
@click.pass_context
def cli(context: click.Context, server: str | None, timeout_s: float) -> None:
    """See what the subtitled daemon does, and fetch what it has made."""
    context.obj = context.with_resource(Client(server or default_server(), timeout_s=timeout_s))


@cli.command()
@as_json
@click.pass_obj
def ping(client: Client, *, is_json: bool) -> None:
    """Say whether the daemon is there."""
    welcome = client.ping()
    _print_json(welcome) if is_json else click.echo(f"subtitled {welcome.server}, model {welcome.model}")


@cli.command("list")
@click.option("--state", "states", multiple=True, help="Only jobs in this state; may be repeated.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@as_json
@click.pass_obj
def list_jobs(client: Client, states: tuple[str, ...], limit: int, *, is_json: bool) -> None:
    """List the newest jobs, newest first."""
    jobs = client.list(states, limit=limit)
    if is_json:
        for job in jobs:
            _print_json(job)
    else:
        Console().print(display.jobs_table(jobs))


@cli.command()
@click.argument("job", required=False)
@as_json
@click.pass_obj
def status(client: Client, job: str | None, *, is_json: bool) -> None:
    """Show one job, or the workers and the queue."""
    if job is None:
        stats = client.stats()
        _print_json(stats) if is_json else display.print_stats(Console(), stats)
        return
    facts = client.status(job)
    _print_json(facts) if is_json else display.print_job(Console(), facts)


@cli.command()
@click.argument("job", required=False)
@click.option(
    "--since", "after_seq", default=-1, help="Start after this entry's number; 0 from the beginning."
)
@as_json
@click.pass_obj
def watch(client: Client, job: str | None, after_seq: int, *, is_json: bool) -> None:
    """Print what happens as it happens, to all jobs or to one, until that job has ended, or until Ctrl-C."""
    if job is not None and after_seq < 0:
        # The number first: what happens after it is told, what happened before it is in the status.
        after_seq = client.stats().last_seq
        facts = client.status(job)
        if facts.state in ENDED:
            _print_json(facts) if is_json else display.print_job(Console(), facts)
            sys.exit(ExitCode.OK if facts.state == "done" else ExitCode.FAILED)
    for event in client.watch(job, after_seq=after_seq):
        _print_json(event) if is_json else click.echo(display.event_line(event))
        sys.stdout.flush()
        if job is not None and event.subject == "job" and event.after in ENDED:
            sys.exit(ExitCode.OK if event.after == "done" else ExitCode.FAILED)


@cli.command()
@click.argument("job")
@click.option("--format", "form", default="srt", show_default=True, help="srt or json.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="A file, a folder, or - for the terminal."
)
@click.pass_obj
def fetch(client: Client, job: str, form: str, output: Path | None) -> None:
    """Fetch a job's subtitles."""
    name, body = client.fetch(job, form)
    if output is not None and str(output) == "-":
        sys.stdout.buffer.write(body)
        return
    target = (output / name) if output is not None and output.is_dir() else output or Path(name)
    target.write_bytes(body)
    click.echo(str(target))


@cli.command()
@click.argument("job")
@as_json
@click.pass_obj
def cancel(client: Client, job: str, *, is_json: bool) -> None:
    """End a job that is not finished."""
    facts = client.cancel(job)
    _print_json(facts) if is_json else click.echo(f"{facts.id} {facts.state}")


@cli.command()
@click.argument("job")
@as_json
@click.pass_obj
def retry(client: Client, job: str, *, is_json: bool) -> None:
    """Try a failed job again; only what is missing is decoded."""
    facts = client.retry(job)
    _print_json(facts) if is_json else click.echo(f"{facts.id} {facts.state}")


@cli.group()
def admin() -> None:
    """Change what the daemon does as it runs; for an admin."""


@admin.command("log-level")
@click.argument("level", required=False, type=click.Choice(get_args(LogLevelName)))
@as_json
@click.pass_obj
def log_level(client: Client, level: LogLevelName | None, *, is_json: bool) -> None:
    """Have the daemon log from LEVEL on, until it reads its configuration again; say which it is without one."""
    answer = client.set_log_level(level)
    if is_json:
        _print_json(answer)
    else:
        click.echo(answer.level if level is None else f"{answer.level}, before: {answer.before}")


def _print_json(value: msgspec.Struct) -> None:
    click.echo(msgspec.json.encode(value).decode())


def main() -> None:
    """Run the command; exits with one of `ExitCode`."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (UnreachableError, ServerError) as error:
        click.echo(f"subtitle: {error}", err=True)
        sys.exit(ExitCode.UNREACHABLE)
    except (SubtitleError, OSError) as error:
        click.echo(f"subtitle: {error}", err=True)
        sys.exit(ExitCode.FAILED)
