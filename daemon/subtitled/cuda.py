"""GPUs: which there are, and what CTranslate2 needs to use them."""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from subtitled.errors import ConfigError

_LIBRARIES = (
    ("nvidia.cuda_runtime", "libcudart.so.12"),
    ("nvidia.cublas", "libcublasLt.so.12"),
    ("nvidia.cublas", "libcublas.so.12"),
)
"""The pip-installed CUDA libraries that CTranslate2 loads by name, in the order of their needs."""


class Device(Struct, frozen=True, kw_only=True):
    """Where one transcribe worker runs."""

    slot: str
    """Name of the worker slot: "gpu0", "cpu1"."""
    kind: str
    """"cuda" or "cpu"."""
    visible: str
    """Value of CUDA_VISIBLE_DEVICES for its process; empty for a CPU slot."""
    name: str
    """For people."""


class Gpu(Struct, frozen=True):
    """One GPU as NVML tells it."""

    index: int
    uuid: str
    name: str


def list_gpus(visible: str | None = None) -> list[Gpu]:
    """Return the GPUs that the driver knows, in NVML's order; an empty list where there is no driver.

    `visible` is the daemon's own CUDA_VISIBLE_DEVICES: GPUs that it leaves out are left out, its order is kept.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpus.append(
                Gpu(index, _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle)))
            )
    finally:
        pynvml.nvmlShutdown()
    return only_visible(gpus, visible)


def only_visible(gpus: list[Gpu], visible: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES = `visible` leaves, in its order.

    As CUDA does, entries are indices or (the starts of) UUIDs, and the first that names none, or one again, ends the list.
    """
    if visible is None:
        return gpus
    chosen = []
    for entry in (part.strip() for part in visible.split(",")):
        found = [g for g in gpus if str(g.index) == entry or (len(entry) > 4 and g.uuid.startswith(entry))]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen


def choose_devices(wanted: str | tuple[str, ...], gpus: list[Gpu]) -> list[Device]:
    """Return one Device for each transcribe worker.

    "auto" is every GPU, else one CPU slot; else a list of "cpu", "cuda:N" (N counts `gpus`) and "cuda:UUID".
    Raises ConfigError for a GPU that is not there.
    """
    if isinstance(wanted, str):
        wanted = tuple(f"cuda:{place}" for place in range(len(gpus))) or ("cpu",)
    devices, faults, cpus = [], [], 0
    for entry in wanted:
        if entry == "cpu":
            devices.append(Device(slot=f"cpu{cpus}", kind="cpu", visible="", name=f"CPU {cpus}"))
            cpus += 1
            continue
        which = entry.removeprefix("cuda:")
        place = next(
            (
                i
                for i, gpu in enumerate(gpus)
                if which == str(i) or (len(which) > 4 and gpu.uuid.startswith(which))
            ),
            None,
        )
        if place is None:
            there = ", ".join(f"cuda:{i} ({gpu.name})" for i, gpu in enumerate(gpus)) or "none"
            faults.append(f'pool.devices: got "{entry}", which is not there; GPUs that are: {there}')
            continue
        slot = f"gpu{place}"
        if any(device.slot == slot for device in devices):
            faults.append(f'pool.devices: "{entry}" names GPU {place} a second time; one worker fills a GPU')
            continue
        devices.append(Device(slot=slot, kind="cuda", visible=gpus[place].uuid, name=gpus[place].name))
    if faults:
        raise ConfigError(faults)
    return devices


def preload_libraries() -> list[str]:
    """Load the pip-installed CUDA libraries by their paths, so that no LD_LIBRARY_PATH is needed.

    Returns the paths that were loaded. Where the packages are not installed, the system's own libraries serve.
    """
    loaded = []
    for package, library in _LIBRARIES:
        try:
            spec = find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(folder, "lib", library)
            if path.is_file():
                ctypes.CDLL(os.fspath(path), mode=ctypes.RTLD_GLOBAL)
                loaded.append(os.fspath(path))
    return loaded


def free_bytes() -> int | None:
    """Return the free memory of the one GPU that this process sees; None where NVML does not tell."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
