"""Checks of the devices: driver, libraries, compute types, and one transcribed segment on each."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from subtitled.asr import memory
from subtitled.asr.cuda import find_devices, preload_libraries
from subtitled.doctor.finding import (
    ChosenDevices,
    Finding,
    ProbeMessage,
    ProbeStarted,
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
"""Libraries that CTranslate2 loads by name at its first multiplication on a GPU."""
SPEECH_S = 10
SLOW = 1.0
"""Times real time; a slower device cannot keep up with continuous speech."""
MIB = 2**20
_GPU_REMEDY = "see `nvidia-smi` and `dmesg`; if the GPU answers there, restart the machine"


class DeviceProbe(Struct, frozen=True, kw_only=True):
    """`pool.devices`, and the daemon's CUDA_VISIBLE_DEVICES."""

    devices: str | tuple[str, ...]
    visible: str | None


class NamedModel(Struct, frozen=True, kw_only=True):
    """A model besides the default."""

    name: str
    source: str
    compute_type: str


class InferenceProbe(Struct, frozen=True, kw_only=True):
    """Settings of the test of one device."""

    slot: str
    kind: str
    model: str
    compute_type: str
    cpu_threads: int
    beam_size: int
    is_model_there: bool = True
    """Without the model only libraries and compute types are tried."""
    is_daemon_there: bool = False
    """A running daemon already has the model on the device."""
    others: tuple[NamedModel, ...] = ()
    """Further models to load on it, one after the other."""


def probe_gpus(settings: DeviceProbe) -> Iterator[ProbeMessage]:
    """Report driver and GPUs, and choose the devices."""
    yield ProbeStarted(name="driver", remedy=_GPU_REMEDY)
    yield from _driver(is_needed=settings.devices != ("cpu",) * len(settings.devices))
    try:
        devices = find_devices(settings.devices, settings.visible)
    except ConfigError as error:
        for line in error.faults:
            yield fault("pool.devices", line, 'name existing GPUs, or set pool.devices = "auto"')
    else:
        yield ChosenDevices(devices=tuple(devices))


def _driver(*, is_needed: bool) -> Iterator[Finding]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if is_needed:
            remedy = 'with a GPU: install NVIDIA\'s driver until `nvidia-smi` lists the GPU; without: pool.devices = ["cpu"]'
            yield warning("driver", f"no NVIDIA driver found ({error}): the CPU transcribes", remedy)
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
        return warning(f"GPU {index}", f"cannot be queried: {error}", _GPU_REMEDY)
    free = f"{memory.free // MIB} of {memory.total // MIB} MiB free"
    return ok(f"GPU {index}", f"{_text(name)}, {free}, {_text(uuid)}")


def driver_finding(versions: str, cuda: int) -> Finding:
    """Check the CUDA version of a driver."""
    if cuda < 12:
        return fault(
            "driver", f"{versions}; CTranslate2 requires CUDA 12", "install NVIDIA's driver 525 or newer"
        )
    return ok("driver", versions)


def library_findings(name: str, libraries: Iterable[str] = LIBRARIES) -> Iterator[Finding]:
    """Load libraries with the dynamic loader."""
    for library in libraries:
        try:
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            remedy = f"type: {sys.executable} -m pip install --no-deps nvidia-cublas-cu12"
            yield fault(f"{name} libraries", f"{library} cannot be loaded: {error}", remedy)


def compute_type_finding(slot: str, wanted: str, supported: Collection[str]) -> Finding:
    """Check `model.compute_type` against the device."""
    has = ", ".join(sorted(supported))
    if wanted in {"auto", "default"} or wanted in supported:
        return ok(f"{slot} compute types", has)
    remedy = f'set model.compute_type = "auto", or one of {has}'
    return fault(
        f"{slot} compute types", f'model.compute_type = "{wanted}": the device supports {has}', remedy
    )


def speed_finding(slot: str, audio_s: float, decode_s: float, *, phrases: int) -> Finding:
    """Return the finding about a transcribed recording."""
    speed = audio_s / decode_s
    what = f"{audio_s:.1f} s of speech transcribed in {decode_s:.2f} s: {speed:.1f}x real time"
    if not phrases:
        return warning(
            f"{slot} speed",
            f"{what}, without text",
            "try `subtitled doctor --file` with your own recording",
        )
    if speed < SLOW:
        return warning(f"{slot} speed", what, "use a smaller model, model.beam_size = 1 or a GPU")
    return ok(f"{slot} speed", what)


def probe_inference(settings: InferenceProbe) -> Iterator[ProbeMessage]:
    """Load the models on a device, and transcribe a recording with the default."""
    slot, free = settings.slot, memory.free_bytes(settings.kind)
    yield ProbeStarted(name=f"{slot} libraries", remedy=_GPU_REMEDY)
    if settings.kind != "cpu":
        libraries = preload_libraries()
        faults = list(library_findings(slot))
        yield from faults
        if faults:
            return
        yield ok(f"{slot} libraries", ", ".join(libraries) or f"the system's own {', '.join(LIBRARIES)}")
    yield ProbeStarted(name=f"{slot} compute types", remedy=_GPU_REMEDY)
    from ctranslate2 import get_supported_compute_types

    checked = compute_type_finding(slot, settings.compute_type, get_supported_compute_types(settings.kind))
    yield checked
    sizes: list[int] = []
    if checked.state != "fault" and settings.is_model_there:
        loaded = yield from _loaded(settings)
        if loaded is not None:
            yield from _speed(settings, loaded.engine(settings.beam_size))
            sizes.append(loaded.memory_bytes)
            loaded.unload()
    for other in settings.others:
        loaded = yield from _loaded(settings, other)
        if loaded is not None:
            sizes.append(loaded.memory_bytes)
            loaded.unload()
    if len(sizes) > 1 and free is not None:
        yield free_memory_finding(slot, sizes, free)


