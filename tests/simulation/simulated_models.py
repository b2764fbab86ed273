"""The models of simulated workers: the real rules for loading and unloading, on devices with little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from subtitled.config.schema import NamedModelConfig
from subtitled.core.protocol import EngineSettings
from subtitled.errors import ExitCode
from subtitled.workers.model_loader import LoadedModel, ModelLoadError
from subtitled.workers.resident_models import ResidentModels

if TYPE_CHECKING:
    from history import History

DIGEST = "0" * 64
DEFAULT_SOURCE = "demo"
GIB = 2**30
TRANSLATOR, ENDPOINT = "translator", "llm"
"""Models that translate: one that workers load, and one behind an endpoint."""


class SimulatedModel(Struct, frozen=True, kw_only=True):
    """A model of the configuration."""

    name: str = ""
    """"" for the default."""
    size: int = 3
    """GiB of memory that it takes."""
    load_s: float = 0.0
    preload: int = 0
    is_broken: bool = False
    """No worker can load it."""
    is_for_text: bool = False
    is_endpoint: bool = False
    revision: int = 1

    @property
    def source(self) -> str:
        """Its source, from which workers load it."""
        return f"/models/{self.name}/{self.revision}" if self.name else DEFAULT_SOURCE


class SimulatedDevices(Struct, frozen=True, kw_only=True):
    """The models of a history, and the devices that hold them."""

    default: SimulatedModel = SimulatedModel()
    others: tuple[SimulatedModel, ...] = ()
    size: int = 3
    """GiB of memory of each device."""
    is_measured: bool = False
    """Workers know how much of it is free."""
    max_models: int = 0

    @property
    def all_models(self) -> tuple[SimulatedModel, ...]:
        """All models."""
        return (self.default, *self.others)

    @property
    def has_room_for_preloads(self) -> bool:
        """Each device has room for the default model and all that are preloaded."""
        preloaded = sum(model.size for model in self.others if model.preload)
        return self.default.size + preloaded <= self.size

    def model(self, source: str) -> SimulatedModel:
        """Return the model with a source, of whatever revision."""
        name = "" if source == DEFAULT_SOURCE else source.split("/")[2]
        return next(model for model in self.all_models if model.name == name)


def model_config(model: SimulatedModel) -> NamedModelConfig:
    """Return the configuration of a model."""
    if model.is_endpoint:
        return NamedModelConfig(
            name=model.name, endpoint=f"http://localhost/{model.revision}", endpoint_model="llm"
        )
    if model.is_for_text:
        return NamedModelConfig(name=model.name, source=model.source, engine="ctranslate2")
    return NamedModelConfig(
        name=model.name, source=model.source, tasks=("transcribe", "translate"), preload=model.preload
    )


class _Residence:
    """In the place of `IdleUnload`: the memory that a model takes."""

    def __init__(self, device: SimulatedResidentModels, model: SimulatedModel) -> None:
        self._device = device
        self._model = model
        self._users = 0
        self.is_loaded = False
        self.take()

    def take(self) -> None:
        if self._model.size > self._device.free_gib:
            raise RuntimeError("CUDA failed with error out of memory")
        self._device.free_gib -= self._model.size
        self.is_loaded = True

    @contextmanager
    def hold(self) -> Iterator[float]:
        load_s = 0.0
        if not self.is_loaded:
            self.take()
            load_s = self._model.load_s
        self._users += 1
        try:
            yield load_s
        finally:
            self._users -= 1

    def unload(self) -> bool:
        if self._users:
            return False
        if self.is_loaded:
            self._device.free_gib += self._model.size
            self.is_loaded = False
        return True


class SimulatedResidentModels(ResidentModels):
    """The models of one worker process."""

    def __init__(self, history: History, engine: EngineSettings) -> None:
        """Load the default model."""
        self._devices = history.devices
        self.free_gib = self._devices.size
        super().__init__(self._load_simulated(engine), self._load_simulated)

    def free_bytes(self) -> int | None:
        """Return the free memory, where it is measured."""
        return self.free_gib * GIB if self._devices.is_measured else None

    def _unload_unused(self, name: str) -> bool:
        """Unload a model without waiting: nothing else happens meanwhile."""
        return self._unload(name)

    def unload_one_idle(self, name: str) -> bool:
        """Free the memory of a model, which stays the worker's, as after the idle timeout; return whether it was freed."""
        model = self._held[name]
        if name in self._kept or (name and not model.settings.idle_unload_s):
            return False
        return model.residence.is_loaded and model.residence.unload()

    def _load_simulated(self, settings: EngineSettings) -> LoadedModel:
        model = self._devices.model(settings.model)
        if model.is_broken:
            raise ModelLoadError(f"{settings.model}: no weights", ExitCode.FATAL)
        try:
            residence: Any = _Residence(self, model)
        except RuntimeError as error:
            raise ModelLoadError(f"cuda: {error}", ExitCode.CUDA) from error
        engine: Any = SimpleNamespace(batch_size=None, languages=("en",))
        return LoadedModel(
            settings=settings,
            device="cuda",
            engine=engine,
            residence=residence,
            compute_type="float16",
            digest=DIGEST,
            load_s=model.load_s,
            memory_bytes=model.size * GIB if self._devices.is_measured else 0,
        )
