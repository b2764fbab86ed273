"""Decodes ranges of audio and the picture for previews, in child processes.

A media file may crash a decoder or make it hang. So a child, `python -m subtitled.media.preview_pool`, decodes it; requests and
responses pass through its standard input and output, and it is killed at a time limit. Each of the few children keeps its last
file open: a range that follows the last one is decoded without a gap.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

import msgspec
from msgspec import Struct

from subtitle.messages import VideoForm
from subtitled import log
from subtitled.core.plan import AudioSource
from subtitled.errors import MediaError
from subtitled.runtime import pipes, sandbox
from subtitled.runtime.processes import become_child, module_command

COMMAND = module_command("subtitled.media.preview_pool")
COUNT = 2
"""Children at a time."""
LIMIT_S = 30.0
"""Time limit of one range. A hundredth of it is usual; without usable timestamps the file is decoded up to the range."""
MEMORY_BYTES = 2 << 30
"""Limit of a child's address space."""
IDLE_S = 60.0
"""A child without a request for this time is ended."""
_BYTES_PER_SAMPLE = 2
_log = log.get()


class _Request(Struct, frozen=True, kw_only=True, tag=True):
    path: bytes
    root: bytes
    """Folder that no link in `path` may lead out of; b"" for the folder of the file."""
    size: int
    mtime_ns: int
    """Size and time of the file that the job was made from."""


class AudioRange(_Request, frozen=True, kw_only=True):
    """A range of a file's audio, int16 little-endian, 16 kHz mono; silence after its end."""

    source: AudioSource
    """What was transcribed."""
    language: str | None
    """For a file without a source, as in `open_media`."""
    drift_ms: int
    start: int
    """First decoded sample, 16 kHz."""
    samples: int

    what: ClassVar[str] = "audio"

    @property
    def following(self) -> object:
        """What the child can decode next without a gap."""
        return self.start + self.samples

    @property
    def begin(self) -> object:
        """What `following` of the previous request equals if this one continues it."""
        return self.start


class VideoPart(_Request, frozen=True, kw_only=True):
    """The facts of a file's picture (`media_file.VideoFacts` in MessagePack), or a part of it; see `messages.GetVideo`."""

    form: VideoForm | None
    start: int
    length: int

    what: ClassVar[str] = "picture"

    @property
    def following(self) -> object:
        """What the child can decode next without a gap."""
        return self.form, self.start + 1

    @property
    def begin(self) -> object:
        """What `following` of the previous request equals if this one continues it."""
        return self.form, self.start


class MediaGoneError(MediaError):
    """The file no longer exists, or has changed."""


class _Response(Struct, frozen=True, kw_only=True):
    """What was requested, or an error."""

    data: bytes = b""
    fault: str = ""
    is_gone: bool = False


_Read = Callable[[AudioRange | VideoPart], bytes]
_encode = msgspec.msgpack.Encoder().encode
_request_decoder = msgspec.msgpack.Decoder(AudioRange | VideoPart)
_response_decoder = msgspec.msgpack.Decoder(_Response)


class _ChildSlot:
    """One child process, or the place for one."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self.path = b""
        self.following: object = None
        """What can be decoded next without a gap."""
        self.used_at = 0.0
        self._is_over = False

    def request(self, wanted: AudioRange | VideoPart, until: float) -> _Response:
        """Return the child's response; raises TimeoutError, OSError, EOFError, msgspec.DecodeError, UnicodeDecodeError."""
        if self._child is not None and self.path not in {b"", wanted.path}:
            self.end()  # the sandbox of a child leaves it one file
        if self._child is None:
            self._child = pipes.start_child(self._command, until, lambda: self._is_over)
        if self._is_over:  # checked after the start: `kill` has either seen the child, or is seen here
            raise EOFError
        stdin, stdout = pipes.pipes_of(self._child)
        pipes.write(stdin, _encode(wanted))
        data = pipes.read_until(stdout, until)
        if data is None:
            raise EOFError
        self.path, self.following = wanted.path, wanted.following
        return _response_decoder.decode(data)

    def kill(self) -> None:
        """Kill the child, and start none again; does not wait, and may be called during a request of another thread."""
        self._is_over = True
        if self._child is not None:
            self._child.kill()

    def end(self) -> None:
        """End the child; may be repeated."""
        child, self._child = self._child, None
        self.path, self.following = b"", None
        if child is not None:
            pipes.end_child(child)


