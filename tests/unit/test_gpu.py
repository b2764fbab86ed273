"""Memory of GPUs, on a machine that has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subtitled.asr.cuda import Device
from subtitled.observability.gpu import GpuMemoryMonitor, read_memory
from subtitled.runtime.background import BackgroundPool

if TYPE_CHECKING:
    from collections.abc import Callable

GPU = Device(slot="gpu0", kind="cuda", visible="GPU-00000000-0000-0000-0000-000000000000", name="none")
CPU = Device(slot="cpu0", kind="cpu", visible="", name="CPU 0")


def test_without_a_driver_or_a_gpu_nothing_is_known() -> None:
    assert read_memory([GPU]) == {}


def test_the_driver_is_asked_beside_the_loop_and_not_too_often() -> None:
    coming: list[int] = []
    asked: list[float] = []

    def come(call: Callable[[], None]) -> None:
        call()
        coming.append(1)

    aside = BackgroundPool("test", come)

    def devices() -> list[Device]:
        asked.append(1.0)
        return [GPU, CPU]

    memory = GpuMemoryMonitor(devices, aside)
    assert memory.usage(0.0) == memory.usage(0.5) == {}
    aside.close()
    assert (len(coming), len(asked)) == (1, 2)


def test_nobody_is_asked_about_cpus() -> None:
    aside = BackgroundPool("test", lambda call: call())
    assert GpuMemoryMonitor(lambda: [CPU], aside).usage(0.0) == {}
    assert aside.is_idle
    aside.close()
