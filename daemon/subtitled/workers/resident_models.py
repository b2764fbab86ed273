"""The models that one worker holds in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from subtitled.asr import memory
from subtitled.asr.model import locate
from subtitled.config.model_choice import DEFAULT_MODEL
from subtitled.core.protocol import EngineSettings, HeldModel, Transcribe
from subtitled.errors import ExitCode, ModelError
from subtitled.workers.model_loader import LoadedModel, ModelLoadError

LoadModel = Callable[[EngineSettings], LoadedModel]
"""Loads a model; blocks, and raises ModelLoadError."""
MARGIN = 1.1
"""A model is loaded if so many times the memory that it needs are free."""


class ModelUse(Struct, frozen=True):
    """The model of a lease, and what loading it changed."""

    model: LoadedModel
    loaded: HeldModel | None = None
    """It was loaded for this lease."""
    evicted: tuple[str, ...] = ()
    """Models that were unloaded for it."""


class ResidentModels:
    """Loads the models that leases name, and unloads others for them; may be used in several threads."""

    def __init__(self, default: LoadedModel, load: LoadModel) -> None:
        """`default` is the model that the worker was started with."""
        self._held = {DEFAULT_MODEL: default}
        self._settings = {DEFAULT_MODEL: default.settings}
        """Of all models that leases have named, by name."""
        self._memory_bytes = {DEFAULT_MODEL: default.memory_bytes}
        """Memory that each took, by name."""
        self._device = default.device
        self._load = load
        self._lock = threading.Lock()

    @property
    def wait_s(self) -> float | None:
        """How long a thread waits for work before it calls `unload_idle`; None: without limit."""
        return self._settings[DEFAULT_MODEL].idle_unload_s or None

    def others(self) -> tuple[HeldModel, ...]:
        """Return the models besides the default."""
        with self._lock:
            return tuple(model.held(name) for name, model in self._held.items() if name != DEFAULT_MODEL)

    def add(self, name: str, settings: EngineSettings) -> None:
        """Load a model that the worker keeps from its start; raises ModelLoadError."""
        with self._lock:
            self._settings[name] = settings
            self._hold(name, self._load(settings))

    def use(self, order: Transcribe) -> ModelUse:
        """Return the model of a lease, loaded if it was not; raises ModelLoadError."""
        name = order.model
        with self._lock:
            if order.engine is not None and order.engine != self._settings.get(name):
                self._unload(name)
                self._settings[name] = order.engine
            evicted = [other for other in order.evict if self._unload(other)]
            is_held = name in self._held
            if not is_held:
                self._load_evicting(name, order.may_evict, evicted)
            model = self._held[name]
            loaded = model.held(name) if order.is_load or not is_held else None
            if loaded is not None and is_held:  # since an earlier session
                loaded = replace(loaded, load_s=0.0)
            return ModelUse(model, loaded, tuple(evicted))

    def unload_idle(self) -> Iterator[str]:
        """Free the memory of the models that were idle for long enough; yield their names."""
        for name, model in list(self._held.items()):
            if model.residence.unload_if_idle():
                yield name

    def free_bytes(self) -> int | None:
        """Return the free memory of the device; None if unknown."""
        return memory.free_bytes(self._device)

    def _load_evicting(self, name: str, may_evict: tuple[str, ...], evicted: list[str]) -> None:
        settings = self._settings.get(name)
        if settings is None:
            raise ModelLoadError(f"the model {name!r} is unknown to this worker", ExitCode.FAILED)
        for other in may_evict:
            free, needed = self.free_bytes(), self._needed_bytes(name, settings)
            if free is None or free >= MARGIN * needed:
                break
            if self._unload(other):
                evicted.append(other)
        while True:
            try:
                self._hold(name, self._load(settings))
            except ModelLoadError as error:
                freed = (
                    next((o for o in may_evict if self._unload(o)), None) if error.is_out_of_memory else None
                )
                if freed is None:
                    error.evicted = tuple(evicted)
                    raise
                evicted.append(freed)
            else:
                return

    def _needed_bytes(self, name: str, settings: EngineSettings) -> int:
        """Return the memory that a model took last time, or the size of its weights."""
        if known := self._memory_bytes.get(name):
            return known
        try:
            return (locate(settings.model) / "model.bin").stat().st_size
        except (ModelError, OSError):
            return 0  # loading it reports the reason

    def _hold(self, name: str, model: LoadedModel) -> None:
        self._held[name] = model
        self._memory_bytes[name] = model.memory_bytes

    def _unload(self, name: str) -> bool:
        """Unload a model unless it is used; return whether it was held and is gone."""
        model = self._held.get(name)
        if model is None or not model.residence.unload():
            return False
        del self._held[name]
        return True
