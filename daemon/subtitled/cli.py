"""The `subtitled` commands."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

import click

from subtitled.config import load as configuration
from subtitled.config.layout_limits import PROFILES, LayoutOverrides, Profile
from subtitled.config.schema import DEFAULT_FILE, FORMATS, Config, Format, Variant
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
    help=f"The configuration file; {DEFAULT_CONFIG} if it is there, else every key has its default.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="subtitled", prog_name="subtitled")
def cli() -> None:
    """Turn media files into subtitles on every GPU of this machine."""


cli.add_command(worker)


@cli.command()
@config_option
def run(config_file: str | None) -> None:
    """Run the daemon in the foreground; systemd runs this."""
    from subtitled.asr.cuda import Device, find_devices
    from subtitled.log import HTTP_LOST, leave
    from subtitled.runtime.sidecar import Sidecar, SidecarSettings
    from subtitled.server.build import build_server

    def load() -> tuple[Config, list[Device]]:
        config = _load(config_file)
        devices = find_devices(config.pool.devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
        is_wanted = config.http.listen and config.http.with_daemon
        gateway.configure(SidecarSettings() if is_wanted else None)
        return config, devices

    chosen = ("--config", found) if (found := _found(config_file)) is not None else ()
    command = (sys.executable, "-m", "subtitled", "http", "--parent", str(os.getpid()), *chosen)
    with Sidecar(command, os.environ, lost_event=HTTP_LOST) as gateway:
        status = build_server(load, os.environ).run()
    leave(status)


@cli.command()
@config_option
@click.option("--parent", type=int, hidden=True, help="The daemon that started it, with which it ends.")
def http(config_file: str | None, parent: int | None) -> None:
    """Run the gateway in the foreground: HTTP for other programs, by the section [http]."""
    from subtitled.runtime.processes import die_with_parent, lower_priority
    from subtitled.web.process import serve

    if parent is not None:
        die_with_parent(parent)
        lower_priority()
    serve(_load(config_file, check_paths=False), os.environ)


@cli.command()
@click.option("--keep", is_flag=True, help="Keep the demo's folder, with its log and its subtitles.")
def demo(*, keep: bool) -> None:
    """Run a whole round trip on this machine, with the bundled model and recordings."""
    from subtitled.demo import run_demo

    sys.exit(run_demo(keep=keep))


@cli.command()
@click.argument("file", type=click.Path(path_type=str))
@config_option
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def explain(file: str, config_file: str | None, *, is_json: bool) -> None:
    """Say which inbox takes FILE, what would happen to it, and why. Nothing is done."""
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
    help="May be repeated.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="A folder, a file, or - for the terminal."
)
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.option("--profile", type=click.Choice(PROFILES), default="default", show_default=True)
@click.option("--max-chars", type=int, help="Characters of a line.")
@click.option("--max-lines", type=int)
@click.option("--max-chars-per-s", type=float, help="Reading speed.")
@click.option("--min-ms", type=int, help="Shortest time that a cue is seen.")
@click.option("--max-ms", type=int, help="Longest time that a cue is seen.")
@click.option("--gap-ms", type=int, help="Between two cues.")
@click.option("--chain-ms", type=int, help="Cues nearer than this are closed up to the gap.")
@click.option("--chinese", type=click.Choice(["tw", "hk", "cn", "off"]), default="off", show_default=True)
@click.option("--karaoke", is_flag=True, help="ASS: colour each word when it is said.")
@click.option("--bom", is_flag=True, help="Begin with a byte order mark.")
@click.option("--newline", type=click.Choice(["lf", "crlf"]), default="lf", show_default=True)
def render(
    file: Path,
    forms: tuple[Format, ...],
    output: Path | None,
    profile: Profile,
    chinese: Variant,
    newline: Literal["lf", "crlf"],
    *,
    force: bool,
    karaoke: bool,
    bom: bool,
    **limits: Any,
) -> None:
    """Make subtitles again from FILE, a JSON transcript, with other limits or in other formats. Needs no GPU."""
    from subtitled.output import rerender

    transcript = rerender.in_variant(rerender.read_transcript(file), chinese)
    try:
        transcript = with_cues(transcript, profile, LayoutOverrides(**limits))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    look = RenderOptions(bom=bom, newline=newline, karaoke=karaoke)
    made = {form: as_file(form, transcript, look) for form in forms}
    if len(made) > 1 and output is not None and not output.is_dir():
        raise click.UsageError(f"{len(made)} formats need a folder, and {output} is none")
    for form, data in made.items():
        if str(output) == "-":
            sys.stdout.buffer.write(data)
            continue
        target = rerender.target_of(file, output, form)
        rerender.write_new(target, data, is_forced=force)
        click.echo(str(target))


@cli.command("install-service")
@config_option
@click.option(
    "--user", default="subtitled", show_default=True, help="Whom the daemon runs as; made if need be."
)
@click.option(
    "--prefix",
    type=click.Path(path_type=Path, file_okay=False),
    default="/",
    show_default=True,
    help="The root of the file system that is written to.",
)
@click.option(
    "--worker",
    "endpoint",
    metavar="tcp://HEAD:PORT",
    help="Write the unit of workers for the daemon there, not that of a daemon.",
)
@click.option(
    "--key",
    "key_file",
    default="/etc/subtitled/worker.toml",
    show_default=True,
    help="With --worker: this host's key.",
)
@click.option("--model", default="", help="With --worker: a folder or name in the place of the daemon's.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, write nothing.")
@click.option(
    "--force", is_flag=True, help="Write also over files that were changed, or are not of this command."
)
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
) -> None:
    """Write the systemd unit, and what makes user and folders, for this environment and its configuration."""
    from subtitled.systemd import install as installing
    from subtitled.systemd.unit_files import InstallLocation, unit_files, worker_files

    config_file = os.path.abspath(config_file or DEFAULT_CONFIG)  # noqa: PTH100 - links stay as they are
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
    closed = installing.closed_to_others(program) or installing.closed_to_others(f"{sys.base_prefix}/bin")
    if closed:
        click.echo(
            f"Beware: user {user} cannot enter {closed}, where this environment or its Python is; make one in "
            "/opt/subtitled, with a Python that all may use, and repeat this command there.",
            err=True,
        )
    click.echo("Then type:")
    for step in steps:
        click.echo(f"  {step}")


@cli.command()
@config_option
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--file",
    "media",
    type=click.Path(),
    help="Take this media file through every stage instead, and report each.",
)
@click.option("--cluster", "is_cluster", is_flag=True, help="Check the workers on other hosts instead.")
def doctor(config_file: str | None, media: str | None, *, is_json: bool, is_cluster: bool) -> None:
    """Check this machine, and say what to do about each fault; exit 0 only if there is none."""
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
    """Check, show or write a configuration."""


@config.command("check")
@config_option
def config_check(config_file: str | None) -> None:
    """Report every fault of the configuration at once; exit 0 if there is none."""
    _load(config_file)
    click.echo("The configuration is good.")


@config.command("show")
@config_option
def config_show(config_file: str | None) -> None:
    """Print the whole effective configuration, each value that is not the default with where it was set."""
    click.echo(configuration.to_toml_with_origins(_found(config_file), os.environ), nl=False)


@config.command("init")
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_CONFIG)
def config_init(file: Path) -> None:
    """Write a configuration file with every key, commented; never over an existing one."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as target:
            target.write(DEFAULT_FILE.read_text("utf-8"))
    except FileExistsError:
        raise SubtitledError(f"{file} exists already; name another file, or move it away") from None
    click.echo(f"Wrote {file}. Then: subtitled config check --config {file}")


