"""The command `edit`: a job's cues from a file, their versions, and what differs between them."""

from __future__ import annotations

import difflib
import getpass
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, get_args

import click

from subtitle.client import Client
from subtitle.commands.connection_options import as_json, print_json, with_client
from subtitle.commands.selection import complete_jobs, find_one
from subtitle.errors import ServerError
from subtitle.messages import Task
from subtitle.subtitle_files import parse_subtitles

if TYPE_CHECKING:
    from subtitle.messages import CueVersion


@click.command()
@click.argument("job", metavar="JOB|FILENAME", shell_complete=complete_jobs)
@click.argument("file", metavar="[FILE.srt]", type=click.File("rb"), required=False)
@click.option(
    "--version", type=click.IntRange(0), help="The version that FILE was made from; default: 0, the model's."
)
@click.option("--restore", type=click.IntRange(0), metavar="VERSION", help="Save this version again.")
@click.option(
    "--diff",
    type=click.IntRange(0),
    metavar="VERSION",
    help="Compare this version with --version or the newest.",
)
@click.option(
    "--task", type=click.Choice(get_args(Task)), help="Subtitles of a job with two tasks; default: the first."
)
@click.option("--author", default="", help="Name shown with the version; default: the key's name, or yours.")
@as_json
@with_client
def edit(
    client: Client,
    job: str,
    file: BinaryIO | None,
    version: int | None,
    restore: int | None,
    diff: int | None,
    task: Task | None,
    author: str,
    *,
    is_json: bool,
) -> None:
    """Replace the cues of a job that is done by those of a file; without FILE, list the saved versions.

    FILE is SRT, VTT or the server's JSON; - is standard input. Fetched subtitles and the files in the server's folders then contain
    them. If another version was saved after --version, nothing is changed: fetch the newest, and repeat the edit.
    """
    if (file is not None) + (restore is not None) + (diff is not None) > 1:
        raise click.UsageError("give FILE, or --restore, or --diff")
    facts = find_one(client, job)
    if diff is not None:
        sys.stdout.write(_difference(client, facts.id, diff, version, task))
        return
    if file is None and restore is None:
        _show(client.cue_versions(facts.id, task=task), is_json=is_json)
        return
    if not author and not client.ping().user:
        with suppress(OSError, KeyError, ImportError):
            author = getpass.getuser()
    try:
        if file is not None:
            cues = parse_subtitles(file.read())
            saved = client.save_cues(facts.id, cues, version=version or 0, task=task, author=author)
        else:
            if version is None:
                versions = client.cue_versions(facts.id, task=task)
                version = versions[0].version if versions else 0
            saved = client.restore_cues(facts.id, restore or 0, version=version, task=task, author=author)
    except ServerError as error:
        if error.code != "CONFLICT":
            raise
        remedy = "if FILE was made from the newest version, name it with --version"
        raise ServerError(error.code, f"{error.message}; {remedy}") from None
    _show(saved[:1], is_json=is_json)


def _show(versions: tuple[CueVersion, ...], *, is_json: bool) -> None:
    if is_json:
        for version in versions:
            print_json(version)
        return
    from subtitle import tables

    tables.print_versions(versions)


def _difference(client: Client, job: str, before: int, after: int | None, task: Task | None) -> str:
    """Return a unified diff of two versions in SRT, without the numbers of the cues."""
    texts = []
    for version in (before, after):
        answer, body = client.subtitles(job, "srt", task=task, version=version)
        blocks = body.decode("utf-8").split("\n\n")
        rows = [row for block in blocks for row in (*block.strip().split("\n")[1:], "")]
        texts.append((f"version {answer.version}", rows))
    (old_name, old), (new_name, new) = texts
    rows = list(difflib.unified_diff(old, new, old_name, new_name, n=2, lineterm=""))
    return "".join(f"{row}\n" for row in rows)
