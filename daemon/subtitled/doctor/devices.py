"""The devices: driver, libraries, compute types, and one segment transcribed for real on each."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from subtitled.asr.cuda import find_devices, preload_libraries
from subtitled.doctor.finding import (
    ChosenDevices,
    Finding,
    ProbeStarted,
    Said,
    fault,
    from_error,
    ok,
    skipped,
    warning,
)
from subtitled.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import numpy as np

    from subtitled.asr.engine import Engine

LIBRARIES = ("libcublas.so.12",)
"""What CTranslate2 loads by name at its first multiplication on a GPU, beside what it brings along."""
SPEECH_S = 10
SLOW = 1.0
"""Times real time; a device below it falls behind whoever speaks without pause."""
MIB = 2**20
_GPU_REMEDY = (
    "look at `nvidia-smi` and `dmesg`; a GPU that answers there and not here needs a restart of the machine"
)


class DeviceProbe(Struct, frozen=True, kw_only=True):
    """`pool.devices`, and the daemon's own CUDA_VISIBLE_DEVICES."""

    devices: str | tuple[str, ...]
    visible: str | None


class InferenceResult(Struct, frozen=True, kw_only=True):
    """What a device is to be tried with."""

    slot: str
    kind: str
    model: str
    compute_type: str
    cpu_threads: int
    beam_size: int
    is_model_there: bool = True
    """Without the model only what comes before it is tried."""
    is_daemon_there: bool = False
    """A daemon that runs has the model on the device already."""


def found(settings: DeviceProbe) -> Iterator[Said]:
    """Tell driver and GPUs, and choose the devices."""
    yield ProbeStarted(name="driver", remedy=_GPU_REMEDY)
    yield from _driver(is_needed=settings.devices != ("cpu",) * len(settings.devices))
    try:
        devices = find_devices(settings.devices, settings.visible)
    except ConfigError as error:
        for line in error.faults:
            yield fault("pool.devices", line, 'name GPUs that are there, or set pool.devices = "auto"')
    else:
        yield ChosenDevices(devices=tuple(devices))


def _driver(*, is_needed: bool) -> Iterator[Finding]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if is_needed:
            remedy = 'with a GPU: install NVIDIA\'s driver, until `nvidia-smi` lists it; without: pool.devices = ["cpu"]'
            yield warning("driver", f"no NVIDIA driver answers ({error}): the CPU transcribes", remedy)
        else:
            yield ok("driver", "not needed: the CPU transcribes")
        return
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
        versions = f"{_text(pynvml.nvmlSystemGetDriverVersion())}, CUDA {cuda // 1000}.{cuda % 1000 // 10}"
        yield driver_finding(versions, cuda // 1000)
        for index in range(pynvml.nvmlDeviceGetCount()):
            yield _gpu(pynvml, index)
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, index: int) -> Finding:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
    except pynvml.NVMLError as error:
        return warning(f"GPU {index}", f"does not tell of itself: {error}", _GPU_REMEDY)
    free = f"{memory.free // MIB} of {memory.total // MIB} MiB free"
    return ok(f"GPU {index}", f"{_text(name)}, {free}, {_text(uuid)}")


def driver_finding(versions: str, cuda: int) -> Finding:
    """Judge a driver by the CUDA that it knows."""
    if cuda < 12:
        return fault(
            "driver", f"{versions}; CTranslate2 wants CUDA 12", "install NVIDIA's driver 525 or newer"
        )
    return ok("driver", versions)


def library_findings(name: str, libraries: Iterable[str] = LIBRARIES) -> Iterator[Finding]:
    """Load libraries as the dynamic loader finds them, for real."""
    for library in libraries:
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            remedy = f"type: {sys.executable} -m pip install --no-deps nvidia-cublas-cu12"
            yield fault(f"{name} libraries", f"{library} cannot be loaded: {error}", remedy)


def compute_type_finding(slot: str, wanted: str, supported: Collection[str]) -> Finding:
    """Judge `model.compute_type` by what the device has."""
    has = ", ".join(sorted(supported))
    if wanted in {"auto", "default"} or wanted in supported:
        return ok(f"{slot} compute types", has)
    remedy = f'set model.compute_type = "auto", or one of {has}'
    return fault(f"{slot} compute types", f'model.compute_type = "{wanted}": the device has {has}', remedy)


