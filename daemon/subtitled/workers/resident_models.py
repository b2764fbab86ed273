"""The models that one worker holds in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from msgspec import Struct
from msgspec.structs import replace

from subtitled.asr import memory
from subtitled.asr.model import locate
from subtitled.config.model_choice import DEFAULT_MODEL
from subtitled.core.model_placement import MARGIN
from subtitled.core.protocol import EngineSettings, HeldModel, LeaseOrder
from subtitled.errors import ExitCode, ModelError
from subtitled.workers.model_loader import LoadedModel, ModelLoadError

IN_USE_S = 30.0
"""A model that an earlier session uses is waited for so long: its lease is abandoned, or ends."""
POLL_S = 0.05

LoadModel = Callable[[EngineSettings], LoadedModel]
"""Loads a model; blocks, and raises ModelLoadError."""


class ModelUse(Struct, frozen=True):
    """The model of a lease, and what loading it changed; the model stays in memory until `pin` is closed."""

    model: LoadedModel
    pin: ExitStack
    """Keeps the model in memory until it is closed, which is before the lease is answered."""
    loaded: HeldModel | None = None
    """It was loaded for this lease."""
    evicted: tuple[str, ...] = ()
    """Models that were unloaded for it."""
    load_s: float = 0.0
    """Seconds that loading it again took, after an idle unload."""


class ResidentModels:
    """Loads the models that leases name, and unloads others for them; may be used in several threads."""

    def __init__(self, default: LoadedModel, load: LoadModel) -> None:
        """`default` is the model that the worker was started with."""
        self._held = {DEFAULT_MODEL: default}
        self._settings = {DEFAULT_MODEL: default.settings}
        """Settings of all models of leases so far, by name."""
        self._memory_bytes = {DEFAULT_MODEL: default.memory_bytes}
        """Memory that each took, by name."""
        self._kept: set[str] = set()
        """Models that stay in memory when they are idle."""
        self._device = default.device
        self._load = load
        self._lock = threading.Lock()

    @property
    def wait_s(self) -> float | None:
        """How long a thread waits for work before it calls `unload_idle`; None: without limit."""
        return self._settings[DEFAULT_MODEL].idle_unload_s or None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all models that it holds."""
        return tuple(self._held.copy())

    def use(self, order: LeaseOrder) -> ModelUse:
        """Return the model of a lease, loaded if it was not; raises ModelLoadError."""
        name = order.model
        with self._lock:
            if order.engine is not None and order.engine != self._settings.get(name):
                self._unload_unused(name)
                if name in self._held:
                    raise ModelLoadError(
                        f"an earlier lease has used {name!r} with other settings for {IN_USE_S:g} s",
                        ExitCode.FAILED,
                    )
                self._settings[name] = order.engine
            if order.is_load:
                (self._kept.add if order.is_kept else self._kept.discard)(name)
            evicted = [other for other in order.evict if self._unload_unused(other)]
            is_held = name in self._held
            use = ExitStack()
            load_s = self._load_evicting(name, order.may_evict, evicted, use)
            model = self._held[name]
            loaded = model.held(name) if order.is_load or not is_held else None
            if loaded is not None and is_held:  # since an earlier session, or until it was idle
                loaded = replace(loaded, load_s=load_s)
            return ModelUse(model, use, loaded, tuple(evicted), load_s if loaded is None else 0.0)

    def free(self, name: str) -> bool:
        """Unload a model that the daemon has no lease for; return whether it is not in memory."""
        with self._lock:
            self._kept.discard(name)
            return self._unload_unused(name) or name not in self._held

    def keep(self, name: str, *, is_kept: bool) -> None:
        """Change whether a model stays in memory when it is idle."""
        with self._lock:
            (self._kept.add if is_kept else self._kept.discard)(name)

    def unload_idle(self) -> Iterator[str]:
        """Free the memory of the models that were idle for long enough, unless they are kept; yield their names."""
        for name, model in list(self._held.items()):
            if name not in self._kept and model.residence.unload_if_idle():
                yield name

    def free_bytes(self) -> int | None:
        """Return the free memory of the device; None if unknown."""
        return memory.free_bytes(self._device)

    def _load_evicting(
        self, name: str, may_evict: tuple[str, ...], evicted: list[str], use: ExitStack
    ) -> float:
        """Have a model in memory until `use` ends; return the seconds that loading it took.

        Unloads others, and adds them to `evicted`. Raises ModelLoadError; then the model is not held.
        """
        held = self._held.get(name)
        if held is not None and held.residence.is_loaded:
            may_evict = ()
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
                return self._load_once(name, settings, use)
            except ModelLoadError as error:
                freed = self._unload_one(may_evict) if error.is_out_of_memory else None
                if freed is None:
                    self._unload(name)
                    error.evicted = tuple(evicted)
                    raise
                evicted.append(freed)

    def _load_once(self, name: str, settings: EngineSettings, use: ExitStack) -> float:
        if name not in self._held:
            self._hold(name, self._load(settings))
        try:
            return use.enter_context(self._held[name].residence.hold())
        except (RuntimeError, MemoryError) as error:
            raise ModelLoadError(f"{self._device}: {error or 'out of memory'}", ExitCode.CUDA) from error

    def _unload_one(self, names: tuple[str, ...]) -> str | None:
        """Unload the first of some models that can be unloaded; return its name."""
        return next((name for name in names if self._unload(name)), None)

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

    def _unload_unused(self, name: str) -> bool:
        """Unload a model as soon as no lease of an earlier session uses it; return whether it is gone."""
        give_up_at = time.monotonic() + IN_USE_S
        while (
            not (is_unloaded := self._unload(name)) and name in self._held and time.monotonic() < give_up_at
        ):
            time.sleep(POLL_S)
        return is_unloaded

    def _unload(self, name: str) -> bool:
        """Unload a model unless it is used; return whether it was held and is gone."""
        model = self._held.get(name)
        if model is None or not model.residence.unload():
            return False
        del self._held[name]
        return True