class PreviewPool:
    """The children, started on demand; serves as many threads at a time as there are children."""

    def __init__(
        self, command: Sequence[str] = COMMAND, *, count: int = COUNT, limit_s: float = LIMIT_S
    ) -> None:
        self.count = count
        self._limit_s = limit_s
        self._changed = threading.Condition()
        self._idle = [_ChildSlot(command) for _ in range(count)]
        self._all = tuple(self._idle)
        self._is_closed = False

    def decode(self, wanted: AudioRange | VideoPart) -> bytes:
        """Return what is requested. Blocks.

        Raises MediaGoneError, and MediaError if it cannot be decoded within the time limit.
        """
        until = time.monotonic() + self._limit_s
        slot = self._take(wanted)
        try:
            response = self._request(slot, wanted, until)
        except BaseException:
            slot.end()
            raise
        finally:
            with self._changed:
                slot.used_at = time.monotonic()
                self._idle.append(slot)
                self._changed.notify()
        if response.is_gone:
            raise MediaGoneError(response.fault)
        if response.fault:
            raise MediaError(response.fault)
        return response.data

    def end_idle(self, now: float) -> None:
        """End the children without a request for `IDLE_S`; `now` is monotonic. Does not block."""
        with self._changed:
            for slot in self._idle:
                if now - slot.used_at >= IDLE_S:
                    slot.end()

    def close(self) -> None:
        """End all children; pending requests raise MediaError. May be repeated."""
        with self._changed:
            self._is_closed = True
            for slot in self._all:
                slot.kill()
            self._changed.wait_for(lambda: len(self._idle) == self.count, self._limit_s)
            for slot in self._idle:
                slot.end()

    def _take(self, wanted: AudioRange | VideoPart) -> _ChildSlot:
        """Take an idle child: the one that decodes the range without a gap, one with the file open, or any."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle)
            if self._is_closed:
                raise MediaError("the server is stopping")
            slot = max(
                self._idle,
                key=lambda slot: (
                    slot.path == wanted.path and slot.following == wanted.begin,
                    slot.path == wanted.path,
                    -slot.used_at,
                ),
            )
            self._idle.remove(slot)
            return slot

    def _request(self, slot: _ChildSlot, wanted: AudioRange | VideoPart, until: float) -> _Response:
        # Twice: an idle child may have ended for another reason than this file.
        for _ in range(2):
            try:
                return slot.request(wanted, until)
            except TimeoutError:
                _log.warning(log.PREVIEW_LOST, path=os.fsdecode(wanted.path), cause="it took too long")
                raise MediaError(
                    f"its {wanted.what} could not be decoded within {self._limit_s:g} s"
                ) from None
            except (OSError, EOFError, msgspec.DecodeError, UnicodeDecodeError) as error:
                slot.end()
                if self._is_closed:
                    raise MediaError("the server is stopping") from error
                _log.warning(log.PREVIEW_LOST, path=os.fsdecode(wanted.path), cause=str(error) or "it ended")
        raise MediaError(f"its {wanted.what} crashed the decoder")


def main() -> None:
    """Serve requests until the pipe ends, as it does with the daemon."""
    become_child(os.getppid(), signal.SIGTERM)  # a hanging decoder does not see the end of its pipe
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from subtitled.media import seek, video  # noqa: F401 - loaded before the sandbox is entered

    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    last: tuple[object, ...] = ()
    is_confined = False
    with contextlib.suppress(BrokenPipeError), contextlib.ExitStack() as open_files:
        while (data := pipes.read(stdin)) is not None:
            wanted = _request_decoder.decode(data)
            fault = _change(wanted)
            if fault:
                pipes.write(stdout, _encode(_Response(fault=fault, is_gone=True)))
                continue
            try:
                if last != _file(wanted):
                    open_files.close()
                    last = ()
                    if not is_confined:
                        is_confined = True
                        sandbox.enter(
                            [os.fsdecode(wanted.path)], memory_bytes=MEMORY_BYTES, allows_unix_sockets=False
                        )
                    read = open_files.enter_context(_opened(wanted))
                    last = _file(wanted)
                response = _Response(data=read(wanted))
            except MediaError as error:
                last = ()
                response = _Response(fault=str(error))
            pipes.write(stdout, _encode(response))


def _file(wanted: AudioRange | VideoPart) -> tuple[object, ...]:
    """Return what two requests have in common that one open file serves."""
    how = (wanted.source, wanted.language) if isinstance(wanted, AudioRange) else ()
    return (type(wanted), wanted.path, wanted.size, wanted.mtime_ns, *how)


def _opened(wanted: AudioRange | VideoPart) -> AbstractContextManager[_Read]:
    """Return the open file of a request, which reads the requests that have it in common."""
    path = os.fsdecode(wanted.path)
    root = os.fsdecode(wanted.root) or str(Path(path).parent)
    if isinstance(wanted, AudioRange):
        return _audio(path, root, wanted)
    return _video(path, root)


@contextlib.contextmanager
def _audio(path: str, root: str, first: AudioRange) -> Iterator[_Read]:
    from subtitled.media.seek import RangeDecoder

    opened = RangeDecoder(
        path, source=first.source, language=first.language, drift_ms=first.drift_ms, root=root
    )
    with opened as decoder:

        def read(wanted: AudioRange | VideoPart) -> bytes:
            if not isinstance(wanted, AudioRange) or not wanted.samples:
                return b""
            pcm = decoder.read(wanted.start, wanted.samples).tobytes()
            return pcm.ljust(wanted.samples * _BYTES_PER_SAMPLE, b"\0")

        yield read


@contextlib.contextmanager
def _video(path: str, root: str) -> Iterator[_Read]:
    from subtitled.media.video import VideoReader

    with VideoReader(path, root) as reader:

        def read(wanted: AudioRange | VideoPart) -> bytes:
            if not isinstance(wanted, VideoPart) or wanted.form is None:
                return msgspec.msgpack.encode(reader.facts())
            if wanted.form == "original":
                return reader.read(wanted.start, wanted.length)
            return reader.segment(wanted.start, wanted.form)

        yield read


def _change(wanted: AudioRange | VideoPart) -> str:
    """Return how a file has changed since it was read; "" if it has not."""
    try:
        found = os.stat(wanted.path)  # noqa: PTH116 - the path is bytes
    except OSError as error:
        return f"is gone ({error.strerror})"
    is_same = (found.st_size, found.st_mtime_ns) == (wanted.size, wanted.mtime_ns)
    return "" if is_same else f"has changed: {wanted.size} bytes when it was read, {found.st_size} now"


if __name__ == "__main__":
    main()
