"""Loads a transcribe worker's model."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from msgspec import Struct

from subtitled.asr import memory
from subtitled.asr.cuda import preload_libraries
from subtitled.asr.engine import Engine
from subtitled.asr.faster_whisper_compat import is_out_of_memory
from subtitled.asr.idle_unload import IdleUnload
from subtitled.asr.model import (
    HubUnreachableError,
    Streams,
    cpu_streams,
    gpu_batch_size,
    locate,
    weights_of,
)
from subtitled.config.model_choice import DEFAULT_MODEL
from subtitled.config.model_files import digest_of
from subtitled.core.protocol import EngineSettings, HeldModel, WorkerReady
from subtitled.errors import ExitCode, ModelError
from subtitled.translation.engines.ctranslate2 import CTranslate2Engine
from subtitled.version import VERSION

if TYPE_CHECKING:
    from ctranslate2 import Translator
    from faster_whisper import WhisperModel

Load = Callable[..., "WhisperModel | Translator"]
"""`asr.model.load`, or a replacement with its parameters."""


class ModelLoadError(Exception):
    """The model cannot be loaded; `code` is whether a restart may help."""

    def __init__(self, cause: str, code: ExitCode) -> None:
        super().__init__(cause)
        self.code = code
        self.evicted: tuple[str, ...] = ()
        """Models that were unloaded in vain."""

    @property
    def is_out_of_memory(self) -> bool:
        """The device has too little free memory for it."""
        return is_out_of_memory(self) or "cannot allocate memory" in str(self).lower()


class LoadedModel(Struct, frozen=True, kw_only=True):
    """A model in memory, ready to decode audio or to translate text."""

    settings: EngineSettings
    device: str
    """"cpu" or "cuda"."""
    engine: Engine | CTranslate2Engine
    residence: IdleUnload
    compute_type: str
    digest: str
    """SHA-256 of its weights; "" if it was not requested."""
    load_s: float
    streams: int = 1
    """Leases that are decoded at once."""
    memory_bytes: int = 0
    """Memory of the device that it took; 0 if unknown."""

    def held(self, name: str) -> HeldModel:
        """Return its facts, as they are reported to the daemon."""
        return HeldModel(
            name=name,
            batch_size=self.engine.batch_size,
            streams=self.streams,
            languages=() if isinstance(self.engine, CTranslate2Engine) else self.engine.languages,
            load_s=self.load_s,
            memory_bytes=self.memory_bytes,
            digest=self.digest,
        )

    def ready(
        self, device: str, *, is_loaded_before: bool = False, held: Collection[str] = (DEFAULT_MODEL,)
    ) -> WorkerReady:
        """Return the message for the daemon; this is the default model, which transcribes.

        `device` is the display name of the device, `held` the names of all models that the worker holds.
        """
        if isinstance(self.engine, CTranslate2Engine):
            raise TypeError(f"the default model is a {type(self.engine).__name__}")
        return WorkerReady(
            version=VERSION,
            # On a GPU one more than it decodes: its features are computed in the meantime. On a CPU that saves nothing.
            credit=self.streams + (self.device != "cpu"),
            streams=self.streams,
            batch_size=self.engine.batch_size,
            device=device,
            is_cpu=self.device == "cpu",
            model=self.settings.model,
            window_samples=self.engine.window_samples,
            languages=self.engine.languages,
            load_s=0.0 if is_loaded_before else self.load_s,
            model_digest=self.digest,
            compute_type=self.compute_type,
            memory_bytes=self.memory_bytes,
            free_bytes=memory.free_bytes(self.device),
            has_default=DEFAULT_MODEL in held,
            stale_models=tuple(name for name in held if name != DEFAULT_MODEL),
        )


def load_model(
    settings: EngineSettings,
    *,
    device: str,
    cpu_threads: int,
    wants_digest: bool,
    load: Load,
    max_streams: int | None = None,
) -> LoadedModel:
    """Load the model, which is on this host; blocks until it is loaded. Raises ModelLoadError.

    `max_streams`: how many leases the worker decodes at once, if that is known already.
    """
    started = time.monotonic()
    if device == "cpu":
        memory.trim()  # what decoding has freed would be given to the model, and not count
    used_before = memory.used_bytes(device)
    if device != "cpu":
        preload_libraries()
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="digest") as beside:
            digest = (
                beside.submit(lambda: digest_of(locate(settings.model) / "model.bin"))
                if wants_digest
                else None
            )
            streams = _streams_of(settings, device, cpu_threads, max_streams)
            model = load(
                settings.model,
                device=device,
                compute_type=settings.compute_type,
                cpu_threads=cpu_threads,
                streams=streams.count,
            )
            found = digest.result() if digest else ""
    except HubUnreachableError as error:
        raise ModelLoadError(str(error), ExitCode.FAILED) from error
    except (ModelError, OSError) as error:
        raise ModelLoadError(str(error), ExitCode.FATAL) from error
    except (RuntimeError, MemoryError) as error:
        raise ModelLoadError(f"{device}: {error or 'out of memory'}", ExitCode.CUDA) from error
    try:
        engine = _engine_of(model, settings, streams)
    except ModelError as error:
        raise ModelLoadError(str(error), ExitCode.FATAL) from error
    weights = weights_of(model)
    if device == "cpu":
        memory.trim()  # what was freed after the weights were read would count as the model's
    used = memory.used_bytes(device)
    return LoadedModel(
        settings=settings,
        device=device,
        engine=engine,
        residence=IdleUnload(weights, settings.idle_unload_s),
        compute_type=str(weights.compute_type),
        digest=found,
        load_s=time.monotonic() - started,
        streams=streams.count,
        memory_bytes=max(0, used - used_before) if used is not None and used_before is not None else 0,
    )


def _streams_of(settings: EngineSettings, device: str, cpu_threads: int, max_streams: int | None) -> Streams:
    """Return the streams of a model that is to be loaded; on a GPU the batch is 0 if it depends on what will be free."""
    if device != "cpu":
        return Streams(settings.streams, settings.batch_size)
    is_text = settings.kind == "ctranslate2"
    return cpu_streams(
        settings.model,
        threads=max(1, cpu_threads),
        batch_size=settings.batch_size,
        compute_type=settings.compute_type,
        is_text=is_text,
        most=max_streams,
    )


def _engine_of(
    model: WhisperModel | Translator, settings: EngineSettings, streams: Streams
) -> Engine | CTranslate2Engine:
    """Return the engine of a loaded model; raises ModelError for a model of another kind than it is configured as."""
    is_text = not hasattr(model, "feature_extractor")
    if is_text != (settings.kind == "ctranslate2"):
        what = (
            "translates text and does not transcribe"
            if is_text
            else "transcribes and does not translate text"
        )
        remedy = (
            'name it in [[models]] with engine = "ctranslate2"'
            if is_text
            else "remove its key `engine` in [[models]]"
        )
        raise ModelError(f"the model {settings.model!r} {what}; {remedy}")
    batch_size = streams.batch_size or gpu_batch_size(settings.model, streams=streams.count)
    if is_text:
        return CTranslate2Engine(
            model,
            locate(settings.model),
            label=settings.model,
            beam_size=settings.beam_size,
            batch_size=batch_size,
        )
    return Engine(model, beam_size=settings.beam_size, batch_size=batch_size, decoding=settings.decoding)
