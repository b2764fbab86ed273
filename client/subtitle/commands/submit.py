"""Submit files, and wait for their subtitles if so asked."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from subtitle.client import Client
from subtitle.commands.connection_options import (
    CommandExitCode,
    ConnectionOptions,
    as_json,
    json_line,
    with_client,
)
from subtitle.commands.job_options import chosen, job_options
from subtitle.errors import SubtitleError, UnreachableError
from subtitle.messages import JobFacts, JobOptions
from subtitle.output_files import save_in
from subtitle.progress import ENDED, Progress, progress_of
from subtitle.progress_bars import DisplayedProgress


class _File(Struct, frozen=True):
    """One file of the command line."""

    path: Path
    label: str
    """What it is called in what is shown."""


@click.command()
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the subtitles, and save them.")
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), help="Where --wait saves them."
)
@click.option("--force", "is_forced", is_flag=True, help="Have --wait replace files that are something else.")
@click.option(
    "--again", "is_again", is_flag=True, help="A job of its own, though the file was submitted before."
)
@click.option(
    "--on-server", "is_on_server", is_flag=True, help="FILE is an absolute path on the server; local only."
)
@job_options
@as_json
@with_client
@click.pass_obj
def submit(
    reach: ConnectionOptions,
    /,
    client: Client,
    files: Sequence[Path],
    *,
    is_waiting: bool,
    output: Path | None,
    is_forced: bool,
    is_again: bool,
    is_on_server: bool,
    is_json: bool,
    **words: Any,
) -> None:
    """Send media files to be subtitled.

    Files are sent one after the other, and go on from where they were when the same command was interrupted. A file that was
    submitted before, with the same options, is the same job. Prints each job; with --wait, waits for all of them and prints
    where the subtitles are: beside each file, or in DIR, as NAME.LANGUAGE.FORMAT. A file of that name with other content
    is kept, and the next free name taken (NAME.en.2.srt), unless --force says otherwise.

    Ctrl-C while it waits leaves the jobs running.
    """
    if not is_waiting and (output is not None or is_forced):
        raise click.UsageError("-o and --force say what --wait does; add --wait")
    if not is_on_server:
        _check_files(files, output, is_waiting=is_waiting)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    run = _Run(reach, client, chosen(words), is_again=is_again, is_on_server=is_on_server, is_json=is_json)
    with DisplayedProgress() as run.shown:
        try:
            run.send([_File(path, _label(path, files)) for path in files], is_waiting=is_waiting)
            if is_waiting:
                run.wait(output, is_forced=is_forced)
        except KeyboardInterrupt:
            run.say_interrupted()
            sys.exit(CommandExitCode.INTERRUPTED)
        except UnreachableError:
            run.say_jobs()
            raise
    sys.exit(run.status)


class _Run:
    """One run of the command."""

    def __init__(
        self,
        reach: ConnectionOptions,
        client: Client,
        options: JobOptions,
        *,
        is_again: bool,
        is_on_server: bool,
        is_json: bool,
    ) -> None:
        self._reach = reach
        self._client = client
        self._options = options
        self._is_again = is_again
        self._is_on_server = is_on_server
        self._is_json = is_json
        self._jobs: dict[str, list[_File]] = {}
        """The files of each job that has not ended: those with equal content share one."""
        self._sending: _File | None = None
        self.shown = DisplayedProgress()
        self.status = CommandExitCode.OK

    def send(self, files: Sequence[_File], *, is_waiting: bool) -> None:
        """Submit all files; one that is refused does not keep the others."""
        for file in files:
            self._sending = file
            try:
                facts, is_known = self._submit(file)
            except UnreachableError:
                raise
            except (SubtitleError, OSError) as error:
                # Refused by the server, or not to be read here; the others may do better.
                self.shown.end(file.label, "not submitted")
                self.shown.say(f"subtitle: {file.path}: {error}")
                self.status = CommandExitCode.UNREACHABLE
                continue
            self._jobs.setdefault(facts.id, []).append(file)
            self._sending = None
            known = "; submitted before, --again makes another job" if is_known else ""
            self.shown.end(file.label, f"submitted, job {facts.id}{known}")
            if not is_waiting:
                self.shown.out(json_line(facts) if self._is_json else f"{facts.id} {facts.state} {file.path}")

    def wait(self, output: Path | None, *, is_forced: bool) -> None:
        """Wait until all jobs have ended; save what they have made as soon as each is done."""

        def tell(facts: JobFacts) -> None:
            for file in self._jobs[facts.id]:
                self.shown.update(file.label, progress_of(facts))
                if facts.state in ENDED:
                    folder = output or (Path() if self._is_on_server else file.path.parent)
                    self._finish(file, facts, folder, is_forced=is_forced)
            if facts.state in ENDED:
                del self._jobs[facts.id]

        if self._jobs:
            self._client.follow(list(self._jobs), on_facts=tell)

    def say_interrupted(self) -> None:
        """Say what became of what was under way."""
        if self._sending is not None:
            self.shown.end(self._sending.label, "interrupted")
            self.shown.say(
                f"subtitle: interrupted; what was sent is kept: submit {self._sending.path} again, and it goes on from there"
            )
        else:
            self.shown.say("subtitle: interrupted; the jobs go on")
        self.say_jobs()

    def say_jobs(self) -> None:
        """Say how to come back to the jobs that there are."""
        for job, files in self._jobs.items():
            come_back = f"{self._reach.hint('watch', job)}, then {self._reach.hint('fetch', job)}"
            self.shown.say(f"{files[0].label}: {come_back}")

    def _submit(self, file: _File) -> tuple[JobFacts, bool]:
        """Return the file's job, and whether there was no need to send anything."""
        if self._is_on_server:
            job = self._client.submit_path(file.path, options=self._options, is_again=self._is_again)
            return job.facts(), False
        states = set()

        def tell(progress: Progress) -> None:
            states.add(progress.state)
            self.shown.update(file.label, progress)

        job = self._client.submit(file.path, options=self._options, is_again=self._is_again, on_progress=tell)
        return job.facts(), "receiving" not in states

    def _finish(self, file: _File, facts: JobFacts, folder: Path, *, is_forced: bool) -> None:
        saved: list[Path] = []
        if facts.state == "done":
            for form in self._options.formats:
                answer, body = self._client.subtitles(facts.id, form)
                name = _name(file.path, answer.language, form)
                saved.append(save_in(folder, name, body, is_forced=is_forced))
            self.shown.end(file.label, "done")
        else:
            self.status = max(self.status, CommandExitCode.FAILED)
            self.shown.end(file.label, facts.state)
            self.shown.say(f"subtitle: {file.path}: {facts.state}{f': {facts.cause}' if facts.cause else ''}")
            if facts.segments.get("done"):
                self.shown.say(f"the finished part: {self._reach.hint('fetch', facts.id)}")
        if self._is_json:
            self.shown.out(json_line({**msgspec.to_builtins(facts), "saved": [str(path) for path in saved]}))
        else:
            for path in saved:
                self.shown.out(str(path))


def _check_files(files: Sequence[Path], output: Path | None, *, is_waiting: bool) -> None:
    """Say before anything is sent what could not be read or saved."""
    for path in files:
        if not path.is_file():
            reason = "is not a regular file" if path.exists() else "no such file"
            raise click.UsageError(f"{path}: {reason}")
        if is_waiting and output is None and not os.access(path.parent, os.W_OK):
            raise click.UsageError(f"{path.parent}: cannot be written to; name another folder with -o DIR")


def _label(path: Path, files: Sequence[Path]) -> str:
    return path.name if sum(other.name == path.name for other in files) == 1 else str(path)


def _name(source: Path, language: str | None, form: str) -> str:
    """Return the name of a file's subtitles; what the server calls the language is data."""
    code = f".{language}" if language and re.fullmatch("[A-Za-z-]{2,16}", language) else ""
    return f"{source.stem}{code}.{form}"
