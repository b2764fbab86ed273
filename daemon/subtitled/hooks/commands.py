"""Run an operator's command for an ended job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

import msgspec

from subtitled.hooks.journal_reader import JobEnded
from subtitled.runtime.processes import describe_status, start_process

_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
"""Variables that a command inherits from the daemon."""
_NAMES = {"source": "FILE", "inbox": "INBOX_PATH"}
"""Fields whose variable has another name; SUBTITLED_INBOX would configure our own commands."""
_POLL_S = 0.1
_GRACE_S = 2.0
"""Time between SIGTERM and SIGKILL."""
_OUTPUT_BYTES = 500
"""Bytes from the end of a failed command's output that are logged."""


def environment(ended: JobEnded, environ: Mapping[str, str]) -> dict[str, str]:
    """Return a command's environment: a few inherited variables, and the job's fields as SUBTITLED_….

    Lists are joined by newlines, and a newline in an item becomes U+FFFD: the JSON on standard input has it. NUL, which
    a variable cannot contain, is left out.
    """
    facts = msgspec.to_builtins(ended)
    fields = {f"SUBTITLED_{_NAMES.get(name, name.upper())}": _text(value) for name, value in facts.items()}
    return {name: environ[name] for name in _KEPT if name in environ} | fields


def run(
    command: Sequence[str],
    ended: JobEnded,
    environ: Mapping[str, str],
    timeout_s: float,
    stopping: threading.Event,
) -> str | None:
    """Run a command without a shell; return why it failed, "" on success, None when the daemon stops first.

    Its standard input is the job's fields as JSON. After `timeout_s`, or when the daemon stops, the command and its child
    processes are killed.
    """
    with tempfile.TemporaryFile() as facts, tempfile.TemporaryFile() as output:
        facts.write(msgspec.json.encode(ended) + b"\n")
        facts.seek(0)
        deadline = time.monotonic() + timeout_s
        try:
            process = start_process(
                [*command],
                deadline,
                stopping.wait,
                stdin=facts,
                stdout=output,
                stderr=output,
                env=environment(ended, environ),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            if stopping.is_set():
                return None
            return f"{command[0]} cannot be started: {error.strerror}; correct the command of the inbox"
        while process.poll() is None:
            if stopping.wait(_POLL_S):
                _kill(process)
                return None
            if time.monotonic() >= deadline:
                _kill(process)
                return f"{command[0]} was killed after command_timeout_s ({timeout_s:g} s){_tail(output)}"
        if process.returncode:
            return f"{command[0]} {describe_status(process.returncode)}{_tail(output)}"
        return ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its group."""
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)


def _tail(output: IO[bytes]) -> str:
    """Return the end of a command's output in one line."""
    output.seek(max(0, output.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
    text = " ".join(output.read().decode("utf-8", "replace").split())
    return f": {text}" if text else ""


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        # A folder's name may contain a newline: it must not look like a path of its own.
        return "\n".join(_text(item).replace("\n", "\ufffd") for item in value)
    return "" if value is None else str(value).replace("\0", "")
