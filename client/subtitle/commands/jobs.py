"""Commands about existing jobs: list, status, watch, fetch, cancel, retry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from subtitle import tables
from subtitle.client import Client
from subtitle.commands.connection_options import CommandExitCode, as_json, print_json, with_client
from subtitle.commands.job_options import chosen_layout, layout_options, split_formats
from subtitle.output_files import format_of, save_all
from subtitle.progress import ENDED


@click.command("list")
@click.option("--state", "states", multiple=True, help="Only jobs in this state; may be repeated.")
@click.option("--tag", help="Only jobs with this tag.")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="Maximum number of jobs."
)
@as_json
@with_client
def list_jobs(client: Client, states: tuple[str, ...], tag: str | None, limit: int, *, is_json: bool) -> None:
    """List the newest jobs, newest first."""
    jobs = client.list(states, limit=limit, tag=tag)
    if is_json:
        for job in jobs:
            print_json(job)
    else:
        Console().print(tables.jobs_table(jobs))


@click.command()
@click.argument("job", required=False)
@as_json
@with_client
def status(client: Client, job: str | None, *, is_json: bool) -> None:
    """Show one job, or the workers and the queue."""
    if job is None:
        stats = client.stats()
        print_json(stats) if is_json else tables.print_stats(Console(), stats)
        return
    facts = client.status(job)
    print_json(facts) if is_json else tables.print_job(Console(), facts)


@click.command()
@click.argument("job", required=False)
@click.option(
    "--since", "after_seq", default=-1, help="Start after this entry's number; 0 from the beginning."
)
@as_json
@with_client
def watch(client: Client, job: str | None, after_seq: int, *, is_json: bool) -> None:
    """Print what happens as it happens, to all jobs or to one, until that job has ended, or until Ctrl-C.

    A lost connection, or a restart of the daemon, leaves nothing out.
    """
    if job is not None and after_seq < 0:
        # The number first: what happens after it is told, what happened before it is in the status.
        after_seq = client.stats().last_seq
        facts = client.status(job)
        if facts.state in ENDED:
            print_json(facts) if is_json else tables.print_job(Console(), facts)
            sys.exit(CommandExitCode.OK if facts.state == "done" else CommandExitCode.FAILED)
    for event in client.watch(job, after_seq=after_seq):
        print_json(event) if is_json else click.echo(tables.event_line(event))
        sys.stdout.flush()
        if job is not None and event.subject == "job" and event.after in ENDED:
            sys.exit(CommandExitCode.OK if event.after == "done" else CommandExitCode.FAILED)


@click.command()
@click.argument("job")
@click.option("--format", "forms", metavar="FORMATS", help="Such as srt,vtt; else as it was submitted.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A folder, a file to replace, or - for the terminal.",
)
@layout_options
@as_json
@with_client
def fetch(
    client: Client, job: str, forms: str | None, output: Path | None, *, is_json: bool, **words: Any
) -> None:
    """Fetch a job's subtitles, and print where they are.

    In a folder, this one if no other is named, no file that is something else is replaced: a number is added to the name. With
    a layout the cues are made anew within its limits, else as the job was submitted.
    """
    layout = chosen_layout(words)
    if output is not None and str(output) == "-":
        for form in split_formats(forms) or ("srt",):
            sys.stdout.buffer.write(client.fetch(job, form, layout=layout)[1])
        return
    target = output or Path()
    asked = split_formats(forms) or format_of(target) or client.status(job).formats or ("srt",)
    for path in save_all(target, [(form, *client.fetch(job, form, layout=layout)) for form in asked]):
        print_json({"job": job, "path": str(path)}) if is_json else click.echo(str(path))


@click.command()
@click.argument("job")
@as_json
@with_client
def cancel(client: Client, job: str, *, is_json: bool) -> None:
    """Cancel a job that is not finished."""
    facts = client.cancel(job)
    print_json(facts) if is_json else click.echo(f"{facts.id} {facts.state}")


@click.command()
@click.argument("job")
@as_json
@with_client
def retry(client: Client, job: str, *, is_json: bool) -> None:
    """Retry a failed job; only missing segments are decoded."""
    facts = client.retry(job)
    print_json(facts) if is_json else click.echo(f"{facts.id} {facts.state}")


@click.command()
@click.argument("job", nargs=-1, required=True)
@as_json
@with_client
def delete(client: Client, job: tuple[str, ...], *, is_json: bool) -> None:
    """Delete ended jobs with their results; written subtitles are kept."""
    for one in job:
        facts = client.delete(one)
        print_json(facts) if is_json else click.echo(f"{facts.id} deleted")
