"""The `subtitle` command: its sub-commands and exit statuses."""

from __future__ import annotations

import sys

import click

from subtitle.command_group import CommandGroup, accept_all_names, os_error_text
from subtitle.commands import jobs, operate, server
from subtitle.commands.connection_options import CommandExitCode, connection_options
from subtitle.commands.edit import edit
from subtitle.commands.submit import submit
from subtitle.commands.translate import translate
from subtitle.errors import KeyFileError, OptionError, ServerError, SubtitleError, UnreachableError


@click.group(cls=CommandGroup)
@click.version_option(package_name="subtitled", prog_name="subtitle")
@connection_options
def cli() -> None:
    """Submit media files to the subtitled daemon, watch their jobs, fetch their subtitles.

    Exit status: 0 success, 1 a job failed, 2 wrong usage, 3 the server cannot be reached or rejects the request.
    """


for _command in (
    submit,
    jobs.list_jobs,
    operate.queue,
    jobs.status,
    jobs.watch,
    jobs.fetch,
    edit,
    translate,
    jobs.cancel,
    jobs.retry,
    jobs.dismiss,
    jobs.delete,
    operate.move,
    operate.pause,
    operate.resume,
    server.top,
    server.ping,
    operate.models,
    server.completion,
    operate.admin,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command; exits with one of `CommandExitCode`."""
    accept_all_names()
    try:
        cli(standalone_mode=False, prog_name="subtitle")
    except click.ClickException as error:
        error.show()
        sys.exit(CommandExitCode.USAGE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(CommandExitCode.INTERRUPTED)
    except (SubtitleError, OSError) as error:
        match error:
            case KeyFileError() | OptionError():
                text, status = str(error), CommandExitCode.USAGE
            case ServerError(message=text):
                status = CommandExitCode.UNREACHABLE
            case UnreachableError():
                text, status = str(error), CommandExitCode.UNREACHABLE
            case OSError():
                text, status = os_error_text(error), CommandExitCode.FAILED
            case _:
                text, status = str(error), CommandExitCode.FAILED
        click.echo(f"subtitle: {text}", err=True)
        sys.exit(status)
