"""What NVML tells of the GPUs in use, as metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from subtitled.asr.cuda import Device
from subtitled.runtime.background import BackgroundPool

_GAUGES: tuple[tuple[str, str, Callable[[Any, Any], float]], ...] = (
    (
        "subtitled_gpu_utilization_ratio",
        "Share of the last moments in which a kernel ran on the GPU.",
        lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    ),
    (
        "subtitled_gpu_memory_used_bytes",
        "Memory of the GPU in use, by any program.",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
    (
        "subtitled_gpu_memory_total_bytes",
        "Memory of the GPU.",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    ),
    (
        "subtitled_gpu_temperature_celsius",
        "Temperature of the GPU.",
        lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    ),
)


class GpuCollector(Collector):
    """Asks the driver whenever somebody asks for the metrics, in that one's thread; it may take its time there."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.devices: tuple[Device, ...] = ()
        """Replaced as a whole, at the start and by each reload."""
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Give the names, without a look at the driver."""
        return iter([GaugeMetricFamily(name, text) for name, text, _ in _GAUGES])

    def collect(self) -> Iterator[Metric]:
        """Give what the driver tells: nothing without one, and of a GPU only what it can tell (parts of one cannot all)."""
        gpus = [device for device in self.devices if device.kind == "cuda"]
        if not gpus:
            return
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        try:
            for name, text, ask in _GAUGES:
                family = GaugeMetricFamily(name, text, labels=["slot", "uuid", "name"])
                for device in gpus:
                    try:
                        value = ask(pynvml, pynvml.nvmlDeviceGetHandleByUUID(device.visible))
                    except pynvml.NVMLError:
                        continue
                    family.add_metric([device.slot, device.visible, device.name], value)
                yield family
        finally:
            pynvml.nvmlShutdown()


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
