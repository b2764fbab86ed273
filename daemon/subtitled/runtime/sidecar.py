"""Run a process beside the daemon, such as the HTTP gateway, and restart it when it ends.

A separate thread supervises it: a failure of the process does not affect the daemon's loop.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

from msgspec import Struct

from subtitled import log

FIRST_PAUSE_S = 0.5
"""Pause before a restart; doubled each time up to MAX_PAUSE_S, and reset after the process ran that long."""
MAX_PAUSE_S = 60.0
STOP_S = 15.0
"""Time between SIGTERM and SIGKILL."""
_log = log.get()


class SidecarSettings(Struct, frozen=True, eq=False):
    """Settings of one run of the process; a new object restarts it."""

    stdin: bytes = b""
    """Its standard input, which other users cannot read, unlike its arguments."""


class Sidecar:
    """At most one process, stopped by the context manager's exit. `configure` is thread-safe."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], *, lost_event: str) -> None:
        """`lost_event`: the log event of an unexpected end."""
        self._command = command
        self._lost_event = lost_event
        # Only the daemon notifies systemd.
        self._environ = {name: value for name, value in environ.items() if name != "NOTIFY_SOCKET"}
        self._wanted: SidecarSettings | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="sidecar", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the process permanently; may be repeated."""
        with self._changed:
            self._is_closed, self._wanted = True, None
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def configure(self, wanted: SidecarSettings | None) -> None:
        """Run the process with these settings, restarting it if they are new; None stops it."""
        with self._changed:
            self._wanted = wanted
            self._changed.notify()
            if self._thread.ident is None and self._wanted is not None:
                self._thread.start()

    def _run(self) -> None:
        pause_s, until = FIRST_PAUSE_S, 0.0
        while not self._is_closed:
            wanted = self._wait_for_wanted(until)
            if wanted is None:
                continue
            began = time.monotonic()
            status = self._run_process(wanted)
            if self._wanted is not wanted:
                pause_s, until = FIRST_PAUSE_S, 0.0
                continue
            pause_s = FIRST_PAUSE_S if time.monotonic() - began > MAX_PAUSE_S else pause_s
            _log.warning(self._lost_event, status=status, again_in_s=pause_s)
            until, pause_s = time.monotonic() + pause_s, min(2 * pause_s, MAX_PAUSE_S)

    def _wait_for_wanted(self, until: float) -> SidecarSettings | None:
        """Wait for settings and for the time `until`; return None when the settings changed meanwhile."""
        with self._changed:
            if self._wanted is None and not self._is_closed:
                self._changed.wait()
                return None
            before = self._wanted
            while self._wanted is before and (left_s := until - time.monotonic()) > 0:
                self._changed.wait(left_s)
            return before if self._wanted is before else None

    def _run_process(self, wanted: SidecarSettings) -> int | str:
        """Run the process until it ends or other settings are configured; return its exit status."""
        try:
            # A process group of its own: Ctrl-C reaches the daemon only, which stops this process in its turn.
            log_variables, descriptors = log.for_children()
            process = subprocess.Popen(
                self._command,
                env={**self._environ, **log_variables},
                stdin=subprocess.PIPE,
                process_group=0,
                pass_fds=descriptors,
            )
        except OSError as error:
            return str(error)
        _write_stdin(process, wanted.stdin)
        # A second thread waits for the process: one thread cannot wait for a process and a condition.
        waiter = threading.Thread(target=self._notify_end, args=(process,), daemon=True)
        waiter.start()
        with self._changed:
            while process.returncode is None and self._wanted is wanted:
                self._changed.wait()
        if process.returncode is None:
            process.terminate()
            waiter.join(STOP_S)
            if waiter.is_alive():
                process.kill()
        waiter.join()
        return int(process.returncode)

    def _notify_end(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        with self._changed:
            self._changed.notify()


def _write_stdin(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Write `data`, which fits into the pipe's buffer, so that this does not block."""
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(data)
