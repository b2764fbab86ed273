"""A daemon as a child process, with its configuration, state and sockets in a private folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from subtitle import Client, UnreachableError
from subtitled.config.addresses import MAX_SOCKET_PATH_BYTES
from subtitled.errors import SubtitledError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
LOG_TAIL_CHARS = 4_000


class PrivateDaemonError(SubtitledError):
    """The private daemon failed; the message gives the reason."""


class PrivateDaemon:
    """`subtitled run` in a folder; a context manager. It ends with this process, whatever ends that."""

    def __init__(self, folder: Path) -> None:
        """`folder`: gets the configuration and the log; keeps what the configuration puts there."""
        self.folder = folder
        self.sockets = Path(tempfile.mkdtemp(prefix="subtitled-"))
        """A short path, since that of a socket has 107 bytes at most."""
        self.log_file = folder / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._read_bytes = 0

    @property
    def endpoint(self) -> str:
        """The clients' socket."""
        return f"ipc://{self.sockets}/clients.sock"

    @property
    def workers_endpoint(self) -> str:
        """The workers' socket."""
        return f"ipc://{self.sockets}/private/workers.sock"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, config_text: str) -> None:
        """Start the daemon with this configuration; `wait_until_ready` follows. Raises PrivateDaemonError."""
        path = self.workers_endpoint.removeprefix("ipc://")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
            raise PrivateDaemonError(
                f"{path}: a socket's path may have {MAX_SOCKET_PATH_BYTES} bytes; set TMPDIR to a shorter folder"
            )
        config_file = self.folder / "subtitled.toml"
        config_file.write_text(config_text, encoding="utf-8")
        command = [sys.executable, "-m", "subtitled", "run", "--config", str(config_file)]
        # Variables of a service must not change this configuration.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SUBTITLED_")}
        with self.log_file.open("wb") as log:
            # A session of its own: Ctrl-C is for this process, which then stops the daemon.
            self._process = subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, client: Client, *, with_workers: bool) -> None:
        """Wait until the daemon answers and, if `with_workers`, all workers are idle; raises PrivateDaemonError."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.check()
            try:
                workers = client.stats().workers
            except UnreachableError:
                continue
            if not with_workers or all(worker.state == "idle" for worker in workers):
                return
            time.sleep(0.05)
        raise PrivateDaemonError(
            f"the daemon was not ready within {START_TIMEOUT_S:g} s; see {self.log_file}"
        )

    def check(self) -> None:
        """Raise PrivateDaemonError if the daemon has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise PrivateDaemonError(
                f"the daemon ended with status {self._process.returncode}; see {self.log_file}"
            )

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON lines that were added to the log since the last call."""
        with self.log_file.open("rb") as log:
            log.seek(self._read_bytes)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # output of a library
            if isinstance(event, dict):
                yield event

    def log_tail(self) -> str:
        """Return the end of the log."""
        return self.log_file.read_text("utf-8", "replace")[-LOG_TAIL_CHARS:] if self.log_file.exists() else ""

    def stop(self) -> int:
        """Stop the daemon, remove its sockets and return its exit status; may be repeated."""
        status = 0
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
            try:
                status = self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                status = self._process.wait()
        shutil.rmtree(self.sockets, ignore_errors=True)
        return status
