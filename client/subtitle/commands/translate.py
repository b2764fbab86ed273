"""The command `translate`: the subtitles of a job, or of a subtitle file, in other languages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

import click

from subtitle.client import Client, JobHandle
from subtitle.commands.connection_options import (
    CommandExitCode,
    ConnectionOptions,
    as_json,
    print_json,
    with_connection,
)
from subtitle.commands.job_options import read_text, split_languages, split_list
from subtitle.commands.selection import complete_jobs, file_name, find_one
from subtitle.commands.submit import SubmitRun, untranslated_text, with_unique_names
from subtitle.errors import OptionError
from subtitle.messages import JobOptions
from subtitle.output_files import save_all
from subtitle.progress import ENDED
from subtitle.requests import JobKeywords, OnProgress, options_of

_SUBTITLE_SUFFIXES = (".srt", ".vtt")


@click.command()
@click.argument("source", metavar="JOB|FILENAME|FILE.srt", shell_complete=complete_jobs)
@click.option(
    "--to", default="", metavar="LANGUAGES", help="Such as zh-TW,ja; default: the languages of the job."
)
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model that translates; default: the first one that covers both languages.",
)
@click.option(
    "--retry", "is_retry", is_flag=True, help="Translate again the sentences that could not be translated."
)
@click.option("--bilingual", "is_bilingual", is_flag=True, help="Save files with both languages too.")
@click.option(
    "--language", metavar="CODE", help="Language of FILE.srt; default: the one in its name (talk.en.srt)."
)
@click.option(
    "--glossary",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    help="For FILE.srt: translations of names and terms (names.toml).",
)
@click.option(
    "--format", "fmts", metavar="FORMATS", help="Such as srt,vtt; default: those of the job, or of FILE."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A folder, or a file to replace; default: this folder, or that of FILE.srt.",
)
@click.option("--no-wait", "is_not_waiting", is_flag=True, help="Do not wait for the translations.")
@as_json
@with_connection
def translate(
    connection: ConnectionOptions,
    source: str,
    to: str,
    model: str,
    language: str | None,
    glossary: TextIO | None,
    fmts: str | None,
    output: Path | None,
    *,
    is_retry: bool,
    is_bilingual: bool,
    is_not_waiting: bool,
    is_json: bool,
) -> None:
    """Translate the subtitles of a job that is done, or of a subtitle file, and print the paths of the files.

    Only sentences that are not translated yet are translated. Sentences that cannot be translated stay in the original; the exit
    status is 1 then. Ctrl-C while it waits does not stop the translation.
    """
    languages = split_languages(to)
    file = Path(source)
    is_file = file.suffix.lower() in _SUBTITLE_SUFFIXES and file.is_file()
    if is_file and not languages:
        raise OptionError("--to is empty; give languages, such as --to zh-TW,ja")
    with connection.client() as client:
        if is_file:
            given: dict[str, Any] = {
                "translate_to": languages,
                "translate_model": model,
                "is_bilingual": is_bilingual,
                "formats": split_list(fmts) or (file.suffix[1:].lower(),),
            }
            if language is not None:
                given["language"] = language
            if glossary is not None:
                given["glossary"] = read_text(glossary)
            options = options_of(None, JobKeywords(**given))  # type: ignore[typeddict-item]
            sys.exit(
                _translate_file(
                    connection, client, file, options, output, is_waiting=not is_not_waiting, is_json=is_json
                )
            )
        if language is not None or glossary is not None:
            raise click.UsageError("--language and --glossary are for a subtitle file; a job has its own")
        facts = client.translate(find_one(client, source).id, languages, model=model, is_retry=is_retry)
        if is_not_waiting:
            print_json(facts) if is_json else click.echo(f"{facts.id} {facts.state} {file_name(facts)}")
            return
        if facts.state not in ENDED:
            facts = client.job(facts.id).wait()
        wanted = split_list(fmts) or facts.formats or ("srt",)
        files = [
            (fmt, *client.fetch(facts.id, fmt, language=one, is_bilingual=both))
            for one in languages or [each.language for each in facts.translations]
            for both in ((False, True) if is_bilingual else (False,))
            for fmt in wanted
        ]
        for path in save_all(output or Path(), files):
            print_json({"job": facts.id, "path": str(path)}) if is_json else click.echo(str(path))
        if untranslated := untranslated_text(facts):
            click.echo(f"subtitle: {file_name(facts)}: {untranslated}", err=True)
            sys.exit(CommandExitCode.FAILED)


def _translate_file(
    connection: ConnectionOptions,
    client: Client,
    file: Path,
    options: JobOptions,
    output: Path | None,
    *,
    is_waiting: bool,
    is_json: bool,
) -> CommandExitCode:
    """Submit a subtitle file, and save its translations beside it."""

    def send(path: Path, options: JobOptions, on_progress: OnProgress) -> JobHandle:
        return client.submit(path, options=options, on_progress=on_progress)

    run = SubmitRun(client, options, send, hint=connection.hint, is_json=is_json, has_transcript=False)
    return run.run(with_unique_names([file]), is_waiting=is_waiting, output=output, is_forced=False)
