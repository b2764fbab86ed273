"""GPU memory readings on a machine without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subtitled.asr.cuda import Device
from subtitled.observability.gpu import GpuMemoryMonitor, read_memory
from subtitled.runtime.background import BackgroundPool

if TYPE_CHECKING:
    from collections.abc import Callable

GPU = Device(slot="gpu0", kind="cuda", visible="GPU-00000000-0000-0000-0000-000000000000", name="none")
CPU = Device(slot="cpu0", kind="cpu", visible="", name="CPU 0")


def test_memory_is_unknown_without_a_driver_or_a_gpu() -> None:
    assert read_memory([GPU]) == {}


def test_driver_is_read_in_the_background_and_at_most_every_two_seconds() -> None:
    coming: list[int] = []
    asked: list[float] = []

    def come(call: Callable[[], None]) -> None:
        call()
        coming.append(1)

    background = BackgroundPool("test", come)

    def devices() -> list[Device]:
        asked.append(1.0)
        return [GPU, CPU]

    memory = GpuMemoryMonitor(devices, background)
    assert memory.usage(0.0) == memory.usage(0.5) == {}
    background.close()
    assert (len(coming), len(asked)) == (1, 2)


def test_cpus_are_not_read() -> None:
    background = BackgroundPool("test", lambda call: call())
    assert GpuMemoryMonitor(lambda: [CPU], background).usage(0.0) == {}
    assert background.is_idle
    background.close()
