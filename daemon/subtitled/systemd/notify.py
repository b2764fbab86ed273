"""Notifies systemd of the daemon's state (sd_notify(3)), without its library."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class SystemdNotifier:
    """Sends states to the socket of `NOTIFY_SOCKET` in `environ`, a path or an abstract "@name".

    Without the variable no call has an effect. No call raises or blocks: a message that cannot be delivered at once is dropped.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        # AF_UNIX only: systemd's vsock form is for virtual machines.
        self._address = name if name.startswith(("/", "@")) else ""
        self.watchdog_interval_s = _watchdog_interval_s(environ)
        """Interval for `watchdog`, half of systemd's timeout; None without a watchdog."""

    def ready(self) -> None:
        """Notify that the start or a reload is finished."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Notify that the daemon is stopping."""
        self._send("STOPPING=1")

    def reloading(self) -> None:
        """Notify that the configuration is being reloaded; `ready` must follow."""
        # Type=notify-reload requires the monotonic time (systemd.service(5)).
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def status(self, text: str) -> None:
        """Set the status line of `systemctl status`."""
        self._send(f"STATUS={' '.join(text.split())}")

    def watchdog(self) -> None:
        """Notify that the main loop runs."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(state.encode("utf-8", "backslashreplace"), os.fsencode(address))
        except (OSError, ValueError):
            # systemd is not there, its queue is full, or the name is invalid: the daemon continues.
            return


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Return half of WATCHDOG_USEC, as sd_watchdog_enabled(3) recommends, if it is for this process."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 2 / 1_000_000