def speed_finding(slot: str, audio_s: float, decode_s: float, *, phrases: int) -> Finding:
    """Judge a segment of recorded speech that was transcribed."""
    speed = audio_s / decode_s
    what = f"{audio_s:.1f} s of speech transcribed in {decode_s:.2f} s: {speed:.1f}x real time"
    if not phrases:
        return warning(
            f"{slot} speed",
            f"{what}, but no text came of it",
            "try `subtitled doctor --file` with speech of your own",
        )
    if speed < SLOW:
        return warning(f"{slot} speed", what, "a smaller model, model.beam_size = 1 or a GPU is faster")
    return ok(f"{slot} speed", what)


def inferred(settings: InferenceResult) -> Iterator[Said]:
    """Load the model on a device and transcribe a recording, step by step."""
    slot = settings.slot
    yield ProbeStarted(name=f"{slot} libraries", remedy=_GPU_REMEDY)
    if settings.kind != "cpu":
        loaded = preload_libraries()
        faults = list(library_findings(slot))
        yield from faults
        if faults:
            return
        yield ok(f"{slot} libraries", ", ".join(loaded) or f"the system's own {', '.join(LIBRARIES)}")
    yield ProbeStarted(name=f"{slot} compute types", remedy=_GPU_REMEDY)
    from ctranslate2 import get_supported_compute_types

    judged = compute_type_finding(slot, settings.compute_type, get_supported_compute_types(settings.kind))
    yield judged
    if judged.state == "fault" or not settings.is_model_there:
        return
    engine = yield from loaded_engine(settings)
    if engine is None:
        return
    yield ProbeStarted(name=f"{slot} speed", remedy=_GPU_REMEDY)
    from subtitled.asr.engine import OutOfMemoryError

    pcm = recording(min(SPEECH_S * 16_000, engine.window_samples))
    try:
        if settings.kind != "cpu":
            transcribed(engine, pcm)  # the first time CUDA makes its kernels ready
        started = time.monotonic()
        phrases = transcribed(engine, pcm)
    except OutOfMemoryError as error:
        yield memory_finding(f"{slot} speed", error, is_daemon_there=settings.is_daemon_there)
    else:
        yield speed_finding(slot, len(pcm) / 16_000, time.monotonic() - started, phrases=phrases)


def memory_finding(name: str, error: Exception, *, is_daemon_there: bool) -> Finding:
    """Judge a device that has no memory left."""
    if is_daemon_there:
        return skipped(name, "no room for a second model beside the running daemon's")
    remedy = "see with `nvidia-smi` who has the memory; or a smaller model, or a compute type of 8 bits"
    return fault(name, " ".join(str(error).split()), remedy)


def loaded_engine(settings: InferenceResult) -> Generator[Said, None, Engine | None]:
    """Load the model as a worker does; returns the Engine, or None after a fault."""
    from subtitled.asr.engine import Engine
    from subtitled.asr.faster_whisper_compat import is_out_of_memory
    from subtitled.asr.model import compute_type_for, load

    name = f"{settings.slot} model"
    yield ProbeStarted(
        name=name, remedy="set a smaller model.name, or free memory: other programs may hold it"
    )
    started = time.monotonic()
    try:
        model = load(
            settings.model,
            device=settings.kind,
            compute_type=settings.compute_type,
            cpu_threads=settings.cpu_threads,
        )
    except (ModelError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            yield memory_finding(name, error, is_daemon_there=settings.is_daemon_there)
        else:
            remedy = _GPU_REMEDY if settings.kind != "cpu" else "get the model's files anew"
            yield from_error(name, error, remedy)
        return None
    kind = compute_type_for(settings.compute_type, settings.kind)
    yield ok(name, f"{settings.model}, as {kind}, loaded in {time.monotonic() - started:.1f} s")
    return Engine(model, beam_size=settings.beam_size, batch_size=1)


def transcribed(engine: Engine, pcm: np.ndarray) -> int:
    """Transcribe a segment, int16 (n,) at 16 kHz mono, and return how many phrases were heard."""
    from subtitled.asr.prompts import PromptRequest

    results = engine.transcribe([engine.features(pcm)], [PromptRequest(language=None)], word_timestamps=False)
    return len(results[0].phrases)


def recording(samples: int) -> Any:
    """Return the beginning of the bundled recording: int16 (n,), 16 kHz mono."""
    import soundfile

    return soundfile.read(files("subtitled") / "demo" / "demo.flac", frames=samples, dtype="int16")[0]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
