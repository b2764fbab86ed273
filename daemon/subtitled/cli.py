"""The `subtitled` commands."""

from __future__ import annotations

import json
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import click
from click.core import ParameterSource

from subtitle.command_group import CommandGroup, InputError, accept_all_names, os_error_text
from subtitle.commands.job_options import job_options, job_options_of
from subtitle.media_source import MEDIA_SUFFIXES
from subtitle.messages import Chinese, LayoutOptions
from subtitled.config import load as configuration
from subtitled.config.layout_limits import PROFILES, Profile
from subtitled.config.schema import DEFAULT_FILE, FORMATS, Config, Format
from subtitled.cues.render import RenderOptions
from subtitled.cues.render import render as as_file
from subtitled.cues.transcript import with_cues
from subtitled.errors import ConfigError, ExitCode, SubtitledError
from subtitled.workers.remote_command import worker

DEFAULT_CONFIG = "/etc/subtitled/subtitled.toml"

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False),
    envvar="SUBTITLED_CONFIG",
    help=f"Configuration file; default: {DEFAULT_CONFIG} if it exists, else all keys have their defaults.",
)


class _Commands(CommandGroup):
    """The commands; a file in place of a command gets a suggestion."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the arguments; raises UsageError."""
        path = Path(args[0])
        if args[0] not in self.commands and (path.exists() or path.suffix.lower() in MEDIA_SUFFIXES):
            words = shlex.join(["subtitled", "transcribe", *args])
            ctx.fail(f"{args[0]!r} is not a command. To make subtitles for a file or folder, type: {words}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands)
@click.version_option(package_name="subtitled", prog_name="subtitled")
def cli() -> None:
    """Turn media files into subtitles on all GPUs of this machine."""


cli.add_command(worker)


@cli.command()
@config_option
@click.option("--parent", type=int, hidden=True, help="Process id of a starting process; exit with it.")
def run(config_file: str | None, parent: int | None) -> None:
    """Run the daemon in the foreground, as systemd does."""
    if parent is not None:
        from subtitled.runtime.processes import die_with_parent

        die_with_parent(parent)
    from subtitled.asr.cuda import Device, find_devices
    from subtitled.log import HTTP_LOST, leave, remember_lines
    from subtitled.runtime.processes import module_command
    from subtitled.runtime.sidecar import Sidecar, SidecarSettings
    from subtitled.server.build import build_server

    def load() -> tuple[Config, list[Device]]:
        config = _load(config_file)
        devices = find_devices(config.pool.devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
        is_wanted = config.http.listen and config.http.with_daemon
        gateway.configure(SidecarSettings() if is_wanted else None)
        return config, devices

    remember_lines()  # first: the gateway forwards its lines
    chosen = ("--config", found) if (found := _found(config_file)) is not None else ()
    command = (*module_command("subtitled"), "http", "--parent", str(os.getpid()), *chosen)
    with Sidecar(command, os.environ, lost_event=HTTP_LOST) as gateway:
        status = build_server(load, os.environ).run()
    leave(status)


@cli.command()
@config_option
@click.option("--parent", type=int, hidden=True, help="Process id of the daemon; exit with it.")
def http(config_file: str | None, parent: int | None) -> None:
    """Run the HTTP gateway in the foreground, as configured in [http]."""
    from subtitled import log
    from subtitled.runtime.processes import die_with_parent, lower_priority
    from subtitled.web.process import serve

    if parent is not None:
        die_with_parent(parent)
        lower_priority()
    config = _load(config_file, check_paths=False)
    try:
        serve(config, os.environ)
    except SubtitledError as error:
        if parent is None:
            raise
        log.get().error(log.HTTP_FAILED, cause=str(error))
        sys.exit(1)


@cli.command()
@click.argument("files", metavar="FILE|FOLDER…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    metavar="NAME",
    help="A Whisper size, a hub id or a CTranslate2 folder; default: large-v3-turbo on GPUs, base on a CPU.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder; default: beside each file.",
)
@click.option("--force", "is_forced", is_flag=True, help="Overwrite files with other content.")
@click.option("--private", "is_private", is_flag=True, help="Do not use a running daemon.")
@partial(job_options, with_queue=False)
@config_option
def transcribe(
    files: tuple[Path, ...],
    model: str | None,
    output: Path | None,
    config_file: str | None,
    *,
    is_forced: bool,
    is_private: bool,
    **keywords: Any,
) -> None:
    """Transcribe media files, and all media files of folders, without a configuration.

    Uses the running daemon of this machine; without one, starts a private daemon for the time of the command, on all GPUs or else
    on the CPU. The subtitles are saved beside each file, named NAME.LANGUAGE.FORMAT. After Ctrl-C finished subtitles stay, and
    the same command resumes the others.

    Exit status: 0 success, 1 a file failed, 2 wrong usage, 3 no device, model or daemon can be used.
    """
    from subtitle.errors import OptionError, SubtitleError
    from subtitled.standalone.transcribe import TranscribeRequest
    from subtitled.standalone.transcribe import transcribe as start

    try:
        request = TranscribeRequest(
            files=files,
            options=job_options_of(keywords),
            model=model,
            output=output,
            is_forced=is_forced,
            is_private=is_private,
        )
        sys.exit(start(request, _load(config_file, check_paths=False).listen.clients))
    except OptionError as error:
        raise InputError(str(error)) from error
    except SubtitleError as error:
        click.echo(f"subtitled: {error}", err=True)
        sys.exit(ExitCode.UNREACHABLE)


@cli.command()
@click.option("--keep", is_flag=True, help="Keep the demo's folder with its log and subtitles.")
def demo(*, keep: bool) -> None:
    """Transcribe and translate two bundled recordings with the bundled models."""
    from subtitled.demo import run_demo

    sys.exit(run_demo(keep=keep))


@cli.command()
@click.argument("file", type=click.Path(path_type=str))
@config_option
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def explain(file: str, config_file: str | None, *, is_json: bool) -> None:
    """Show which inbox accepts FILE, what would happen to it, and why; changes nothing."""
    import msgspec

    from subtitled.inboxes import explain as explaining

    found = explaining.explain(file, _load(config_file, check_paths=False))
    click.echo(msgspec.json.encode(found).decode() if is_json else explaining.as_text(found))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "forms",
    type=click.Choice(FORMATS),
    multiple=True,
    default=("srt",),
    show_default=True,
    help="Output format; may be repeated.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="A folder, a file, or - for standard output."
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option(
    "--profile", type=click.Choice(PROFILES), default="default", show_default=True, help="Cue layout."
)
@click.option("--max-chars", type=int, help="Maximum characters per line.")
@click.option("--max-lines", type=int, help="Maximum lines per cue.")
@click.option("--max-chars-per-s", type=float, help="Maximum reading speed, in characters per second.")
@click.option("--min-ms", type=int, help="Minimum duration of a cue.")
@click.option("--max-ms", type=int, help="Maximum duration of a cue.")
@click.option("--gap-ms", type=int, help="Minimum gap between two cues.")
@click.option("--chain-ms", type=int, help="Reduce shorter gaps to --gap-ms.")
@click.option(
    "--chinese",
    type=click.Choice([name for name in get_args(Chinese) if name != "auto"]),
    default="off",
    show_default=True,
    help="Convert Chinese characters to those of Taiwan, Hong Kong or the mainland.",
)
@click.option("--karaoke", is_flag=True, help="ASS: highlight each word when it is spoken.")
@click.option("--bom", is_flag=True, help="Write a byte order mark.")
@click.option(
    "--newline", type=click.Choice(["lf", "crlf"]), default="lf", show_default=True, help="Line ending."
)
def render(
    file: Path,
    forms: tuple[Format, ...],
    output: Path | None,
    profile: Profile,
    chinese: Chinese,
    newline: Literal["lf", "crlf"],
    *,
    force: bool,
    karaoke: bool,
    bom: bool,
    **limits: Any,
) -> None:
    """Lay out FILE, a JSON transcript, again: with other limits or in other formats, without a GPU.

    Edited cues stay as they are, unless limits, a profile or a variant of Chinese are given.
    """
    from subtitled.output import rerender

    transcript = rerender.read_transcript(file)
    is_default = click.get_current_context().get_parameter_source("profile") is ParameterSource.DEFAULT
    has_layout = not is_default or chinese != "off" or any(limit is not None for limit in limits.values())
    if transcript.edit is None or has_layout:
        try:
            layout = LayoutOptions(profile=profile, **limits)
            transcript = with_cues(rerender.in_variant(transcript, chinese), layout)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    look = RenderOptions(bom=bom, newline=newline, karaoke=karaoke)
    made = {form: as_file(form, transcript, look) for form in forms}
    if len(made) > 1 and output is not None and not output.is_dir():
        raise click.UsageError(f"{len(made)} formats need a folder; {output} is not a folder")
    for form, data in made.items():
        if str(output) == "-":
            sys.stdout.buffer.write(data)
            continue
        target = rerender.target_of(file, output, form)
        rerender.write_new(target, data, is_forced=force)
        click.echo(str(target))


@cli.command("install-service")
@config_option
@click.option("--user", default="subtitled", show_default=True, help="Service user; created if missing.")
@click.option(
    "--prefix",
    type=click.Path(path_type=Path, file_okay=False),
    default="/",
    show_default=True,
    help="Root folder for the files.",
)
@click.option(
    "--worker",
    "endpoint",
    metavar="tcp://HEAD:PORT",
    help="Write a worker's unit for the daemon there, instead of the daemon's.",
)
@click.option(
    "--key",
    "key_file",
    default="/etc/subtitled/worker.toml",
    show_default=True,
    help="With --worker: this host's key.",
)
@click.option("--model", default="", help="With --worker: a model folder or name instead of the daemon's.")
@click.option("--dry-run", is_flag=True, help="Print the files without writing them.")
@click.option(
    "--force",
    is_flag=True,
    help="Also overwrite or remove files that were changed by hand or not written by this command.",
)
@click.option(
    "--remove",
    "is_removal",
    is_flag=True,
    help="Stop and disable the service, and remove its files; data and configuration are kept.",
)
@click.option("--yes", "is_confirmed", is_flag=True, help="With --remove: do not ask.")
def install_service(
    config_file: str | None,
    user: str,
    prefix: Path,
    endpoint: str | None,
    key_file: str,
    model: str,
    *,
    dry_run: bool,
    force: bool,
    is_removal: bool,
    is_confirmed: bool,
) -> None:
    """Install the systemd unit, with user and folders, for this environment and its configuration; or remove it."""
    from subtitled.systemd import install as installing
    from subtitled.systemd.unit_files import InstallLocation, unit_files, worker_files

    config_file = os.path.abspath(config_file or DEFAULT_CONFIG)  # noqa: PTH100 - links stay as they are
    if is_removal:
        _remove_service(config_file, user, prefix, is_forced=force, is_confirmed=is_confirmed)
        return
    program = installing.program_here()
    place = InstallLocation(program=program, python=sys.base_prefix, config_file=config_file, user=user)
    if endpoint is not None:
        units = worker_files(place, endpoint, key_file=key_file, model=model)
        steps = installing.next_steps_of_worker(user, key_file, prefix)
    else:
        found = _load(config_file if os.path.lexists(config_file) else None, check_paths=False)
        units = unit_files(place, found, is_there=lambda path: Path(path).is_dir())
        steps = installing.next_steps(program, config_file, prefix)
    if dry_run:
        for unit in units:
            click.echo(f"==> {prefix / unit.path} <==\n{installing.marked(unit.text)}")
        return
    for path, is_changed in installing.install(units, prefix, is_forced=force):
        click.echo(f"{'Wrote' if is_changed else 'Unchanged:'} {path}")
    closed = installing.inaccessible_folder(program) or installing.inaccessible_folder(
        f"{sys.base_prefix}/bin"
    )
    if closed:
        click.echo(
            f"Warning: user {user} cannot enter {closed}, which contains this environment or its Python; create an "
            "environment in /opt/subtitled with a Python for all users, and repeat this command there.",
            err=True,
        )
    click.echo("Then type:")
    for step in steps:
        click.echo(f"  {step}")


def _remove_service(
    config_file: str, user: str, prefix: Path, *, is_forced: bool, is_confirmed: bool
) -> None:
    from subtitled.systemd import install as installing

    found = installing.written_files(prefix, is_forced=is_forced)
    if not found:
        click.echo(f"Nothing to remove: no file of `subtitled install-service` exists below {prefix}.")
        return
    try:
        config = _load(config_file if os.path.lexists(config_file) else None, check_paths=False)
    except ConfigError:
        config = Config()
    if not is_confirmed:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "--remove asks for confirmation, but the input is not a terminal; add --yes"
            )
        for path in found:
            click.echo(f"  {path}")
        click.confirm("Stop and disable the service, and remove these files?", abort=True)
    if prefix == Path("/"):
        installing.stop_units(found)
    installing.remove(found, reloads=prefix == Path("/"))
    for path in found:
        click.echo(f"Removed {path}")
    click.echo(f"Not deleted (delete these yourself if you no longer need them), nor is the user {user}:")
    for kept, text in installing.kept_data(config, config_file).items():
        click.echo(f"  {kept}  ({text})")


@cli.command()
@config_option
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--file",
    "media",
    type=click.Path(),
    help="Process this media file through every stage instead.",
)
@click.option("--cluster", "is_cluster", is_flag=True, help="Check the workers on other hosts instead.")
def doctor(config_file: str | None, media: str | None, *, is_json: bool, is_cluster: bool) -> None:
    """Check this machine, and print a remedy for each fault; exit status 0 if there are no faults."""
    from rich.console import Console

    from subtitled.doctor.checks import Checks, config_findings
    from subtitled.doctor.finding import as_json, print_lines

    fatal = ExitCode.OK
    try:
        checkup = Checks(_load(config_file, check_paths=False), _found(config_file), os.environ)
        if is_cluster:
            findings = checkup.cluster()
        else:
            findings = checkup.machine() if media is None else checkup.file(media)
    except ConfigError as error:
        findings = (("configuration", finding) for finding in config_findings(error))
        fatal = ExitCode.FATAL
    if is_json:
        text, seen = as_json(findings)
        click.echo(text)
    else:
        seen = print_lines(Console(highlight=False), findings)
    sys.exit(fatal or (ExitCode.FAILED if any(found.state == "fault" for found in seen) else ExitCode.OK))