def free_memory_finding(slot: str, sizes: Collection[int], free: int) -> Finding:
    """Return whether all models fit into a device's free memory at once; `sizes` are the memory of each, in bytes."""
    text = f"all {len(sizes)} models need {sum(sizes) // MIB} MiB, {free // MIB} MiB are free"
    if sum(sizes) < free:
        return ok(f"{slot} memory", text)
    remedy = "none needed: the worker unloads one for another; fewer models, an int8 compute type or `devices` of [[models]] keep them loaded"
    return warning(f"{slot} memory", text, remedy)


def _speed(settings: InferenceProbe, engine: Engine) -> Iterator[ProbeMessage]:
    """Transcribe a recording."""
    slot = settings.slot
    yield ProbeStarted(name=f"{slot} speed", remedy=_GPU_REMEDY)
    from subtitled.asr.engine import OutOfMemoryError

    pcm = recording(min(SPEECH_S * 16_000, engine.window_samples))
    try:
        if settings.kind != "cpu":
            transcribed(engine, pcm)  # the first run loads CUDA's kernels
        started = time.monotonic()
        phrases = transcribed(engine, pcm)
    except OutOfMemoryError as error:
        yield memory_finding(f"{slot} speed", error, is_daemon_there=settings.is_daemon_there)
    else:
        yield speed_finding(slot, len(pcm) / 16_000, time.monotonic() - started, phrases=phrases)


def memory_finding(name: str, error: Exception, *, is_daemon_there: bool) -> Finding:
    """Return the finding about a device that is out of memory."""
    if is_daemon_there:
        return skipped(name, "no memory for a second model: the running daemon uses it")
    remedy = "check with `nvidia-smi` which program uses the memory; or use a smaller model or an int8 compute type"
    return fault(name, " ".join(str(error).split()), remedy)


def loaded_engine(settings: InferenceProbe) -> Generator[ProbeMessage, None, Engine | None]:
    """Load the default model as a worker does; returns the Engine, or None after a fault."""
    loaded = yield from _loaded(settings)
    return None if loaded is None else loaded.engine(settings.beam_size)


class _Loaded(Struct, frozen=True):
    model: Any
    """A WhisperModel, or a Translator of CTranslate2."""
    memory_bytes: int
    """Memory of the device that it took; 0 if unknown."""

    def engine(self, beam_size: int) -> Engine:
        """Return an engine that decodes one segment at a time."""
        from subtitled.asr.engine import Engine

        return Engine(self.model, beam_size=beam_size, batch_size=1)

    def unload(self) -> None:
        """Free the memory."""
        from subtitled.asr.model import weights_of

        weights_of(self.model).unload_model()
        memory.trim()


def _loaded(
    settings: InferenceProbe, other: NamedModel | None = None
) -> Generator[ProbeMessage, None, _Loaded | None]:
    """Load the default or another model as a worker does; returns None after a fault."""
    from subtitled.asr.faster_whisper_compat import is_out_of_memory
    from subtitled.asr.model import compute_type_for, load

    name = f"{settings.slot} model" if other is None else f"{settings.slot} model {other.name}"
    source, compute_type = (
        (settings.model, settings.compute_type) if other is None else (other.source, other.compute_type)
    )
    yield ProbeStarted(name=name, remedy="use a smaller model, or free memory that other programs use")
    started, used = time.monotonic(), memory.used_bytes(settings.kind)
    try:
        model = load(
            source, device=settings.kind, compute_type=compute_type, cpu_threads=settings.cpu_threads
        )
    except (ModelError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            yield memory_finding(name, error, is_daemon_there=settings.is_daemon_there)
        else:
            remedy = _GPU_REMEDY if settings.kind != "cpu" else "download or copy the model's files again"
            yield from_error(name, error, remedy)
        return None
    kind = compute_type_for(compute_type, settings.kind)
    now = memory.used_bytes(settings.kind)
    taken = max(0, now - used) if now is not None and used is not None else 0
    size = f", {taken // MIB} MiB" if taken else ""
    yield ok(name, f"{source}, as {kind}, loaded in {time.monotonic() - started:.1f} s{size}")
    return _Loaded(model, taken)


def transcribed(engine: Engine, pcm: np.ndarray) -> int:
    """Transcribe a segment, int16 (n,) at 16 kHz mono, and return the number of phrases."""
    from subtitled.asr.prompts import PromptRequest

    results = engine.transcribe([engine.features(pcm)], [PromptRequest(language=None)], word_timestamps=False)
    return len(results[0].phrases)


def recording(samples: int) -> Any:
    """Return the beginning of the bundled recording: int16 (n,), 16 kHz mono."""
    import soundfile

    return soundfile.read(files("subtitled") / "demo" / "demo.flac", frames=samples, dtype="int16")[0]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
