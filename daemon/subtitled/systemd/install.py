"""Installs the systemd files, and never overwrites files of others."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from subtitled.errors import SubtitledError
from subtitled.files.atomic_files import write_whole
from subtitled.systemd.unit_files import UnitFile

_MARK = re.compile(r"# Written by `subtitled install-service`; sha256 of what follows: ([0-9a-f]{64})\n")


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
