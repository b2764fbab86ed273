"""`subtitle` and `subtitled` in the process of the tests: a process of their own costs a third of a second of processor time.

Tests of signals, terminals, the environment and several commands at once start processes, so both programs run as such too.
"""

from __future__ import annotations

import sys
from io import BytesIO, TextIOWrapper
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Literal

import pytest

import subtitle.cli
import subtitled.cli

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAIN = {"subtitle": subtitle.cli.main, "subtitled": subtitled.cli.main}


def run_binary(
    program: Literal["subtitle", "subtitled"],
    *words: object,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stdin: bytes = b"",
) -> CompletedProcess[bytes]:
    """Run a command to its end, in `folder` if given; `environ` are further variables of the environment."""
    command = [program, *map(str, words)]
    output, errors = (TextIOWrapper(BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        patch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin), "utf-8"))
        patch.setattr(sys, "stdout", output)
        patch.setattr(sys, "stderr", errors)
        for name, value in (environ or {}).items():
            patch.setenv(name, value)
        if folder is not None:
            patch.chdir(folder)
        try:
            MAIN[program]()
        except SystemExit as end:
            status = end.code or 0
    assert isinstance(status, int), status
    shown = [stream.buffer.getvalue() for stream in (output, errors)]
    return CompletedProcess(command, status, *shown)


def run_command(
    program: Literal["subtitle", "subtitled"],
    *words: object,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> CompletedProcess[str]:
    """Run a command to its end as `run_binary`; return its output as text."""
    done = run_binary(program, *words, environ=environ, folder=folder)
    return CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
