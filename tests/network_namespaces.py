"""Two hosts on one machine: a network namespace each, and between them a link that delays, loses, limits and can be cut.

The link forwards packets between two TUN devices: not every kernel has the netem of tc(8). No packet leaves the namespaces.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD_ADDRESS, GPU_ADDRESS = "10.77.0.1", "10.77.0.2"
TUN = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
"""From linux/if_tun.h: whole IP packets, with nothing before them."""
MOST_BYTES = 65_536
PER_TURN = 64
"""Packets taken from one side before the other."""


class ForbiddenError(Exception):
    """The system does not allow network namespaces; the message has the reason."""


class Conditions(Struct, frozen=True, kw_only=True):
    """Delay, loss and rate of the link."""

    delay_s: float = 0.0
    """In each direction."""
    loss: float = 0.0
    """Share of the packets, in each direction."""
    bytes_per_s: float | None = None
    """In each direction; None: unlimited."""
    queue_s: float = 0.2
    """Longest queue, if the rate is limited; packets beyond it are lost."""
    is_cut: bool = False
    """All packets are lost."""


class _Way:
    """One direction of the link."""

    def __init__(self, source: int, target: int, seed: int) -> None:
        self.source = source
        self._target = target
        self._random = random.Random(seed)
        self._free_at = 0.0
        self._queue: deque[tuple[float, bytes]] = deque()

    @property
    def due(self) -> float | None:
        return self._queue[0][0] if self._queue else None

    def take(self, conditions: Conditions) -> int:
        """Read the waiting packets; return how many."""
        for count in range(PER_TURN):
            try:
                packet = os.read(self.source, MOST_BYTES)
            except BlockingIOError:
                return count
            if conditions.is_cut or self._random.random() < conditions.loss:
                continue
            now = time.monotonic()
            sent_at = now
            if conditions.bytes_per_s:
                begins_at = max(now, self._free_at)
                if begins_at - now > conditions.queue_s:
                    continue
                self._free_at = sent_at = begins_at + len(packet) / conditions.bytes_per_s
            # Packets keep their order, also when the delay was reduced.
            before = self._queue[-1][0] if self._queue else 0.0
            self._queue.append((max(before, sent_at + conditions.delay_s), packet))
        return PER_TURN

    def deliver(self, *, is_cut: bool) -> None:
        """Deliver the packets whose delay is over."""
        now = time.monotonic()
        while self._queue and self._queue[0][0] <= now:
            _, packet = self._queue.popleft()
            if not is_cut:
                with contextlib.suppress(BlockingIOError, OSError):  # a full queue loses it, as on any wire
                    os.write(self._target, packet)


class Wire(threading.Thread):
    """Carries packets between two TUN devices until it is closed; `conditions` may be changed by any thread."""

    def __init__(self, ends: tuple[int, int], conditions: Conditions) -> None:
        super().__init__(name="wire", daemon=True)
        self.conditions = conditions
        head, gpu = ends
        self._ways = (_Way(head, gpu, seed=1), _Way(gpu, head, seed=2))
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Forward packets."""
        waited = [self._wake, *(way.source for way in self._ways)]
        while True:
            now = time.monotonic()
            wait_s = min((max(0.0, way.due - now) for way in self._ways if way.due is not None), default=None)
            ready = select.select(waited, [], [], wait_s)[0]
            if self._wake in ready:
                return
            for way in self._ways:
                way.take(self.conditions)
                way.deliver(is_cut=self.conditions.is_cut)

    def close(self) -> None:
        """End the thread."""
        os.write(self._waker, b"\0")
        self.join()
        os.close(self._wake)
        os.close(self._waker)


class Network:
    """Two namespaces and their link; a context manager. Raises ForbiddenError if the system does not allow it."""

    def __init__(self, conditions: Conditions | None = None) -> None:
        name = f"st{os.getpid() % 100_000}"
        self._names = (f"{name}-head", f"{name}-gpu")
        self._open: list[int] = []
        self._wire: Wire | None = None
        self._conditions = conditions or Conditions()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise ForbiddenError("network namespaces need root")
        if _ip() is None:
            raise ForbiddenError("network namespaces need ip(8), of iproute2")
        try:
            for name, address in zip(self._names, (HEAD_ADDRESS, GPU_ADDRESS), strict=True):
                self._add_host(name, address)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            why = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
            raise ForbiddenError(f"no network namespaces here: {why}") from error
        self._wire = Wire((self._open[0], self._open[1]), self._conditions)
        self._wire.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def on_head(self) -> tuple[str, ...]:
        """Words before a command that run it on the head."""
        return self._within(self._names[0])

    @property
    def on_gpu(self) -> tuple[str, ...]:
        """The same for the host with the GPU."""
        return self._within(self._names[1])

    def change(self, conditions: Conditions) -> None:
        """Change the conditions of the link."""
        assert self._wire is not None
        self._wire.conditions = conditions

    def close(self) -> None:
        """Remove everything; a process that still runs in a namespace keeps it, without a link, until it ends."""
        if self._wire is not None:
            self._wire.close()
        for file in self._open:
            os.close(file)
        for name in self._names:
            subprocess.run([_ip() or "ip", "netns", "del", name], capture_output=True, check=False)
        self._wire, self._open = None, []

    def _add_host(self, name: str, address: str) -> None:
        device = name.replace("-", "")
        _run("netns", "add", name)
        tun = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._open.append(tun)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH14x", device.encode(), IFF_TUN | IFF_NO_PI))
        _run("link", "set", device, "netns", name)
        _run("-n", name, "addr", "add", f"{address}/24", "dev", device)
        for up in ("lo", device):
            _run("-n", name, "link", "set", up, "up")

    @staticmethod
    def _within(name: str) -> tuple[str, ...]:
        return (_ip() or "ip", "netns", "exec", name)


def _ip() -> str | None:
    """Return the path of ip(8), which may be missing in a user's PATH."""
    return shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")


def _run(*words: str) -> None:
    command: Sequence[str] = (_ip() or "ip", *words)
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
