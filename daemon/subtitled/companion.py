"""The gateway as a child of the daemon: started when the configuration asks for it, started again when it ends.

It has a thread of its own, and no part in the daemon's loop: whatever becomes of the gateway, no job hears of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from subtitled import log
from subtitled.config import Http

FIRST_PAUSE_S = 0.5
"""Before it is started again; doubled each time, up to MAX_PAUSE_S, and forgotten after it has lived so long."""
MAX_PAUSE_S = 60.0
STOP_S = 15.0
"""Time to end after SIGTERM: more than it takes to finish requests."""
_log = log.get()


class Companion:
    """One gateway process at most; a context manager that ends it. `want` may be called from any thread."""

    def __init__(self, config_file: str | None, environ: Mapping[str, str]) -> None:
        """`config_file`: what the gateway is to read; None for its defaults."""
        chosen = ("--config", config_file) if config_file is not None else ()
        self._command = (sys.executable, "-m", "subtitled", "http", "--parent", str(os.getpid()), *chosen)
        # What systemd hears of readiness is the daemon's to say.
        self._environ = {name: value for name, value in environ.items() if name != "NOTIFY_SOCKET"}
        self._wanted: Http | None = None
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="companion", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_over, self._wanted = True, None
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def want(self, http: Http) -> None:
        """Have the gateway run as `http` says, started anew where that has changed; or not, where it has a unit or is off."""
        with self._changed:
            self._wanted = http if http.listen and http.with_daemon else None
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
            status = self._live(self._command, wanted)
            if self._wanted is not wanted:
                pause_s, until = FIRST_PAUSE_S, 0.0
                continue
            pause_s = FIRST_PAUSE_S if time.monotonic() - began > MAX_PAUSE_S else pause_s
            _log.warning(log.HTTP_LOST, status=status, again_in_s=pause_s)
            until, pause_s = time.monotonic() + pause_s, min(2 * pause_s, MAX_PAUSE_S)

    def _wait_for_wanted(self, until: float) -> Http | None:
        """Wait until the gateway is wanted, and it is `until`; None where that has changed in between."""
        with self._changed:
            if self._wanted is None and not self._is_over:
                self._changed.wait()
                return None
            before = self._wanted
            while self._wanted is before and (left_s := until - time.monotonic()) > 0:
                self._changed.wait(left_s)
            return before if self._wanted is before else None

    def _live(self, command: Sequence[str], wanted: Http) -> int | str:
        """Run the gateway until it ends or is not wanted any more; return its exit status."""
        try:
            process = subprocess.Popen(command, env=self._environ, stdin=subprocess.DEVNULL)
        except OSError as error:
            return str(error)
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
