"""Installs the systemd files, and never overwrites files of others."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from subtitled.config.schema import Config
from subtitled.errors import SubtitledError
from subtitled.files.atomic_files import write_whole
from subtitled.systemd.unit_files import UnitFile

_MARK = re.compile(r"# Written by `subtitled install-service`; sha256 of what follows: ([0-9a-f]{64})\n")

_NAMES = (
    "etc/systemd/system/subtitled.service",
    "etc/systemd/system/subtitled-http.service",
    "etc/systemd/system/subtitled-worker@.service",
    "etc/sysusers.d/subtitled.conf",
    "etc/tmpfiles.d/subtitled.conf",
)
"""The files of `unit_files` and `worker_files`."""


def program_here() -> str:
    """Return the `subtitled` program of this environment; raises SubtitledError if it does not exist."""
    program = Path(sysconfig.get_path("scripts"), "subtitled")
    if not program.is_file():
        raise SubtitledError(f"{program} does not exist; install subtitled into its own environment first")
    return str(program)


def marked(text: str) -> str:
    """Return the text of a file with the line that marks it as written by this command."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"# Written by `subtitled install-service`; sha256 of what follows: {digest}\n{text}"


def is_ours(text: str) -> bool:
    """Return whether a file is unchanged since `install-service` of any release wrote it."""
    mark = _MARK.match(text)
    return mark is not None and mark[1] == hashlib.sha256(text[mark.end() :].encode()).hexdigest()


def install(found: Iterable[UnitFile], prefix: Path, *, is_forced: bool) -> Iterator[tuple[Path, bool]]:
    """Write the files below `prefix`, and yield the path of each and whether it changed.

    Raises SubtitledError, before anything is written, for an existing file that was changed or not written by this command.
    """
    wanted = {prefix / file.path: marked(file.text) for file in found}
    before = {path: _text_of(path) for path in wanted}
    foreign = [str(path) for path, text in before.items() if text is not None and not is_ours(text)]
    if foreign and not is_forced:
        raise SubtitledError(
            f"{', '.join(foreign)}: exists, and was changed or not written by this command; move your changes to a drop-in "
            "(systemctl edit subtitled) and repeat with --force, which overwrites it"
        )
    for path, text in wanted.items():
        if before[path] != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text.encode())
            path.chmod(0o644)
        yield path, before[path] != text


def written_files(prefix: Path, *, is_forced: bool) -> list[Path]:
    """Return the files below `prefix` that `install` wrote, of the daemon and of workers.

    Raises SubtitledError for a file that was changed or not written by this command, unless `is_forced`.
    """
    texts = {path: text for name in _NAMES if (text := _text_of(path := prefix / name)) is not None}
    foreign = [str(path) for path, text in texts.items() if not is_ours(text)]
    if foreign and not is_forced:
        raise SubtitledError(
            f"{', '.join(foreign)}: was changed or not written by this command; repeat with --force, which removes it too"
        )
    return list(texts)


def stop_units(units: Iterable[Path]) -> None:
    """Stop and disable units, templates with all their instances; does nothing where systemd does not run.

    Blocks until they are stopped. Raises SubtitledError.
    """
    names = [path.name for path in units if path.suffix == ".service"]
    if not names or not Path("/run/systemd/system").is_dir():
        return
    # The instances of a template are stopped by a pattern, and disabled by the template's name.
    for words in (["stop", *(name.replace("@.", "@*.") for name in names)], ["disable", *names]):
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)  # noqa: S607 - the PATH of root
        if done.returncode:
            raise SubtitledError(
                f"{shlex.join(['systemctl', *words])} failed: {done.stderr.strip()}; nothing was removed"
            )


def remove(found: Iterable[Path], *, reloads: bool) -> None:
    """Delete files that `written_files` returned; `reloads`: let systemd read its units again. Raises SubtitledError."""
    for path in found:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SubtitledError(f"{path} cannot be removed: {error.strerror}; repeat as root") from error
    if reloads and Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "daemon-reload"], capture_output=True, check=False)  # noqa: S607 - likewise


def kept_data(config: Config, config_file: str) -> dict[str, str]:
    """Return what `--remove` leaves in place: each existing path with its description."""
    found = {config_file: "configuration", config.state.dir: "database, uploads and models"}
    for inbox in config.inbox:
        found[inbox.path] = "inbox, with the media in done/ and failed/"
        if inbox.output != "beside":
            found[inbox.output] = "subtitles"
    return {path: text for path, text in found.items() if os.path.lexists(path)}


def inaccessible_folder(path: str) -> str | None:
    """Return the parent folder of `path` that the daemon's user cannot enter, if any."""
    for folder in reversed(Path(path).parents):
        try:
            if not folder.stat().st_mode & 0o001:
                return str(folder)
        except OSError:
            return None
    return None


def next_steps(program: str, config_file: str, prefix: Path) -> list[str]:
    """Return the commands to run after the files are written."""
    root = [] if prefix == Path("/") else [f"--root={prefix}"]
    steps = [
        shlex.join(["systemd-sysusers", *root]),
        shlex.join(["systemd-tmpfiles", "--create", *root, "subtitled.conf"]),
    ]
    if not os.path.lexists(config_file):
        steps.append(shlex.join([program, "config", "init", config_file]))
    return [
        *steps,
        shlex.join([program, "doctor", "--config", config_file]),
        "systemctl daemon-reload",
        "systemctl enable --now subtitled",
        "journalctl -u subtitled -o cat -f      # worker.ready for each GPU, then daemon.ready",
    ]


def next_steps_of_worker(user: str, key_file: str, prefix: Path) -> list[str]:
    """Return the commands to run after a worker's files are written."""
    root = [] if prefix == Path("/") else [f"--root={prefix}"]
    return [
        shlex.join(["systemd-sysusers", *root]),
        shlex.join(["install", "-D", "-m", "600", "-o", user, "KEY.toml", key_file])
        + "      # this host's key",
        "systemctl daemon-reload",
        "systemctl enable --now --no-block subtitled-worker@cuda:0      # one instance per GPU",
        "journalctl -u 'subtitled-worker@*' -o cat -f      # session.opened, then model.loaded",
    ]


def _text_of(path: Path) -> str | None:
    """Return the content of a file; None if it does not exist."""
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
