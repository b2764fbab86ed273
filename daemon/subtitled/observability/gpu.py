"""GPU memory, utilization and temperature, from NVML."""

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
        "Share of the sampling period in which a kernel ran on the GPU (0 to 1).",
        lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    ),
    (
        "subtitled_gpu_memory_used_bytes",
        "GPU memory used by all processes.",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
    (
        "subtitled_gpu_memory_total_bytes",
        "Total GPU memory.",
        lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
    ),
    (
        "subtitled_gpu_temperature_celsius",
        "GPU temperature.",
        lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    ),
)


class GpuCollector(Collector):
    """Reads the driver at each scrape, in the scrape's thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.devices: tuple[Device, ...] = ()
        """Set at the start and by each reload."""
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Yield the metric names without reading the driver."""
        return iter([GaugeMetricFamily(name, text) for name, text, _ in _GAUGES])

    def collect(self) -> Iterator[Metric]:
        """Yield what the driver reports: nothing without a driver; a MIG slice lacks some values."""
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
"""Age at which readings are refreshed; the driver may be slow."""


class GpuMemoryUsage(Struct, frozen=True, kw_only=True):
    """Memory of one GPU, used by all processes."""

    used_bytes: int = 0
    total_bytes: int = 0


class GpuMemoryMonitor:
    """Reads the driver in the background; belongs to the thread of the server's loop."""

    def __init__(self, devices: Callable[[], Iterable[Device]], background: BackgroundPool) -> None:
        """`devices` returns the devices in use."""
        self._devices = devices
        self._background = background
        self._known: dict[str, GpuMemoryUsage] = {}
        self._is_reading = False
        self._due = 0.0

    def usage(self, now: float) -> dict[str, GpuMemoryUsage]:
        """Return the last readings by slot and start a refresh if they are old; never blocks."""
        gpus = [device for device in self._devices() if device.kind == "cuda"]
        if gpus and now >= self._due and not self._is_reading:
            self._is_reading, self._due = True, now + FRESH_S
            self._background.run(
                lambda: read_memory(gpus), self._update, lambda _: self._update({}), Exception
            )
        return self._known

    def _update(self, known: dict[str, GpuMemoryUsage]) -> None:
        self._known, self._is_reading = known, False


def read_memory(gpus: Iterable[Device]) -> dict[str, GpuMemoryUsage]:
    """Return the memory of each GPU by slot, as far as the driver reports it. Blocks."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    found = {}
    try:
        for gpu in gpus:
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(gpu.visible))
            except pynvml.NVMLError:
                continue
            found[gpu.slot] = GpuMemoryUsage(used_bytes=int(memory.used), total_bytes=int(memory.total))
    finally:
        pynvml.nvmlShutdown()
    return found
