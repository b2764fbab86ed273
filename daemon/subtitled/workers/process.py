"""The program of a worker process: `python -m subtitled.workers.process SETTINGS` (JSON of WorkerSettings).

The supervisor starts one process for each slot, and one that downloads the model first. The main thread owns the socket;
the role works in other threads and sends with `Channel.post`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from subtitled import log
from subtitled.core.protocol import (
    ExitReason,
    WorkerSettings,
)
from subtitled.errors import ExitCode
from subtitled.files.filesystem import does_answer
from subtitled.runtime import sandbox
from subtitled.runtime.processes import become_child, keep_memory
from subtitled.workers.channel import Channel

ANSWER_S = 2.0
Run = Callable[[Channel, WorkerSettings], ExitCode]


def _enter_sandbox(settings: WorkerSettings) -> None:
    """Confine a process that decodes foreign media; its parent may still be reached by a Unix socket."""
    protection = sandbox.enter(
        settings.readable, memory_bytes=settings.memory_bytes, allows_unix_sockets=True
    )
    if missing := protection.missing():
        log.get().warning(log.WORKER_UNPROTECTED, missing=missing)


def _answering(folders: Sequence[str]) -> Sequence[str]:
    """Return the folders that answer within `ANSWER_S`: on a mount that hangs the sandbox would wait forever.

    On a mount whose server has gone it could not make the folder readable.

    A child process asks, since a thread would outlive the deadline outside the sandbox.
    """
    ends = os.pipe()
    child = os.fork()
    if not child:
        for folder in folders:
            os.write(ends[1], bytes([does_answer(folder)]))
        os._exit(0)
    os.close(ends[1])
    answered, deadline = bytearray(), time.monotonic() + ANSWER_S
    with os.fdopen(ends[0], "rb", buffering=0) as answers:
        while len(answered) < len(folders):
            if not select.select([answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            if not (got := answers.read(256)):
                break
            answered += got
    os.kill(child, signal.SIGKILL)
    answering = [folder for folder, is_there in zip(folders, answered, strict=False) if is_there]
    if len(answered) == len(folders):
        os.waitpid(child, 0)
        return answering
    return [*answering, *_answering(folders[len(answered) + 1 :])]


def main(argv: Sequence[str], transcribe: Run | None = None) -> int:
    """Run a worker until it is drained or fails; `transcribe` replaces the `run` of that role."""
    settings = msgspec.json.decode(argv[0], type=WorkerSettings)
    become_child(settings.parent_pid)
    log.configure(settings.log_level, settings.log_format, sys.stderr, worker=settings.identity)
    log.forward_lines(os.environ)
    if settings.device == "cpu":
        keep_memory()
    if settings.role == "prepare":
        answering = tuple(_answering(settings.readable))
        hung = tuple(folder for folder in settings.readable if folder not in answering)
        settings = msgspec.structs.replace(settings, readable=answering, hung=hung)
        _enter_sandbox(settings)
    channel = Channel(settings)
    try:
        if settings.role == "prepare":
            from subtitled.workers.prepare import run
        elif settings.role == "download":
            from subtitled.workers.model_download import run
        elif settings.role == "translate":
            from subtitled.workers.translate import run
        else:
            from subtitled.workers.transcribe import run
        code = (transcribe if transcribe and settings.role == "transcribe" else run)(channel, settings)
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        log.get().exception(log.WORKER_LOST, cause=f"{type(error).__name__}: {error}")
        channel.post(ExitReason(cause=f"{type(error).__name__}: {error}"))
        code = ExitCode.FAILED
    channel.close()
    # Threads that hang in native code must not keep a finished worker alive.
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
