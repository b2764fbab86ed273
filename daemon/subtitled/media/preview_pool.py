"""Decoding stretches of media in processes of their own.

A media file may crash a decoder, or keep it busy for ever. So it is heard by a child, `python -m subtitled.media.preview_pool`, asked over
its standard input and output, and killed when it takes too long. There are few of them, each keeps its last file open, and
what follows what was read last is read on without a seam.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from subtitled import log
from subtitled.errors import MediaError
from subtitled.runtime import pipes, sandbox
from subtitled.runtime.processes import lower_priority

COMMAND = (sys.executable, "-m", "subtitled.media.preview_pool")
COUNT = 2
"""Children at once."""
LIMIT_S = 30.0
"""Time for one stretch, of which a hundredth will do, but where timestamps are no help and the file is decoded up to it."""
MEMORY_BYTES = 2 << 30
"""Limit of a child's address space."""
IDLE_S = 60.0
"""A child that nobody has asked for so long is ended."""
_PR_SET_PDEATHSIG = 1
_BYTES_PER_SAMPLE = 2
_log = log.get()


class AudioRange(Struct, frozen=True, kw_only=True):
    """What is to be decoded."""

    path: bytes
    root: bytes
    """Folder that no link in `path` may lead out of; b"" for the folder of the file."""
    size: int
    mtime_ns: int
    """Size and time of the file that the samples are counted in."""
    language: str | None
    """Of the audio track, as in `open_media`."""
    drift_ms: int
    start: int
    """First decoded sample, 16 kHz."""
    samples: int


class MediaGoneError(MediaError):
    """The file is not there any more, or is another."""


class _Answer(Struct, frozen=True, kw_only=True):
    """What came of it: PCM or a fault."""

    pcm: bytes = b""
    fault: str = ""
    is_gone: bool = False


_encode = msgspec.msgpack.Encoder().encode
_stretch_decoder = msgspec.msgpack.Decoder(AudioRange)
_answer_decoder = msgspec.msgpack.Decoder(_Answer)


class _Ear:
    """One child, or the place for one."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self.path = b""
        self.next = 0
        """The sample that would be read on without a seam."""
        self.asked_at = 0.0
        self._is_over = False

    def ask(self, stretch: AudioRange, until: float) -> _Answer:
        """Return what the child answers; raises TimeoutError, OSError, EOFError, msgspec.DecodeError."""
        if self._child is not None and self.path not in {b"", stretch.path}:
            self.end()  # the sandbox of a child leaves it one file
        if self._child is None:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=pipes.child_environ(),
                cwd="/",
            )
        if self._is_over:  # looked at after the start: who kills has seen the child, or is seen here
            raise EOFError
        asked, told = self._child.stdin, self._child.stdout
        if asked is None or told is None:
            raise TypeError("the child has no pipes")
        pipes.write(asked, _encode(stretch))
        data = pipes.read_until(told, until)
        if data is None:
            raise EOFError
        self.path, self.next = stretch.path, stretch.start + stretch.samples
        return _answer_decoder.decode(data)

    def kill(self) -> None:
        """Kill the child for good, without waiting for its end; may be called while another thread asks it."""
        self._is_over = True
        if self._child is not None:
            self._child.kill()

    def end(self) -> None:
        """End the child; may be repeated."""
        child, self._child = self._child, None
        self.path, self.next = b"", 0
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        child.wait()


class PreviewPool:
    """The children, started when they are needed; may be asked by as many threads as there are children."""

    def __init__(
        self, command: Sequence[str] = COMMAND, *, count: int = COUNT, limit_s: float = LIMIT_S
    ) -> None:
        self.count = count
        self._limit_s = limit_s
        self._changed = threading.Condition()
        self._idle = [_Ear(command) for _ in range(count)]
        self._all = tuple(self._idle)
        self._is_closed = False

    def hear(self, stretch: AudioRange) -> bytes:
        """Return a stretch's samples: 16-bit, little-endian, mono, 16 kHz; silence where the audio ends before. Blocks.

        Raises MediaGoneError, and MediaError for what cannot be decoded, or not in time.
        """
        until = time.monotonic() + self._limit_s
        ear = self._take(stretch)
        try:
            answer = self._ask(ear, stretch, until)
        except BaseException:
            ear.end()
            raise
        finally:
            with self._changed:
                ear.asked_at = time.monotonic()
                self._idle.append(ear)
                self._changed.notify()
        if answer.is_gone:
            raise MediaGoneError(answer.fault)
        if answer.fault:
            raise MediaError(answer.fault)
        return answer.pcm

    def let_go(self, now: float) -> None:
        """End the children that nobody has asked for long; `now` is monotonic. Does not block."""
        with self._changed:
            for ear in self._idle:
                if now - ear.asked_at >= IDLE_S:
                    ear.end()

    def close(self) -> None:
        """End all children, also those that are asked: their askers get MediaError. May be repeated."""
        with self._changed:
            self._is_closed = True
            for ear in self._all:
                ear.kill()
            self._changed.wait_for(lambda: len(self._idle) == self.count, self._limit_s)
            for ear in self._idle:
                ear.end()

    def _take(self, stretch: AudioRange) -> _Ear:
        """Take a child that nobody asks: the one that would read on, one that has the file open, or one without any."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle)
            if self._is_closed:
                raise MediaError("the server is stopping")
            ear = max(
                self._idle,
                key=lambda ear: (
                    ear.path == stretch.path and ear.next == stretch.start,
                    ear.path == stretch.path,
                    -ear.asked_at,
                ),
            )
            self._idle.remove(ear)
            return ear

    def _ask(self, ear: _Ear, stretch: AudioRange, until: float) -> _Answer:
        # Twice: a child may have ended since, for a reason that has nothing to do with this file.
        for _ in range(2):
            try:
                return ear.ask(stretch, until)
            except TimeoutError:
                _log.warning(log.PREVIEW_LOST, path=os.fsdecode(stretch.path), cause="it took too long")
                raise MediaError(f"its audio could not be decoded within {self._limit_s:g} s") from None
            except (OSError, EOFError, msgspec.DecodeError) as error:
                ear.end()
                if self._is_closed:
                    raise MediaError("the server is stopping") from error
                _log.warning(log.PREVIEW_LOST, path=os.fsdecode(stretch.path), cause=str(error) or "it ended")
        raise MediaError("its audio crashed the decoder")


