"""What NVML tells of the GPUs in use, as metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from subtitled.asr.cuda import Device

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
