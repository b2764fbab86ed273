"""A command of the operator's, run for a job that has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO

import msgspec

from subtitled.hooks.journal_reader import HookStop, JobEnded
from subtitled.runtime.processes import describe_status

_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
"""Variables that a command gets from the daemon; what else is in its environment is not the command's business."""
_NAMES = {"source": "FILE", "inbox": "INBOX_PATH"}
"""Facts whose variable has another name; SUBTITLED_INBOX would be a configuration to the commands of ours."""
_LOOK_S = 0.1
_GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""
_TOLD_BYTES = 500
"""Most of a command's last output that is told when it fails."""


def environment(ended: JobEnded, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command: a few variables of the daemon's, and the job's facts as SUBTITLED_….

    Lists are joined by newlines; NUL, which no variable can hold, is left out.
    """
    facts = msgspec.to_builtins(ended)
    told = {f"SUBTITLED_{_NAMES.get(name, name.upper())}": _text(value) for name, value in facts.items()}
    return {name: environ[name] for name in _KEPT if name in environ} | told


def run(
    command: Sequence[str], ended: JobEnded, environ: Mapping[str, str], timeout_s: float, stopping: HookStop
) -> str | None:
    """Run a command to its end; return why it failed, "" where it did not, None where the daemon ends before it.

    No shell has a part in it. It is given the facts as JSON on its standard input too. After `timeout_s`, or when
    the daemon ends, it is killed with all that it has started.
    """
    with tempfile.TemporaryFile() as facts, tempfile.TemporaryFile() as output:
        facts.write(msgspec.json.encode(ended) + b"\n")
        facts.seek(0)
        try:
            process = subprocess.Popen(
                [*command],
                stdin=facts,
                stdout=output,
                stderr=output,
                env=environment(ended, environ),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            return f"{command[0]} cannot be started: {error.strerror}; correct the inbox's command"
        deadline = time.monotonic() + timeout_s
        while process.poll() is None:
            if stopping.wait(_LOOK_S):
                _end(process)
                return None
            if time.monotonic() >= deadline:
                _end(process)
                return f"{command[0]} took longer than command_timeout_s ({timeout_s:g} s) and was killed{_told(output)}"
        if process.returncode:
            return f"{command[0]} {describe_status(process.returncode)}{_told(output)}"
        return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)


def _told(output: IO[bytes]) -> str:
    """Return the end of what a command has said, in one line."""
    output.seek(max(0, output.seek(0, os.SEEK_END) - _TOLD_BYTES))
    text = " ".join(output.read().decode("utf-8", "replace").split())
    return f": {text}" if text else ""


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return "\n".join(map(_text, value))
    return "" if value is None else str(value).replace("\0", "")
