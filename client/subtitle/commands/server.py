"""Commands about the server: ping and top; and shell completion."""

from __future__ import annotations

import sys
import time
from collections import deque

import click
import msgspec
from click.shell_completion import get_completion_class
from rich.console import Console
from rich.live import Live

from subtitle import top as picture
from subtitle.client import Client
from subtitle.commands.connection_options import as_json, print_json, with_client
from subtitle.eta import QueueSnapshot, speeds

SPEED_S = 15.0
"""Speeds in `top` are those of the last seconds."""


@click.command()
@as_json
@with_client
def ping(client: Client, *, is_json: bool) -> None:
    """Say whether the daemon is there, who you are to it, and how long it takes to answer."""
    client.ping()  # the first one also connects
    began = time.perf_counter()
    welcome = client.ping()
    took_ms = (time.perf_counter() - began) * 1000
    if is_json:
        print_json({**msgspec.to_builtins(welcome), "round_trip_ms": round(took_ms, 3)})
        return
    user = f", you are {welcome.user} ({welcome.role})" if welcome.user else ""
    click.echo(f"subtitled {welcome.server}, model {welcome.model}{user}, answered in {took_ms:.1f} ms")


@click.command()
@click.option(
    "--every", "every_s", default=1.0, show_default=True, type=click.FloatRange(0.1), metavar="SECONDS",
    help="How often to look.",
)  # fmt: skip
@as_json
@with_client
def top(client: Client, every_s: float, *, is_json: bool) -> None:
    """Show workers, queue and jobs as they are now, until Ctrl-C; once, where there is no terminal, or as JSON."""
    welcome = client.ping()
    now = _look(client)
    console = Console()
    if is_json:
        print_json({"stats": now.stats, "jobs": now.jobs})
        return
    if not console.is_terminal:
        console.print(picture.screen(welcome, now, speeds(None, now)))
        return
    seen = deque([now])
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            room = console.height - len(now.stats.workers) - 9
            speed = speeds(seen[0], now)
            live.update(picture.screen(welcome, now, speed, max_jobs=room), refresh=True)
            time.sleep(every_s)
            now = _look(client)
            # Workers are told of when a lease ends: a speed over less than some of them would jump.
            while len(seen) > 1 and now.at - seen[0].at > SPEED_S:
                seen.popleft()
            seen.append(now)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print what makes a shell complete `subtitle` commands.

    \b
    bash: subtitle completion bash > ~/.local/share/bash-completion/completions/subtitle
    zsh:  subtitle completion zsh > a folder of $fpath/_subtitle
    fish: subtitle completion fish > ~/.config/fish/completions/subtitle.fish
    """
    found = get_completion_class(shell)
    if found is None:
        sys.exit(f"subtitle: no completion for {shell}")
    click.echo(found(context.find_root().command, {}, "subtitle", "_SUBTITLE_COMPLETE").source())


def _look(client: Client) -> QueueSnapshot:
    stats = client.stats()
    return QueueSnapshot(
        at=time.monotonic(), stats=stats, jobs=client.list(picture.RUNNING, limit=picture.MAX_JOBS)
    )
