"""Submit files, and optionally wait for their subtitles."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, get_args

import click
import msgspec
from msgspec import Struct

from subtitle.client import Client, JobHandle
from subtitle.command_group import InputError
from subtitle.commands.connection_options import (
    CommandExitCode,
    ConnectionOptions,
    as_json,
    json_line,
    with_connection,
)
from subtitle.commands.job_options import job_options, job_options_of
from subtitle.errors import ServerError, SubtitleError, UnreachableError
from subtitle.eta import QueueSnapshot, SpeedMeter, estimate
from subtitle.media_source import media_files
from subtitle.messages import Flag, JobFacts, JobOptions, Task
from subtitle.output_files import safe_name, save_in
from subtitle.progress import ENDED, Progress, progress_of, tasks_of
from subtitle.requests import OnProgress

ETA_S = 2.0
"""Interval of updates of the remaining time."""
ETA_AVERAGE_S = 120.0
"""Averaging time of the speed: the segments of a lease finish together, on a CPU once a minute."""


class SubmittedFile(Struct, frozen=True):
    """One file of the command line."""

    path: Path
    label: str
    """Its name in messages."""
    url: str = ""
    """The address that the server downloads, instead of `path`."""

    @property
    def source(self) -> str:
        """The address or the path."""
        return self.url or str(self.path)


SubmitFile = Callable[[Path, JobOptions, OnProgress], JobHandle]
SubmitUrl = Callable[[str, JobOptions], JobHandle]


@click.command()
@click.argument("words", metavar="FILE|FOLDER|URL…", nargs=-1, required=True, type=click.Path())
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the subtitles and save them.")
@click.option("-o", "--output", metavar="DIR", type=click.Path(path_type=Path), help="Folder for --wait.")
@click.option("--force", "is_forced", is_flag=True, help="With --wait, overwrite files with other content.")
@click.option(
    "--allow-duplicate",
    "allow_duplicate",
    is_flag=True,
    help="Create a new job even if the file was submitted before.",
)
@click.option(
    "--on-server", "is_on_server", is_flag=True, help="FILE is an absolute path on the server; local only."
)
@job_options
@as_json
@with_connection
def submit(
    connection: ConnectionOptions,
    words: Sequence[str],
    *,
    is_waiting: bool,
    output: Path | None,
    is_forced: bool,
    allow_duplicate: bool,
    is_on_server: bool,
    is_json: bool,
    **keywords: Any,
) -> None:
    """Submit media files, all media files of folders, and addresses that the server downloads.

    Files are sent one after the other; an interrupted upload resumes when the command is repeated. A file that was submitted
    before with the same options is the same job. Prints each job; with --wait, waits for all of them and prints the paths of
    the subtitles: beside each file, or in DIR, named NAME.LANGUAGE.FORMAT. A file of that name with other content is kept, and
    the next free name is used (NAME.en.2.srt), unless --force is given.

    A URL starts with https:// or http://; the operator of the server allows hosts (url.allowed_hosts). Its subtitles are
    saved in this folder or DIR, under the title of the recording.

    Ctrl-C while it waits does not stop the jobs.
    """
    if not is_waiting and (output is not None or is_forced):
        raise click.UsageError("-o and --force need --wait")
    options = job_options_of(keywords)
    urls = [word for word in words if _is_url(word)]
    files = [Path(word) for word in words if not _is_url(word)]
    paths = files if is_on_server or not files else find_files(files, output, is_saving=is_waiting)
    with connection.client() as client:

        def send(path: Path, options: JobOptions, on_progress: OnProgress) -> JobHandle:
            if is_on_server:
                return client.submit_path(path, options=options, allow_duplicate=allow_duplicate)
            return client.submit(
                path, options=options, allow_duplicate=allow_duplicate, on_progress=on_progress
            )

        def send_url(url: str, options: JobOptions) -> JobHandle:
            return client.submit_url(url, options=options, allow_duplicate=allow_duplicate)

        run = SubmitRun(client, options, send, send_url, hint=connection.hint, is_json=is_json)
        sys.exit(
            run.run(
                [*with_unique_names(paths), *(SubmittedFile(Path(), url, url) for url in urls)],
                is_waiting=is_waiting,
                output=output or (Path() if is_on_server else None),
                is_forced=is_forced,
            )
        )


class SubmitRun:
    """Submits files, waits for their jobs, saves the subtitles, and shows the progress of all of it."""

    def __init__(
        self,
        client: Client,
        options: JobOptions,
        submit_file: SubmitFile,
        submit_url: SubmitUrl | None = None,
        *,
        hint: Callable[..., str],
        is_json: bool = False,
        program: str = "subtitle",
        resume_hint: str = "",
        has_transcript: bool = True,
    ) -> None:
        """`hint` returns a `subtitle` command line for the same server; `resume_hint` replaces such hints after Ctrl-C.

        `has_transcript`: save the transcript, not only its translations.
        """
        from subtitle.progress_bars import (
            DisplayedProgress,  # rich takes a fifth of the start of every command
        )

        self._client = client
        self._options = options
        self._submit_file = submit_file
        self._submit_url = submit_url
        self._hint = hint
        self._is_json = is_json
        self._program = program
        self._resume_hint = resume_hint
        self._has_transcript = has_transcript
        self._jobs: dict[str, list[SubmittedFile]] = {}
        """The files of each job that has not ended; files with equal content share one."""
        self._sending: SubmittedFile | None = None
        self._speed_meter = SpeedMeter(ETA_AVERAGE_S)
        self._known: dict[str, JobFacts] = {}
        self.shown = DisplayedProgress()
        self.status = CommandExitCode.OK

    def run(
        self, files: Sequence[SubmittedFile], *, is_waiting: bool, output: Path | None, is_forced: bool
    ) -> CommandExitCode:
        """Submit files and, if `is_waiting`, save their subtitles; `output` None: beside each file."""
        if output is not None and is_waiting:
            output.mkdir(parents=True, exist_ok=True)
        with self.shown:
            try:
                self.shown.start_files(len(files))
                self._send(files, is_waiting=is_waiting)
                if is_waiting:
                    self._wait(output, is_forced=is_forced)
            except KeyboardInterrupt:
                self._report_interrupted()
                return CommandExitCode.INTERRUPTED
            except UnreachableError:
                self._report_jobs()
                raise
        return self.status

    def _send(self, files: Sequence[SubmittedFile], *, is_waiting: bool) -> None:
        """Submit all files; one that is refused does not stop the others. The server's reasons are printed once each."""
        refused: Counter[str] = Counter()
        for file in files:
            self._sending = file
            states: set[str] = set()

            def show(progress: Progress, file: SubmittedFile = file, states: set[str] = states) -> None:
                states.add(progress.state)
                self.shown.update(file.label, progress)

            try:
                if file.url and self._submit_url is not None:
                    job = self._submit_url(file.url, self._options)
                else:
                    job = self._submit_file(file.path, self._options, show)
                facts = job.facts()
            except UnreachableError:
                raise
            except (SubtitleError, OSError) as error:
                # Refused by the server, or unreadable; the other files may be accepted.
                self.shown.end(file.label, "not submitted")
                match error:
                    case ServerError(message=text):
                        refused[text] += 1
                    case OSError():
                        text = error.strerror or str(error)
                    case _:
                        text = str(error)
                if refused[text] <= 1:
                    self.shown.message(f"{self._program}: {file.source}: {text}")
                self.status = CommandExitCode.UNREACHABLE
                continue
            self._jobs.setdefault(facts.id, []).append(file)
            self._sending = None
            is_known = bool(states) and "receiving" not in states
            known = "; submitted before; --allow-duplicate creates another job" if is_known else ""
            self.shown.submitted(file.label, f"submitted, job {facts.id}{known}", is_last=not is_waiting)
            if not is_waiting:
                self.shown.out(
                    json_line(facts) if self._is_json else f"{facts.id} {facts.state} {file.source}"
                )
        for text, count in refused.items():
            if count > 1:
                self.shown.message(f"{self._program}: {count} files in all: {text}")

    def _wait(self, output: Path | None, *, is_forced: bool) -> None:
        """Wait until all jobs have ended; save the subtitles of each as soon as it is done."""

        def show(facts: JobFacts) -> None:
            self._known[facts.id] = facts
            for file in self._jobs[facts.id]:
                self.shown.update(file.label, progress_of(facts))
                if facts.state in ENDED:
                    self._finish(file, facts, output or file.path.parent, is_forced=is_forced)
            if facts.state in ENDED:
                del self._jobs[facts.id]
            self._show_eta()

        if self._jobs:
            self._client.follow(list(self._jobs), on_facts=show)

    def _show_eta(self) -> None:
        """Show the remaining time of the server's whole queue."""
        now = time.monotonic()
        if (before := self._speed_meter.latest) is not None and now - before.at < ETA_S:
            return
        latest = QueueSnapshot(at=now, stats=self._client.stats())
        left = estimate(latest.stats, self._speed_meter.add(latest), self._known.values())
        self.shown.remaining(left.finish_s)

    def _report_interrupted(self) -> None:
        if self._resume_hint:
            self.shown.message(f"{self._program}: interrupted; {self._resume_hint}")
        elif self._sending is not None:
            self.shown.end(self._sending.label, "interrupted")
            self.shown.message(
                f"{self._program}: interrupted; the sent part is kept: submit {self._sending.source} again to resume"
            )
            self._report_jobs()
        else:
            self.shown.message(f"{self._program}: interrupted; the jobs continue")
            self._report_jobs()

    def _report_jobs(self) -> None:
        """Print the commands for jobs that have not ended."""
        for job, files in self._jobs.items():
            self.shown.message(
                f"{files[0].label}: {self._hint('watch', job)}, then {self._hint('fetch', job)}"
            )

    def _finish(self, file: SubmittedFile, facts: JobFacts, folder: Path, *, is_forced: bool) -> None:
        saved: list[Path] = []
        if facts.state == "done":
            for which in subtitles_of(facts, self._options, has_transcript=self._has_transcript):
                for fmt in self._options.formats:
                    answer, body = self._client.subtitles(facts.id, fmt, **which)
                    is_bilingual = which.get("is_bilingual", False)
                    name = subtitle_name(
                        Path(facts.source) if file.url else file.path,
                        answer.language,
                        fmt,
                        self._options.flags,
                        is_bilingual=is_bilingual,
                    )
                    if (
                        not self._has_transcript
                    ):  # the server knows which part of the source's name is its language
                        name = safe_name(answer.name, fmt)
                    path = save_in(folder, name, body, is_forced=is_forced)
                    if path not in saved:  # the translation of English is the same file
                        saved.append(path)
            if untranslated := untranslated_text(facts):
                self.shown.message(f"{self._program}: {file.source}: {untranslated}")
            self.shown.end(file.label, f"done{_speed(facts)}")
        else:
            self.status = max(self.status, CommandExitCode.FAILED)
            self.shown.end(file.label, facts.state)
            cause = f": {facts.cause}" if facts.cause else ""
            self.shown.message(f"{self._program}: {file.source}: {facts.state}{cause}")
            if facts.segments.get("done") and not self._resume_hint:
                self.shown.message(f"the finished part: {self._hint('fetch', facts.id)}")
        if self._is_json:
            self.shown.out(json_line({**msgspec.to_builtins(facts), "saved": [str(path) for path in saved]}))
        else:
            for path in saved:
                self.shown.out(str(path))