@cli.group()
def keys() -> None:
    """Make the keys by which clients speak over TCP."""


@keys.command("new")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["user", "admin"]),
    default="user",
    show_default=True,
    help="A user sees and changes its own jobs, an admin all.",
)
@click.option("--worker", "is_worker", is_flag=True, help="For the workers of the host NAME, not a client.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key file; NAME.toml if nothing is said.",
)
@config_option
def keys_new(name: str, role: str, output: Path | None, config_file: str | None, *, is_worker: bool) -> None:
    """Make a key for the client NAME, or for the workers of the host NAME, and print the lines that let it in."""
    from subtitle.keys import KEY_NAME, KEY_NAME_RULE, Key, new_pair, save_key
    from subtitled.network.auth import server_key, server_key_path

    if not KEY_NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r}: {KEY_NAME_RULE}", param_hint="NAME")
    config = _load(config_file, check_paths=False)
    known = config.remote.keys if is_worker else {client.name for client in config.client}
    if name in known:
        what = "host" if is_worker else "client"
        raise SubtitledError(f"{what} {name!r} is in the configuration already; choose another name")
    server = server_key(server_key_path(config))
    public, secret = new_pair()
    target = output or Path(f"{name}.toml")
    try:
        save_key(target, Key(name=name, public=public, secret=secret, server=server.public))
    except FileExistsError:
        raise SubtitledError(f"{target} exists already; name another file with -o") from None
    use = "`subtitled worker --key` there" if is_worker else "the client's `subtitle --key`"
    click.echo(f"Wrote {target}: hand it to {name}, over a safe way; it is {use}.", err=True)
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
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except ConfigError as error:
        click.echo("The configuration is faulty:", err=True)
        for fault in error.faults:
            click.echo(f"  {fault}", err=True)
        sys.exit(ExitCode.FATAL)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("subtitle"):
            raise
        click.echo(
            f"subtitled: the package {error.name!r} is not installed. `pip install subtitled` is the client alone; "
            "the daemon needs `pip install 'subtitled[daemon]'`, the gateway `'subtitled[http]'`, or the lock "
            "(docs/operations.md).",
            err=True,
        )
        sys.exit(ExitCode.FAILED)
    except (SubtitledError, OSError) as error:
        click.echo(f"subtitled: {error}", err=True)
        sys.exit(ExitCode.FAILED)
