"""The server wyoming-faster-whisper, used over its Wyoming protocol."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BufferedRWPair

COMMAND = """
from functools import partialmethod
from faster_whisper import WhisperModel
WhisperModel.transcribe = partialmethod(WhisperModel.transcribe, condition_on_previous_text=False)
from wyoming_faster_whisper.__main__ import run
run()
"""
"""It has no option to leave out the previous window's text as a prompt, which all other programs do here."""
READY_S = 120
ANSWER_S = 3600
BLOCK_SAMPLES = 16_000
"""Samples in a message; clients with a microphone send less at once, which costs the server more."""


class WyomingServer:
    """The server in a process of its own; a context manager that ends it."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        """Start it with additional options; return when its model is loaded."""
        # A socket's path may have 107 bytes at most.
        self._sockets = tempfile.mkdtemp(prefix="bench-")
        self._address = f"{self._sockets}/wyoming.sock"
        self._log = folder / "wyoming.log"
        where = ("--uri", f"unix://{self._address}", "--data-dir", str(folder), "--local-files-only")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *where, *options],
                # It stores each request in a folder of its own.
                env={**os.environ, "TMPDIR": self._sockets},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def transcribe(self, file: str, language: str) -> str:
        """Send the samples of a FLAC or WAV file; return the text, its only answer."""
        import soundfile

        with (
            socket.socket(socket.AF_UNIX) as link,
            link.makefile("rwb") as stream,
            soundfile.SoundFile(file) as sound,
        ):
            link.settimeout(ANSWER_S)
            link.connect(self._address)
            form = {"rate": sound.samplerate, "width": 2, "channels": sound.channels}
            _send(stream, "transcribe", {"language": language})
            _send(stream, "audio-start", form)
            for block in sound.blocks(BLOCK_SAMPLES, dtype="int16"):
                _send(stream, "audio-chunk", form, block.tobytes())
            _send(stream, "audio-stop", {})
            stream.flush()
            return self._receive(stream)

    def _receive(self, stream: BufferedRWPair) -> str:
        for line in stream:
            event = json.loads(line)
            data = event.get("data", {})
            if length := event.get("data_length"):
                data = json.loads(stream.read(length))
            if event["type"] == "transcript":
                return str(data["text"])
        raise SystemExit(f"the server closed the connection; the end of {self._log}:\n{self._log_end()}")

    def _wait_until_ready(self) -> None:
        """Wait for its socket, which it opens when the model is loaded."""
        deadline = time.monotonic() + READY_S
        while not Path(self._address).exists():
            if self._process.poll() is not None:
                raise SystemExit(
                    f"the server ended with status {self._process.returncode}:\n{self._log_end()}"
                )
            if time.monotonic() > deadline:
                raise SystemExit(f"the server was not ready within {READY_S} s:\n{self._log_end()}")
            time.sleep(0.05)

    def _log_end(self) -> str:
        return self._log.read_text("utf-8", "replace")[-2000:]


def _send(stream: BufferedRWPair, kind: str, data: dict[str, Any], payload: bytes = b"") -> None:
    """Write an event: a line of JSON, then its payload."""
    head = {"type": kind, "data": data, "payload_length": len(payload)}
    stream.write(json.dumps(head).encode() + b"\n" + payload)
