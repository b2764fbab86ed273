"""Commands about existing jobs: list, status, watch, fetch, cancel, retry, dismiss, delete."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from subtitle.client import Client
from subtitle.commands.connection_options import CommandExitCode, as_json, print_json, with_client
from subtitle.commands.job_options import layout_options, layout_options_of, split_list
from subtitle.commands.selection import (
    ACTIVE,
    MAX_SEARCHED,
    STATES,
    all_jobs,
    change,
    complete_jobs,
    file_name,
    find,
    find_one,
    is_search_limited,
    select,
    selection,
)
from subtitle.commands.submit import SubtitleSelection
from subtitle.errors import SubtitleError
from subtitle.messages import JobSort, Task
from subtitle.output_files import format_of, save_all
from subtitle.progress import ENDED, tasks_of

if TYPE_CHECKING:
    from subtitle.messages import JobFacts


@click.command("list")
@click.argument("jobs", metavar="[JOB|FILENAME]…", nargs=-1, shell_complete=complete_jobs)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES),
    metavar="STATE",
    help=f"Only this state: {', '.join(STATES)}; may be repeated.",
)
@click.option("--tag", help="Only jobs with this tag.")
@click.option("--language", default="", help="Only jobs in this language, by any usual name.")
@click.option("--model", default="", metavar="NAME", help="Only jobs of this model.")
@click.option("--inbox", default="", metavar="FOLDER", help="Only jobs of this inbox.")
@click.option("--damaged", "is_damaged", is_flag=True, help="Only jobs with lost audio.")
@click.option("--unheard", "is_unheard", is_flag=True, help="Only jobs with speech without text.")
@click.option(
    "--sort",
    show_default="newest",
    type=click.Choice(get_args(JobSort)),
    help="Order of the jobs; `subtitle queue` also shows positions.",
)
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="Maximum number of jobs."
)
@click.option("--all", "is_all", is_flag=True, help="No maximum.")
@as_json
@with_client
def list_jobs(
    client: Client,
    jobs: tuple[str, ...],
    states: tuple[str, ...],
    tag: str | None,
    limit: int,
    *,
    is_all: bool,
    is_json: bool,
    **filters: Any,
) -> None:
    """List jobs, newest first: all, or those with an id or file name.

    For filters other than --state and --tag, and for an order other than by time, the server searches 20,000 jobs in one request; with more jobs the list may be
    incomplete, and a warning is printed.
    """
    if jobs and any(filters.values()):
        raise click.UsageError("give jobs, or filters and an order")
    filters = {name: value for name, value in filters.items() if value}
    if jobs:
        found = {job.id: job for word in jobs for job in find(client, word, states)}
        listed = [job for job in found.values() if tag is None or job.tag == tag]
    else:
        listed = list(
            all_jobs(client, states, tag=tag, **filters)
            if is_all
            else client.list(states, limit=limit, tag=tag, **filters)
        )
        is_cut = len(listed) == limit and not is_all and "sort" not in filters
        if filters and not is_cut and is_search_limited(filters, total := sum(client.stats().jobs.values())):
            click.echo(
                f"subtitle: the server searches {MAX_SEARCHED} of its {total} jobs for this list: some may be missing; "
                "--state and --tag search all",
                err=True,
            )
    if is_json:
        for job in listed:
            print_json(job)
        return
    from subtitle import tables

    tables.print_jobs(listed)


@click.command()
@click.argument("job", metavar="[JOB|FILENAME]", required=False, shell_complete=complete_jobs)
@as_json
@with_client
def status(client: Client, job: str | None, *, is_json: bool) -> None:
    """Show one job, or the workers and the queue."""
    from rich.console import Console

    from subtitle import tables

    if job is None:
        stats = client.stats()
        print_json(stats) if is_json else tables.print_stats(Console(), stats)
        return
    facts = client.status(find_one(client, job).id)
    print_json(facts) if is_json else tables.print_job(Console(), facts)


@click.command()
@click.argument("job", metavar="[JOB|FILENAME]", required=False, shell_complete=complete_jobs)
@click.option(
    "--since", "after_seq", default=-1, help="Start after this entry's number; 0: from the beginning."
)
@click.option(
    "--text",
    "is_text",
    is_flag=True,
    help="Print the provisional text of JOB as it is transcribed, instead of events.",
)
@as_json
@with_client
def watch(client: Client, job: str | None, after_seq: int, *, is_text: bool, is_json: bool) -> None:
    """Print events of all jobs, or of one until it has ended, until Ctrl-C.

    No event is lost if the connection breaks or the daemon restarts. With --text, prints the text of one job in the order
    of time while it is transcribed; `subtitle fetch` returns the final subtitles.
    """
    from subtitle import tables

    if is_text:
        if job is None:
            raise click.UsageError("--text needs a JOB or FILENAME")
        _watch_text(client, find_one(client, job).id, is_json=is_json)
    job_id = None if job is None else find_one(client, job).id
    if job_id is not None and after_seq < 0:
        # The number first: later events are watched, earlier ones are in the status.
        after_seq = client.stats().last_seq
        facts = client.status(job_id)
        if facts.state in ENDED:
            print_json(facts) if is_json else click.echo(tables.end_line(facts))
            sys.exit(CommandExitCode.OK if facts.state == "done" else CommandExitCode.FAILED)
    names: dict[str, str] = {}
    for event in client.watch(job_id, after_seq=after_seq):
        if is_json:
            print_json(event)
        else:
            if event.job and event.job not in names:
                names[event.job] = _name(client, event.job)
            click.echo(tables.event_line(event, names.get(event.job, "")))
        sys.stdout.flush()
        if job_id is not None and event.subject == "job" and event.after in ENDED:
            sys.exit(CommandExitCode.OK if event.after == "done" else CommandExitCode.FAILED)


@click.command()
@click.argument("job", metavar="JOB|FILENAME", shell_complete=complete_jobs)
@click.option("--format", "fmts", metavar="FORMATS", help="Such as srt,vtt; default: those of the job.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A folder, a file to replace, or - for standard output.",
)
@click.option(
    "--task",
    type=click.Choice(get_args(Task)),
    help="Only these subtitles of a job with two tasks; default: all.",
)
@click.option("--language", default="", metavar="LANGUAGE", help="Only its translation into this language.")
@click.option(
    "--bilingual", "is_bilingual", is_flag=True, help="With --language: the original below the translation."
)
@click.option(
    "--version",
    type=click.IntRange(0),
    help="A saved version (see `edit`); 0: the model's; default: the newest.",
)
@layout_options
@as_json
@with_client
def fetch(
    client: Client,
    job: str,
    fmts: str | None,
    output: Path | None,
    task: Task | None,
    language: str,
    version: int | None,
    *,
    is_bilingual: bool,
    is_json: bool,
    **keywords: Any,
) -> None:
    """Fetch a job's subtitles, with its translations, and print their paths.

    In a folder (default: this one) files with other content are kept: a number is added to the name. With layout options the cues
    are laid out again, else as the job was submitted or as they were edited.
    """
    layout = layout_options_of(keywords)
    facts = find_one(client, job)
    if output is not None and str(output) == "-":
        for fmt in split_list(fmts) or ("srt",):
            answer = client.fetch(
                facts.id,
                fmt,
                layout=layout,
                task=task,
                language=language,
                is_bilingual=is_bilingual,
                version=version,
            )
            sys.stdout.buffer.write(answer[1])
        return
    target = output or Path()
    wanted = split_list(fmts) or format_of(target) or facts.formats or ("srt",)
    tasks = tasks_of(facts) if task is None else (task,)
    if is_bilingual and not language:
        raise click.UsageError("--bilingual needs --language")
    if version and len(tasks) > 1:
        names = " or ".join(f"--task {one}" for one in tasks)
        raise click.UsageError(f"job {facts.id}: each task has its own versions; choose one with {names}")
    chosen: list[SubtitleSelection] = [{"task": one} for one in tasks]
    if language:
        chosen = [{"language": language, "is_bilingual": is_bilingual}]
    elif task is None and not version:
        chosen += [{"language": one.language} for one in facts.translations]
    files = [
        (fmt, *client.fetch(facts.id, fmt, layout=layout, version=version, **which))
        for which in chosen
        for fmt in wanted
    ]
    for path in save_all(target, files):
        print_json({"job": facts.id, "path": str(path)}) if is_json else click.echo(str(path))


@click.command()
@selection
@as_json
@with_client
def cancel(client: Client, jobs: tuple[str, ...], tag: str | None, *, is_all: bool, is_json: bool) -> None:
    """Cancel jobs that are not finished."""
    chosen = select(client, jobs, states=ACTIVE, tag=tag, is_all=is_all)
    sys.exit(change(chosen, client.cancel, _shown(is_json)))


@click.command()
@selection
@as_json
@with_client
def retry(client: Client, jobs: tuple[str, ...], tag: str | None, *, is_all: bool, is_json: bool) -> None:
    """Retry failed jobs; only missing segments are decoded."""
    chosen = select(client, jobs, states=("failed",), tag=tag, is_all=is_all)
    sys.exit(change(chosen, client.retry, _shown(is_json)))


@click.command()
@selection
@as_json
@with_client
def dismiss(client: Client, jobs: tuple[str, ...], tag: str | None, *, is_all: bool, is_json: bool) -> None:
    """Dismiss failures: the web page no longer reports these jobs, until they are retried and fail again."""
    chosen = select(client, jobs, states=("failed",), tag=tag, is_all=is_all)
    sys.exit(change(chosen, client.dismiss, _shown(is_json, "dismissed")))


@click.command()
@selection
@as_json
@with_client
def delete(client: Client, jobs: tuple[str, ...], tag: str | None, *, is_all: bool, is_json: bool) -> None:
    """Delete ended jobs with their results; written subtitles are kept."""
    chosen = select(client, jobs, states=sorted(ENDED), tag=tag, is_all=is_all)
    sys.exit(change(chosen, client.delete, _shown(is_json, "deleted")))


def _shown(is_json: bool, result: str = "") -> Any:
    """Return a function that prints a job after a change."""

    def show(facts: JobFacts) -> None:
        print_json(facts) if is_json else click.echo(f"{facts.id} {result or facts.state} {file_name(facts)}")

    return show


def _watch_text(client: Client, job: str, *, is_json: bool) -> None:
    """Print the text of a job's segments in order, each once it can no longer change; exit when the job has ended."""
    from subtitle.live_text import OrderedText
    from subtitle.progress_bars import clock

    ordered = OrderedText()
    for event in client.watch_to_end(job):
        for cue in ordered.add(event, lambda segments: client.subtitles(job, "json", segments=segments)):
            if is_json:
                print_json(cue)
            else:
                click.echo(f"{clock(cue.start_ms / 1000)}  {' '.join(cue.lines)}")
            sys.stdout.flush()
    facts = client.status(job)
    if facts.state != "done":
        click.echo(f"subtitle: job {job}: {facts.state}{f': {facts.cause}' if facts.cause else ''}", err=True)
    sys.exit(CommandExitCode.OK if facts.state == "done" else CommandExitCode.FAILED)


def _name(client: Client, job: str) -> str:
    """Return the name of a job's file; the id if the job is deleted."""
    try:
        return file_name(client.status(job))
    except SubtitleError:
        return job