def _is_url(word: str) -> bool:
    """Return whether a word of the command line is an address; Path would join its slashes."""
    return re.match("https?://", word, re.IGNORECASE) is not None


def find_files(paths: Iterable[Path], output: Path | None, *, is_saving: bool) -> list[Path]:
    """Return files and the media files of folders; raises UsageError for what cannot be read, or saved beside its file."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if not path.is_dir() and not path.is_file():
            raise InputError(f"{path}: is not a regular file")
        files = list(media_files(path))
        if not files:
            raise InputError(f"{path}: contains no media files")
        found += [file for file in files if file not in found]
    if is_saving and output is None:
        for folder in dict.fromkeys(file.parent for file in found):
            if not os.access(folder, os.W_OK):
                raise InputError(f"{folder}: is not writable; choose another folder with -o DIR")
    return found


def with_unique_names(paths: Sequence[Path]) -> list[SubmittedFile]:
    """Return files with their names, or their paths where names are equal."""
    names = [path.name for path in paths]
    return [SubmittedFile(path, path.name if names.count(path.name) == 1 else str(path)) for path in paths]


def subtitle_name(
    source: Path, language: str | None, fmt: str, flags: Iterable[Flag] = (), *, is_bilingual: bool = False
) -> str:
    """Return the name of a file's subtitles: talk.en.sdh.srt; the server's language code is untrusted."""
    code = f".{language}" if language and re.fullmatch("[A-Za-z0-9-]{2,35}", language) else ""
    marks = "".join(f".{flag}" for flag in get_args(Flag) if flag in flags)
    return f"{source.stem}{'.bilingual' if is_bilingual else ''}{code}{marks}.{fmt}"


class SubtitleSelection(TypedDict, total=False):
    """Which subtitles of a job, as `Client.subtitles` takes it."""

    task: Task | None
    language: str
    is_bilingual: bool


def subtitles_of(
    facts: JobFacts, options: JobOptions, *, has_transcript: bool = True
) -> Iterator[SubtitleSelection]:
    """Yield which subtitles a job has: those of its tasks, and its translations."""
    if has_transcript:
        for task in tasks_of(facts):
            yield {"task": task}
    for translation in facts.translations:
        yield {"language": translation.language}
        if options.is_bilingual:
            yield {"language": translation.language, "is_bilingual": True}


def untranslated_text(facts: JobFacts) -> str:
    """Return in words how many sentences of a job are not translated, or why it is not; "" if all are."""
    return ", ".join(
        f"{one.language}: not translated: {one.cause}"
        if one.cause
        else f"{one.language}: {one.untranslated} of {one.sentences} sentences are not translated"
        for one in facts.translations
        if one.untranslated or one.cause
    )


def _speed(facts: JobFacts) -> str:
    """Return the duration and speed of a job in words."""
    if not facts.audio_ms or not facts.started_ms or not facts.ended_ms or facts.ended_ms <= facts.started_ms:
        return ""
    from subtitle.progress_bars import clock

    wall_s = (facts.ended_ms - facts.started_ms) / 1000
    return f", {clock(facts.audio_ms / 1000)} in {clock(wall_s)} ({facts.audio_ms / 1000 / wall_s:.1f}x real time)"
