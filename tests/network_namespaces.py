"""Two hosts on one machine: a network namespace each, and between them a wire that delays, loses, slows and can be cut.

The wire is of the test's own making, packet by packet between two TUN devices: not every kernel has the netem of tc(8). Nothing
that the two hosts say to each other leaves their namespaces.
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
"""Packets taken from one side before the other has its turn."""


class ForbiddenError(Exception):
    """This system does not let us make network namespaces; the message says why."""


class Conditions(Struct, frozen=True, kw_only=True):
    """What befalls each packet."""

    delay_s: float = 0.0
    """One way."""
    loss: float = 0.0
    """Share of the packets, each way."""
    bytes_per_s: float | None = None
    """Each way; None: as fast as it goes."""
    queue_s: float = 0.2
    """Longest wait for the packets before it, where the rate is limited; what would wait longer is lost."""
    is_cut: bool = False
    """Nothing passes."""


class _Way:
    """One direction of the wire."""

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
        """Take the packets that are there; return how many."""
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
            # Packets do not pass each other, though the delay may have become less.
            before = self._queue[-1][0] if self._queue else 0.0
            self._queue.append((max(before, sent_at + conditions.delay_s), packet))
        return PER_TURN

    def deliver(self, *, is_cut: bool) -> None:
        """Hand over what has been under way for long enough."""
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
        """Carry."""
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
    """Two namespaces and their wire; a context manager. Raises ForbiddenError where the system does not allow it."""

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
        """What runs a command on the head: words to put before it."""
        return self._within(self._names[0])

    @property
    def on_gpu(self) -> tuple[str, ...]:
        """The same for the host with the GPU."""
        return self._within(self._names[1])

    def change(self, conditions: Conditions) -> None:
        """Have other conditions on the wire from now on."""
        assert self._wire is not None
        self._wire.conditions = conditions

    def close(self) -> None:
        """Take all down; what still runs in a namespace keeps that one, without a wire, until it ends."""
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
    """Return ip(8), which a user's PATH may leave out."""
    return shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin")


def _run(*words: str) -> None:
    command: Sequence[str] = (_ip() or "ip", *words)
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
