"""A process beside the daemon, such as the gateway: started when the configuration asks for it, started again when it ends.

Its watch is a thread of its own, and no part of the daemon's loop: whatever becomes of the process, no job hears of it.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from msgspec import Struct

from subtitled import log

FIRST_PAUSE_S = 0.5
"""Before it is started again; doubled each time, up to MAX_PAUSE_S, and forgotten after it has lived so long."""
MAX_PAUSE_S = 60.0
STOP_S = 15.0
"""Time to end after SIGTERM: more than it takes to finish what is under way."""
_log = log.get()


class SidecarSettings(Struct, frozen=True, eq=False):
    """One state of the configuration in which the process is to run; another one starts it anew."""

    told: bytes = b""
    """What it reads on its standard input: nobody else sees it, as they would its command line or its environment."""


class Sidecar:
    """One process at most; a context manager that ends it. `want` may be called from any thread."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], *, lost: str) -> None:
        """`lost`: the log's event for an end that nobody asked for."""
        self._command = command
        self._lost = lost
        # What systemd hears of readiness is the daemon's to say.
        self._environ = {name: value for name, value in environ.items() if name != "NOTIFY_SOCKET"}
        self._wanted: SidecarSettings | None = None
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="companion", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and start none any more; may be repeated."""
        with self._changed:
            self._is_over, self._wanted = True, None
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def want(self, wanted: SidecarSettings | None) -> None:
        """Have the process run, anew where this is not what was wanted before; or not, with None."""
        with self._changed:
            self._wanted = wanted
            self._changed.notify()
            if self._thread.ident is None and self._wanted is not None:
                self._thread.start()

    def _run(self) -> None:
        pause_s, until = FIRST_PAUSE_S, 0.0
        while not self._is_over:
            wanted = self._wait_for_wanted(until)
            if wanted is None:
                continue
            began = time.monotonic()
            status = self._live(wanted)
            if self._wanted is not wanted:
                pause_s, until = FIRST_PAUSE_S, 0.0
                continue
            pause_s = FIRST_PAUSE_S if time.monotonic() - began > MAX_PAUSE_S else pause_s
            _log.warning(self._lost, status=status, again_in_s=pause_s)
            until, pause_s = time.monotonic() + pause_s, min(2 * pause_s, MAX_PAUSE_S)

    def _wait_for_wanted(self, until: float) -> SidecarSettings | None:
        """Wait until the process is wanted, and it is `until`; None where that has changed in between."""
        with self._changed:
            if self._wanted is None and not self._is_over:
                self._changed.wait()
                return None
            before = self._wanted
            while self._wanted is before and (left_s := until - time.monotonic()) > 0:
                self._changed.wait(left_s)
            return before if self._wanted is before else None

    def _live(self, wanted: SidecarSettings) -> int | str:
        """Run the process until it ends or is not wanted any more; return its exit status."""
        try:
            process = subprocess.Popen(self._command, env=self._environ, stdin=subprocess.PIPE)
        except OSError as error:
            return str(error)
        _tell(process, wanted.told)
        # A thread that waits beside this one, since a process and a condition cannot be waited for together.
        waiter = threading.Thread(target=self._tell_end_of, args=(process,), daemon=True)
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

    def _tell_end_of(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        with self._changed:
            self._changed.notify()


def _tell(process: subprocess.Popen[bytes], told: bytes) -> None:
    """Write what fits into a pipe, as all of it does: nothing blocks, whether or not the process reads."""
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(told)