def main() -> None:
    """Answer until the pipe ends, as it does with the daemon."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(
        _PR_SET_PDEATHSIG, signal.SIGKILL
    )  # a decoder that hangs does not see its pipe's end
    if os.getppid() != parent:
        return
    lower_priority()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # meant for the daemon, which is in the same process group
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from subtitled.media.seek import RangeDecoder

    asked, told = sys.stdin.buffer, sys.stdout.buffer
    last: AudioRange | None = None
    is_confined = False
    with contextlib.suppress(BrokenPipeError), contextlib.ExitStack() as open_files:
        while (data := pipes.read(asked)) is not None:
            stretch = _stretch_decoder.decode(data)
            fault = _change(stretch)
            if fault:
                pipes.write(told, _encode(_Answer(fault=fault, is_gone=True)))
                continue
            if last is None or _file(last) != _file(stretch):
                open_files.close()
                path = os.fsdecode(stretch.path)
                if not is_confined:
                    is_confined = True
                    sandbox.enter([path], memory_bytes=MEMORY_BYTES, allows_unix_sockets=False)
                excerpts = open_files.enter_context(
                    RangeDecoder(
                        path,
                        language=stretch.language,
                        drift_ms=stretch.drift_ms,
                        root=os.fsdecode(stretch.root) or str(Path(path).parent),
                    )
                )
                last = stretch
            pcm = b""
            try:
                if stretch.samples:
                    pcm = excerpts.read(stretch.start, stretch.samples).tobytes()
            except MediaError as error:
                last = None
                pipes.write(told, _encode(_Answer(fault=str(error))))
            else:
                pipes.write(told, _encode(_Answer(pcm=pcm.ljust(stretch.samples * _BYTES_PER_SAMPLE, b"\0"))))


def _file(stretch: AudioRange) -> tuple[bytes, int, int, str | None]:
    return (stretch.path, stretch.size, stretch.mtime_ns, stretch.language)


def _change(stretch: AudioRange) -> str:
    """Return what has become of a file since it was read; "" where it is as it was."""
    try:
        found = os.stat(stretch.path)  # noqa: PTH116 - the path is bytes
    except OSError as error:
        return f"is gone ({error.strerror})"
    is_same = (found.st_size, found.st_mtime_ns) == (stretch.size, stretch.mtime_ns)
    return "" if is_same else f"has changed: {stretch.size} bytes when it was read, {found.st_size} now"


if __name__ == "__main__":
    main()
