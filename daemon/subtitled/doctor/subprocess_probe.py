"""A trial in a child process: what native code does there, a crash or a hang included, becomes a finding."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import IO

import msgspec
from msgspec import Struct

from subtitled.doctor.finding import ChosenDevices, Finding, ProbeStarted, Said, fault
from subtitled.runtime.processes import describe_status

LAST_WORDS_BYTES = 4096
_said_decoder = msgspec.json.Decoder(Said)


def attempt(
    trial: str,
    settings: Struct,
    *,
    silence_s: float,
    environ: Mapping[str, str] = os.environ,
    visible_devices: str | None = None,
) -> Iterator[Finding | ChosenDevices]:
    """Run a trial of `trial.TRIALS` in a process of its own and yield what it says, as it says it.

    A process that ends with a fault, or says nothing for `silence_s`, adds the fault of what it was trying.
    """
    own = {} if visible_devices is None else {"CUDA_VISIBLE_DEVICES": visible_devices}
    command = [sys.executable, "-m", "subtitled.doctor.trial", trial, msgspec.json.encode(settings).decode()]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, env={**environ, **own}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        begun = ProbeStarted(name=trial, remedy="see what it said")
        how = ""
        try:
            for line in _lines(process, silence_s):
                match _said_decoder.decode(line):
                    case ProbeStarted() as begun:
                        pass
                    case said:
                        yield said
            status = process.wait(silence_s)
            how = describe_status(status) if status else ""
        except (TimeoutError, subprocess.TimeoutExpired):
            how = f"not done within {silence_s:g} s"
        finally:
            process.kill()
        if how:
            yield fault(begun.name, f"{how}{_last_words(errors)}", begun.remedy)


def _lines(process: subprocess.Popen[bytes], silence_s: float) -> Iterator[bytes]:
    """Yield the lines of a process's output; raises TimeoutError when none comes for so long."""
    assert process.stdout is not None  # noqa: S101 - asked for above
    file, rest = process.stdout.fileno(), b""
    deadline = time.monotonic() + silence_s
    while True:
        if not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        data = os.read(file, 65_536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        deadline = time.monotonic() + silence_s


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - LAST_WORDS_BYTES))
    lines = errors.read().decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last}" if last else ""
