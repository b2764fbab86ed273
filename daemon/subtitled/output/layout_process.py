"""Composing in a process of its own.

Laying out the cues of a long file is seconds of Python. In a thread of the daemon it holds the interpreter, and each of the
loop's calls that lets go of it (a message, a row) waits to get it back: measured, a row took twenty times as long. So it is
done by a child, `python -m subtitled.output.layout_process`, asked over its standard input and output; it ends with its input.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from subtitle.messages import LayoutOptions
from subtitled import log
from subtitled.cues.transcript import Transcript
from subtitled.output.transcript_builder import compose, compose_all, source_name
from subtitled.runtime import pipes
from subtitled.runtime.processes import give_way
from subtitled.storage.rows import JobRow, ResultRow

COMMAND = (sys.executable, "-m", "subtitled.output.layout_process")
_log = log.get()


class _Order(Struct, frozen=True, kw_only=True):
    """What is to be composed."""

    row: JobRow
    results: tuple[ResultRow, ...]
    model: str
    is_all: bool
    """The translation too, where the job asks for one."""
    layout: LayoutOptions | None
    """In place of the job's own."""


class _Answer(Struct, frozen=True, kw_only=True):
    """What came of an order; `fault` is a bug of ours, in words.

    The names of the files are left out: a name that is no UTF-8 cannot be said in MessagePack, and both sides know them.
    """

    transcripts: tuple[Transcript, ...] = ()
    fault: str = ""


_encode = msgspec.msgpack.Encoder().encode
_order_decoder = msgspec.msgpack.Decoder(_Order)
_answer_decoder = msgspec.msgpack.Decoder(_Answer)


class LayoutProcess:
    """Does as `compose` does, in a child that is started when it is first asked; may be asked by several threads."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def compose(
        self, row: JobRow, results: Sequence[ResultRow], *, model: str, layout: LayoutOptions | None = None
    ) -> Transcript:
        """Return the transcript of what was said, as `compose` does; blocks."""
        (said,) = self._ask(_Order(row=row, results=tuple(results), model=model, is_all=False, layout=layout))
        return said

    def compose_all(self, row: JobRow, results: Sequence[ResultRow], *, model: str) -> tuple[Transcript, ...]:
        """Return all transcripts of a job, as `compose_all` does; blocks."""
        return self._ask(_Order(row=row, results=tuple(results), model=model, is_all=True, layout=None))

    def close(self) -> None:
        """End the child; may be repeated."""
        with self._lock:
            self._end()

    def _ask(self, order: _Order) -> tuple[Transcript, ...]:
        with self._lock:
            for _ in range(2):
                try:
                    answer = self._exchange(order)
                except (OSError, EOFError, msgspec.DecodeError) as error:
                    _log.warning(log.COMPOSER_LOST, job=order.row.job.id, cause=str(error) or "it ended")
                    self._end()
                else:
                    break
            else:
                answer = _answer(order)  # slower for everybody, but done
        if answer.fault:
            raise RuntimeError(f"job {order.row.job.id} cannot be composed: {answer.fault}")
        name = source_name(order.row.job)
        return tuple(msgspec.structs.replace(made, source=name) for made in answer.transcripts)

    def _exchange(self, order: _Order) -> _Answer:
        if self._child is None:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=pipes.child_environ(),
                cwd="/",
            )
        child = self._child
        if child.stdin is None or child.stdout is None:
            raise TypeError("the child has no pipes")
        pipes.write(child.stdin, _encode(order))
        data = pipes.read(child.stdout)
        if data is None:
            raise EOFError
        return _answer_decoder.decode(data)

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        child.kill()
        child.wait()


def _answer(order: _Order) -> _Answer:
    try:
        if order.is_all:
            made = compose_all(order.row, order.results, model=order.model)
        else:
            made = (compose(order.row, order.results, model=order.model, layout=order.layout),)
    except Exception as error:  # noqa: BLE001 - a process boundary: it is raised again on the other side
        return _Answer(fault=repr(error))
    return _Answer(transcripts=tuple(msgspec.structs.replace(each, source="") for each in made))


def main() -> None:
    """Answer orders until the pipe ends, as it does with the daemon."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # meant for the daemon, which is in the same process group
    give_way()
    asked, told = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(BrokenPipeError):
        while (data := pipes.read(asked)) is not None:
            pipes.write(told, _encode(_answer(_order_decoder.decode(data))))


if __name__ == "__main__":
    main()
