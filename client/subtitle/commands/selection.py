"""Choose jobs by id, unique prefix of an id, file name, tag or state; shell completion of these."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click
from click.shell_completion import CompletionItem

from subtitle.client import Client
from subtitle.command_group import InputError
from subtitle.commands.connection_options import Command, ConnectionOptions
from subtitle.errors import ServerError, SubtitleError
from subtitle.messages import JobFacts
from subtitle.progress import ENDED

PAGE = 1000
COMPLETION_TIMEOUT_S = 0.5
ACTIVE = ("receiving", "queued", "preparing", "transcribing", "writing", "translating")
STATES = (*ACTIVE, *sorted(ENDED))
_ID = re.compile("[0-9a-f]{16}")
_PREFIX = re.compile("[0-9a-f]{4,15}")


MAX_SEARCHED = 20_000
"""Jobs that the server searches for a filter without an index, or sorts, in one request."""


def file_name(job: JobFacts) -> str:
    """Return the name of a job's file without its folder."""
    return job.source.rpartition("/")[2]


def all_jobs(client: Client, states: Sequence[str] = (), **wanted: Any) -> Iterator[JobFacts]:
    """Yield all jobs, newest first, in pages."""
    before = ""
    while True:
        page = client.list(states, limit=PAGE, before=before, **wanted)
        yield from page
        if len(page) < PAGE:
            return
        before = page[-1].id


def is_search_limited(filters: Mapping[str, Any], total: int) -> bool:
    """Return whether a list with filters, or in another order than by time, may lack some of the server's `total` jobs."""
    is_by_time = filters.get("sort") in {None, "newest", "oldest"}
    is_filtered = any(value for name, value in filters.items() if name != "sort")
    return total > MAX_SEARCHED and (is_filtered or not is_by_time)


def find(client: Client, word: str, states: Sequence[str] = ()) -> list[JobFacts]:
    """Return the jobs of an id, a unique prefix of an id, or a file name, newest first; raises UsageError.

    `states` limits the jobs of a file name. A file name may be a path: then the job's path has to be the same, or to end with the
    name if the job's path is only a name.
    """
    if _ID.fullmatch(word):
        return [client.status(word)]
    if _PREFIX.fullmatch(word):
        found = [job for job in all_jobs(client) if job.id.startswith(word)]
        if len(found) > 1:
            ids = ", ".join(job.id for job in found[:3])
            raise InputError(f"{word!r} is the start of {len(found)} job ids: {ids}…; give more characters")
        if found:
            return found
    name = word.rpartition("/")[2]
    named = [job for job in all_jobs(client, name=name) if file_name(job) == name]
    chosen = [job for job in named if not states or job.state in states]
    if not chosen:
        others = f" in the right state: {named[0].id} is {named[0].state}" if named else ""
        raise InputError(f"{word!r}: no job has this id or file name{others}; see `subtitle list`")
    return chosen


def find_one(client: Client, word: str) -> JobFacts:
    """Return one job; the newest of a file name."""
    return find(client, word)[0]


def select(
    client: Client, words: Sequence[str], *, states: Sequence[str], tag: str | None, is_all: bool
) -> list[JobFacts]:
    """Return the jobs of a command, each once: those of `words`, those with `tag`, or all; in `states`, except ids.

    Raises UsageError if nothing is chosen, or words and --all are combined.
    """
    if words and (is_all or tag is not None):
        raise click.UsageError("give jobs, or --tag, or --all")
    if not words and tag is None and not is_all:
        raise click.UsageError("give job ids or file names, or --tag, or --all")
    if words:
        return list({job.id: job for word in words for job in find(client, word, states)}.values())
    return list(all_jobs(client, states, tag=tag))


def change(
    jobs: Sequence[JobFacts], act: Callable[[str], JobFacts], show: Callable[[JobFacts], object]
) -> int:
    """Apply a request to each job and show the result; return 3 if the server refused one, else 0."""
    status = 0
    for job in jobs:
        try:
            show(act(job.id))
        except ServerError as error:
            click.echo(f"subtitle: {file_name(job)}: {error.message}", err=True)
            status = 3
    return status


def selection(command: Command) -> Command:
    """Add the arguments and options that choose jobs."""
    for option in (
        click.option(
            "--all", "is_all", is_flag=True, help="All jobs in a state that the command applies to."
        ),
        click.option("--tag", help="All jobs with this tag, in a state that the command applies to."),
        click.argument("jobs", metavar="JOB|FILENAME…", nargs=-1, shell_complete=complete_jobs),
    ):
        command = option(command)
    return command


def complete_jobs(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return ids and file names of the newest jobs that start with `incomplete`; nothing without a server."""
    connection = context.find_object(ConnectionOptions) or ConnectionOptions()
    connection.timeout_s = COMPLETION_TIMEOUT_S
    items = []
    with suppress(SubtitleError), connection.client() as client:
        for job in client.list(limit=PAGE):
            for value, text in ((job.id, f"{job.state} {file_name(job)}"), (file_name(job), job.state)):
                if value.startswith(incomplete):
                    items.append(CompletionItem(value, help=text))
    return list({item.value: item for item in items}.values())