@cli.group()
def config() -> None:
    """Check, show or create a configuration."""


@config.command("check")
@config_option
def config_check(config_file: str | None) -> None:
    """Report all faults of the configuration; exit status 0 if there are no faults."""
    _load(config_file)
    click.echo("The configuration has no faults.")


@config.command("show")
@config_option
def config_show(config_file: str | None) -> None:
    """Print the effective configuration, with the origin of each changed value."""
    click.echo(configuration.to_toml_with_origins(_found(config_file), os.environ), nl=False)


@config.command("init")
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_CONFIG)
def config_init(file: Path) -> None:
    """Create a configuration file with every key and its explanation; never overwrites a file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as target:
            target.write(DEFAULT_FILE.read_text("utf-8"))
    except FileExistsError:
        raise SubtitledError(f"{file} already exists; choose another file, or move it away") from None
    click.echo(f"Wrote {file}. Then: subtitled config check --config {file}")


@cli.group()
def keys() -> None:
    """Create keys for clients and workers on other hosts."""


@keys.command("new")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["user", "admin"]),
    default="user",
    show_default=True,
    help="A user sees and changes its own jobs, an admin all jobs.",
)
@click.option(
    "--worker",
    "is_worker",
    is_flag=True,
    help="Create a key for the workers of the host NAME instead of a client.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Key file; default: NAME.toml.",
)
@config_option
def keys_new(name: str, role: str, output: Path | None, config_file: str | None, *, is_worker: bool) -> None:
    """Create a key for the client or the worker host NAME, and print its lines for the configuration."""
    from subtitle.keys import KEY_NAME, KEY_NAME_RULE, Key, new_pair, save_key
    from subtitled.network.auth import server_key, server_key_path

    if not KEY_NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r}: {KEY_NAME_RULE}", param_hint="NAME")
    config = _load(config_file, check_paths=False)
    known = config.remote.keys if is_worker else {client.name for client in config.client}
    if name in known:
        what = "host" if is_worker else "client"
        raise SubtitledError(f"{what} {name!r} is already in the configuration; choose another name")
    server = server_key(server_key_path(config))
    public, secret = new_pair()
    target = output or Path(f"{name}.toml")
    try:
        save_key(target, Key(name=name, public=public, secret=secret, server=server.public))
    except FileExistsError:
        raise SubtitledError(f"{target} already exists; choose another file with -o") from None
    use = "`subtitled worker --key FILE` on that host" if is_worker else "`subtitle --key FILE`"
    click.echo(f"Wrote {target}: give it to {name} over a secure channel, for {use}.", err=True)
    if is_worker:
        click.echo(
            "Add the line to [remote.keys] of the daemon's configuration, then: systemctl reload subtitled; restart it "
            "instead if remote.listen is new",
            err=True,
        )
        click.echo(f'\n[remote.keys]\n{name if name.isalnum() else json.dumps(name)} = "{public}"')
        return
    click.echo(
        "Add these lines to the daemon's configuration, then: systemctl reload subtitled; restart it instead if these are the first keys of a TCP endpoint",
        err=True,
    )
    click.echo(f'\n[[client]]\nname = "{name}"\nkey = "{public}"\nrole = "{role}"')


def _load(config_file: str | None, *, check_paths: bool = True) -> Config:
    return configuration.load_config(_found(config_file), os.environ, check_paths=check_paths)


def _found(config_file: str | None) -> str | None:
    if config_file is None and Path(DEFAULT_CONFIG).is_file():
        return DEFAULT_CONFIG
    return config_file


def main() -> None:
    """Run the command; exits with one of `ExitCode`."""
    accept_all_names()
    try:
        cli(standalone_mode=False, prog_name="subtitled")
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except ConfigError as error:
        click.echo("The configuration has faults:", err=True)
        for fault in error.faults:
            click.echo(f"  {fault}", err=True)
        sys.exit(ExitCode.FATAL)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("subtitle"):
            raise
        click.echo(
            f"subtitled: the package {error.name!r} is not installed. `pip install subtitled` installs only the client; "
            "the daemon needs `pip install 'subtitled[daemon]'`, the gateway `'subtitled[http]'`, or the lock "
            "(docs/operations.md).",
            err=True,
        )
        sys.exit(ExitCode.FAILED)
    except SubtitledError as error:
        click.echo(f"subtitled: {error}", err=True)
        sys.exit(ExitCode.FAILED)
    except OSError as error:
        click.echo(f"subtitled: {os_error_text(error)}", err=True)
        sys.exit(ExitCode.FAILED)
