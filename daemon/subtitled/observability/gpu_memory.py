"""How much memory of each GPU is in use, looked at while somebody wants to know."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from subtitled.asr.cuda import Device
from subtitled.runtime.background import BackgroundPool

FRESH_S = 2.0
"""A look holds so long: the driver may take its time."""


class GpuMemoryUsage(Struct, frozen=True, kw_only=True):
    """Of one GPU, by any program."""

    used_bytes: int = 0
    total_bytes: int = 0


class GpuMemoryMonitor:
    """Asks the driver beside the loop; belongs to the thread of the server's loop."""

    def __init__(self, devices: Callable[[], Iterable[Device]], aside: BackgroundPool) -> None:
        """`devices` returns those in use."""
        self._devices = devices
        self._aside = aside
        self._known: dict[str, GpuMemoryUsage] = {}
        self._is_asking = False
        self._due = 0.0

    def look(self, now: float) -> dict[str, GpuMemoryUsage]:
        """Return what is known by slot, and see to it that more is known next time; never waits."""
        gpus = [device for device in self._devices() if device.kind == "cuda"]
        if gpus and now >= self._due and not self._is_asking:
            self._is_asking, self._due = True, now + FRESH_S
            self._aside.run(lambda: read_memory(gpus), self._learn, lambda _: self._learn({}), Exception)
        return self._known

    def _learn(self, known: dict[str, GpuMemoryUsage]) -> None:
        self._known, self._is_asking = known, False


def read_memory(gpus: Iterable[Device]) -> dict[str, GpuMemoryUsage]:
    """Return the memory of each GPU by slot; without those of which the driver tells none. Blocks."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    found = {}
    try:
        for gpu in gpus:
            try:
                told = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(gpu.visible))
            except pynvml.NVMLError:
                continue
            found[gpu.slot] = GpuMemoryUsage(used_bytes=int(told.used), total_bytes=int(told.total))
    finally:
        pynvml.nvmlShutdown()
    return found
