"""GPUs of this machine, and the CUDA libraries that CTranslate2 needs."""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from subtitled.errors import ConfigError, ModelError

_LIBRARIES = (
    ("nvidia.cuda_runtime", "libcudart.so.12"),
    ("nvidia.cublas", "libcublasLt.so.12"),
    ("nvidia.cublas", "libcublas.so.12"),
)
"""The pip-installed CUDA libraries that CTranslate2 loads by name, in the order of their needs."""


_NO_GPU = ("", "-1", "none", "void", "nodevfiles")
"""Entries of CUDA_VISIBLE_DEVICES that stand for no GPU."""


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
    """One GPU as reported by NVML, or one of its MIG instances, by which alone CUDA can use such a GPU."""

    index: int
    uuid: str
    name: str
    parent: str = ""
    """UUID of the whole GPU, for a MIG instance."""


def list_gpus() -> list[Gpu]:
    """Return the GPUs that the driver knows, in NVML's order; an empty list where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpu = Gpu(index, _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle)))
            gpus += _instances(pynvml, handle, gpu) if _is_divided(pynvml, handle) else [gpu]
        return gpus
    finally:
        pynvml.nvmlShutdown()


def _is_divided(pynvml: Any, handle: Any) -> bool:
    try:
        present, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # a GPU that cannot be divided
        return False
    return bool(present == pynvml.NVML_DEVICE_MIG_ENABLE)


def _instances(pynvml: Any, handle: Any, gpu: Gpu) -> list[Gpu]:
    found = []
    for place in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except pynvml.NVMLError:  # no instance has this index
            continue
        uuid, name = pynvml.nvmlDeviceGetUUID(instance), pynvml.nvmlDeviceGetName(instance)
        found.append(Gpu(gpu.index, _text(uuid), _text(name), parent=gpu.uuid))
    return found


def only_visible(gpus: list[Gpu], visible: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES = `visible` leaves, in its order.

    As CUDA does, entries are indices or (the starts of) UUIDs, and the first that names none, or one again, ends the list.
    An entry for a whole GPU that is divided stands for all its MIG instances.
    """
    return gpus if visible is None else _chosen(gpus, visible)[0]


def _chosen(gpus: list[Gpu], visible: str) -> tuple[list[Gpu], str | None]:
    """Return the GPUs that are visible, and the entry that ended the list, if one did."""
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        found = _named(gpus, entry)
        if not found or any(gpu in chosen for gpu in found):
            return chosen, entry
        chosen += found
    return chosen, None


def _named(gpus: list[Gpu], entry: str) -> list[Gpu]:
    """Return the one GPU that an entry names, or all instances of it; nothing where it names none, or several."""
    is_uuid = len(entry) > 4
    whole = [
        g for g in gpus if str(g.index) == entry or (is_uuid and g.parent and g.parent.startswith(entry))
    ]
    named = whole or [g for g in gpus if is_uuid and g.uuid.startswith(entry)]
    is_one = len({gpu.index for gpu in whole}) == 1 if whole else len(named) == 1
    return named if is_one else []


def find_devices(wanted: str | tuple[str, ...], visible: str | None) -> list[Device]:
    """Return one Device for each transcribe worker of this machine, for `pool.devices` = `wanted`.

    `visible` is the daemon's own CUDA_VISIBLE_DEVICES. Raises ConfigError for a GPU that does not exist.
    """
    gpus = list_gpus()
    if visible is not None and set(wanted) != {"cpu"}:
        check_visible(gpus, visible)
    return choose_devices(wanted, only_visible(gpus, visible))


def check_visible(gpus: list[Gpu], visible: str) -> None:
    """Raise ConfigError when CUDA_VISIBLE_DEVICES names a GPU that does not exist.

    CUDA silently ignores it and all entries after it; if it is the first, the work would be done on the CPU.
    """
    ended_by = _chosen(gpus, visible)[1]
    if not gpus or ended_by is None or ended_by.lower() in _NO_GPU:
        return
    there = ", ".join(f"{gpu.index} = {gpu.uuid} ({gpu.name})" for gpu in gpus)
    fault = (
        f'CUDA_VISIBLE_DEVICES: got "{visible}", whose entry "{ended_by}" names no GPU, several, or a repeated one; '
        f"available GPUs: {there}; an empty value hides all"
    )
    raise ConfigError([fault])


def choose_devices(wanted: str | tuple[str, ...], gpus: list[Gpu]) -> list[Device]:
    """Return one Device for each transcribe worker.

    "auto" is every GPU, else one CPU slot; else a list of "cpu", "cuda:N" (N counts `gpus`) and "cuda:UUID".
    Raises ConfigError for a GPU that does not exist.
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
            faults.append(f'pool.devices: got "{entry}", which does not exist; available GPUs: {there}')
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

    Returns the paths that were loaded. If the packages are not installed, the system's libraries are used.
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


def check_libraries() -> None:
    """Raise ModelError unless the library that CTranslate2 loads at its first multiplication can be loaded.

    Otherwise the first lease would fail, and each segment would count as faulty.
    """
    name = _LIBRARIES[-1][1]
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        # cuBLAS 13 cannot replace it: another major version has another binary interface.
        raise ModelError(
            f"{name} cannot be loaded ({error}); install the package nvidia-cublas-cu12 beside the daemon: it is found "
            "there by its path, no LD_LIBRARY_PATH is needed"
        ) from error


def free_bytes() -> int | None:
    """Return the free memory of the one GPU that this process sees; None if NVML does not report it."""
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
