"""Commands about the server: ping, top; and shell completion."""

from __future__ import annotations

import sys
import time

import click
import msgspec
from click.shell_completion import get_completion_class

from subtitle.client import Client
from subtitle.commands.connection_options import as_json, print_json, with_client
from subtitle.commands.selection import ACTIVE
from subtitle.eta import QueueSnapshot, Speed, SpeedMeter

MAX_JOBS = 200
SPEED_S = 15.0
"""Averaging time of the speeds in `top`."""


@click.command()
@as_json
@with_client
def ping(client: Client, *, is_json: bool) -> None:
    """Show the daemon's version and model, your user, and the response time."""
    client.ping()  # the first one includes the connection
    began = time.perf_counter()
    welcome = client.ping()
    took_ms = (time.perf_counter() - began) * 1000
    if is_json:
        print_json({**msgspec.to_builtins(welcome), "round_trip_ms": round(took_ms, 3)})
        return
    user = f", you are {welcome.user} ({welcome.role})" if welcome.user else ""
    models = f"models {', '.join(welcome.models)}" if len(welcome.models) > 1 else f"model {welcome.model}"
    click.echo(f"subtitled {welcome.server}, {models}{user}, answered in {took_ms:.1f} ms")


@click.command()
@click.option(
    "--every", "every_s", default=1.0, show_default=True, type=click.FloatRange(0.1), metavar="SECONDS",
    help="Interval of updates.",
)  # fmt: skip
@as_json
@with_client
def top(client: Client, every_s: float, *, is_json: bool) -> None:
    """Show workers, queue and jobs, updated until Ctrl-C; printed once if the output is no terminal, or with --json."""
    from rich.console import Console
    from rich.live import Live

    from subtitle import tables

    welcome = client.ping()
    now = _snapshot(client)
    console = Console()
    if is_json:
        print_json({"stats": now.stats, "jobs": now.jobs})
        return
    if not console.is_terminal:
        console.print(tables.screen(welcome, now, Speed(total=None)))
        return
    meter = SpeedMeter(SPEED_S)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            models = len(now.stats.models) + 2 if now.stats.has_several_models else 0
            room = console.height - len(now.stats.workers) - models - 9
            speed = meter.add(now)
            live.update(tables.screen(welcome, now, speed, max_jobs=room), refresh=True)
            time.sleep(every_s)
            now = _snapshot(client)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: subtitle completion bash > ~/.local/share/bash-completion/completions/subtitle
    zsh:  subtitle completion zsh > FOLDER_OF_FPATH/_subtitle
    fish: subtitle completion fish > ~/.config/fish/completions/subtitle.fish
    """  # noqa: D301 - click reads the character \b
    found = get_completion_class(shell)
    if found is None:
        sys.exit(f"subtitle: no completion for {shell}")
    click.echo(found(context.find_root().command, {}, "subtitle", "_SUBTITLE_COMPLETE").source())


def _snapshot(client: Client) -> QueueSnapshot:
    stats = client.stats()
    return QueueSnapshot(at=time.monotonic(), stats=stats, jobs=client.list(ACTIVE, limit=MAX_JOBS))
