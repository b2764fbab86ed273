"""The command `subtitled worker`."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import click

from subtitle.keys import KEY_VARIABLE

if TYPE_CHECKING:
    from subtitled.asr.cuda import Device


@click.command()
@click.option(
    "--connect", "endpoint", required=True, metavar="tcp://HEAD:PORT", help="The daemon's remote.listen."
)
@click.option(
    "--key",
    "key_file",
    metavar="FILE",
    help=f"This host's key, of `subtitled keys new NAME --worker`; default: {KEY_VARIABLE}, then ~/.config/subtitle/key.toml.",
)
@click.option("--model", default="", help="Folder, size or hub id; overrides the daemon's model.name.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help='"cuda:N" (or N alone), "cuda:UUID", "cpu"; "auto" is the first GPU, else the CPU.',
)
@click.option(
    "--cpu-threads",
    type=click.IntRange(0, 256),
    default=0,
    help="Threads on the CPU; 0: all cores.",
)
@click.option("--place", default="", help="Name of this worker on its host; default: cuda0, cpu0, …")
@click.option(
    "--stop-timeout",
    "stop_timeout_s",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time limit for the leases in progress after SIGTERM.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Level of the log.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    default="auto",
    show_default=True,
    help="Format of the log.",
)
@click.option("--parent", type=int, hidden=True, help="Process id; this worker ends with that process.")
def worker(
    endpoint: str,
    key_file: str | None,
    model: str,
    device: str,
    cpu_threads: int,
    place: str,
    stop_timeout_s: float,
    log_level: str,
    log_format: str,
    parent: int | None,
) -> None:
    """Transcribe for a daemon on another host, in the foreground, until SIGTERM.

    It needs only the TCP port of the daemon's host, and reconnects automatically. See docs/cluster.md.
    """
    # Read when NumPy is imported; its threads would compete with those of the decoder, as in a local worker.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pathlib import Path

    from subtitle.errors import KeyFileError
    from subtitle.keys import find_key
    from subtitled import log
    from subtitled.config.addresses import host_of
    from subtitled.errors import SubtitledError
    from subtitled.runtime.processes import die_with_parent, keep_memory
    from subtitled.workers.remote_connection import WorkerPlace
    from subtitled.workers.remote_worker import RemoteWorker, RemoteWorkerSettings

    if parent is not None:
        die_with_parent(parent)
    if not endpoint.startswith("tcp://") or host_of(endpoint.removeprefix("tcp://")) is None:
        raise click.BadParameter(
            f"{endpoint!r}: tcp://HOST:PORT with a port from 1 to 65535", param_hint="--connect"
        )
    try:
        key = find_key(Path(key_file) if key_file else None)
    except KeyFileError as error:
        raise SubtitledError(str(error)) from error
    if key is None:
        raise SubtitledError(
            "no key; create one with `subtitled keys new NAME --worker` on the daemon's host and pass it with --key FILE"
        )
    environ = dict(os.environ)
    chosen = _device(device)
    place = place or chosen.slot.replace("gpu", "cuda")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", place):
        raise click.BadParameter(
            f"{place!r} is not allowed; use 1 to 64 ASCII letters, digits, hyphens, underscores",
            param_hint="--place",
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen.visible
    log.configure(log_level, log_format, sys.stderr)
    if chosen.kind == "cpu":
        keep_memory()
    settings = RemoteWorkerSettings(
        endpoint=endpoint,
        key=key,
        place=WorkerPlace(name=place, device="CPU" if chosen.kind == "cpu" else chosen.name),
        device=chosen.kind,
        model=model,
        cpu_threads=cpu_threads or os.cpu_count() or 1,
        stop_timeout_s=stop_timeout_s,
    )
    status = RemoteWorker(settings, environ).run()
    sys.stderr.flush()
    # Threads that hang in native code must not keep a finished worker alive.
    os._exit(status)


def _device(wanted: str) -> Device:
    """Return the device of this worker; raises SubtitledError if there is none."""
    from subtitled.asr.cuda import find_devices
    from subtitled.errors import ConfigError, SubtitledError

    wanted = f"cuda:{wanted}" if wanted.isdecimal() else wanted
    if not re.fullmatch(r"auto|cpu|cuda:[0-9A-Za-z/-]+", wanted):
        raise click.BadParameter(f'{wanted!r}: "auto", "cpu", "cuda:N" or "cuda:UUID"', param_hint="--device")
    try:
        return find_devices(
            wanted if wanted == "auto" else (wanted,), os.environ.get("CUDA_VISIBLE_DEVICES")
        )[0]
    except ConfigError as error:
        raise SubtitledError("\n".join(error.faults).replace("pool.devices", "--device")) from error
