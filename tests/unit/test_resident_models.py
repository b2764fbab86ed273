"""Which models a worker unloads for another one, with loaders and memory that follow a script."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from subtitled.asr.idle_unload import IdleUnload
from subtitled.core.protocol import EngineSettings, Transcribe
from subtitled.errors import ExitCode
from subtitled.workers.model_loader import LoadedModel, ModelLoadError
from subtitled.workers.resident_models import ModelUse, ResidentModels

GIB = 2**30


class Device:
    """A device with so much memory; each model takes what its name says, "3" for 3 GiB."""

    def __init__(self, size: int, *, is_measured: bool = True) -> None:
        self.size = size
        self.is_measured = is_measured
        self.used: dict[str, int] = {}
        self.loads: list[str] = []

    def load(self, settings: EngineSettings) -> LoadedModel:
        """Return a model, or raise as CTranslate2 does if the memory is short."""
        need = int(settings.model[0])
        self.loads.append(settings.model)
        try:
            self._take(settings)
        except RuntimeError as error:
            raise ModelLoadError(f"cuda: {error}", ExitCode.CUDA) from error
        weights = SimpleNamespace(
            unload_model=lambda: self.used.pop(settings.model), load_model=lambda: self._take(settings)
        )
        engine: Any = SimpleNamespace(batch_size=4, languages=("en",), window_samples=480_000)
        return LoadedModel(
            settings=settings,
            device="cpu",
            engine=engine,
            residence=IdleUnload(weights, 1e-9),
            compute_type="int8",
            digest="",
            load_s=1.0,
            memory_bytes=need * GIB,
        )

    def _take(self, settings: EngineSettings) -> None:
        need = int(settings.model[0])
        if sum(self.used.values()) + need > self.size:
            raise RuntimeError("CUDA failed with error out of memory")
        self.used[settings.model] = need

    def free_bytes(self, _device: str) -> int | None:
        """Return the free memory, if it is measured."""
        return (self.size - sum(self.used.values())) * GIB if self.is_measured else None


@pytest.fixture(params=[True, False], ids=["measured", "unmeasured"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    """Return a device of 8 GiB, with and without a measurement of its free memory."""
    made = Device(8, is_measured=request.param)
    monkeypatch.setattr("subtitled.asr.memory.free_bytes", made.free_bytes)
    return made


def order(model: str, *may_evict: str, source: str = "", **more: Any) -> Transcribe:
    """Return a lease of a model that has to be loaded."""
    engine = EngineSettings(model=source or model) if model else None
    return Transcribe(
        lease=1,
        items=(),
        word_timestamps="auto",
        model=model,
        is_load=True,
        engine=engine,
        may_evict=may_evict,
        **more,
    )


def resident(device: Device) -> ResidentModels:
    """Return a worker's models: the default takes 3 GiB."""
    return ResidentModels(device.load(EngineSettings(model="3-default")), device.load)


def use(models: ResidentModels, lease: Transcribe) -> ModelUse:
    """Return the model of a lease that is answered at once."""
    used = models.use(lease)
    used.pin.close()
    return used


def test_models_stay_as_long_as_there_is_room(device: Device) -> None:
    models = resident(device)
    assert use(models, order("4-a", "")).evicted == ()
    assert set(device.used) == {"3-default", "4-a"}


def test_models_are_unloaded_in_the_given_order_as_long_as_memory_is_short(device: Device) -> None:
    models = resident(device)
    use(models, order("4-a"))
    assert use(models, order("4-b", "4-a", "")).evicted == ("4-a",)
    assert set(device.used) == {"3-default", "4-b"}
    assert use(models, order("7-c", "4-b", "")).evicted == ("4-b", "")
    assert set(device.used) == {"7-c"}
    assert use(models, order("", "7-c")).evicted == ("7-c",)


def test_model_that_does_not_fit_is_a_fault_of_the_model(device: Device) -> None:
    models = resident(device)
    with pytest.raises(ModelLoadError, match="out of memory") as error:
        use(models, order("9-huge", ""))
    assert error.value.is_out_of_memory
    assert error.value.evicted == ("",)
    use(models, order(""))
    assert set(device.used) == {"3-default"}, "it loads again what it had"


def test_model_that_may_not_go_stays(device: Device) -> None:
    models = resident(device)
    with pytest.raises(ModelLoadError, match="out of memory"):
        use(models, order("6-a"))
    assert set(device.used) == {"3-default"}


def test_model_in_use_is_not_unloaded(device: Device) -> None:
    models = resident(device)
    default = use(models, Transcribe(lease=1, items=(), word_timestamps="auto")).model
    with default.residence.hold(), pytest.raises(ModelLoadError, match="out of memory"):
        use(models, order("6-a", ""))
    assert use(models, order("6-a", "")).evicted == ("",)


def test_model_that_is_held_is_not_loaded_again_unless_its_settings_change(device: Device) -> None:
    models = resident(device)
    use(models, order("a", source="2-a"))
    again = use(models, order("a", source="2-a"))
    assert again.loaded is not None
    assert again.loaded.load_s == 0, "nothing was loaded"
    use(models, order("a", source="3-a"))
    assert device.loads == ["3-default", "2-a", "3-a"]
    assert set(device.used) == {"3-default", "3-a"}


def test_model_with_other_settings_waits_until_the_old_one_is_not_used(device: Device) -> None:
    """A lease of an earlier session may still be decoded when another daemon has another model of that name."""
    models = resident(device)
    old = models.use(order("a", source="2-a"))
    releasing = threading.Timer(0.3, old.pin.close)
    releasing.start()
    assert use(models, order("a", source="3-a")).model.settings.model == "3-a"
    releasing.join()
    assert set(device.used) == {"3-default", "3-a"}


def test_lease_is_refused_if_the_old_model_stays_in_use(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subtitled.workers.resident_models.IN_USE_S", 0.0)
    models = resident(device)
    old = models.use(order("a", source="2-a"))
    with pytest.raises(ModelLoadError, match="other settings"):
        use(models, order("a", source="3-a"))
    old.pin.close()
    assert use(models, order("a", source="3-a")).model.settings.model == "3-a"


def test_lease_of_an_unknown_model_is_refused(device: Device) -> None:
    unknown = Transcribe(lease=1, items=(), word_timestamps="auto", model="x")
    with pytest.raises(ModelLoadError, match="'x' is unknown"):
        use(resident(device), unknown)


def test_idle_model_is_loaded_again_in_place_of_others(device: Device) -> None:
    """Another model, or another program, may have taken its memory since."""
    models = resident(device)
    assert list(models.unload_idle()) == [""]
    use(models, order("6-a"))
    again = models.use(Transcribe(lease=2, items=(), word_timestamps="auto", may_evict=("6-a",)))
    assert (again.evicted, again.loaded) == (("6-a",), None)
    assert set(device.used) == {"3-default"}


def test_idle_model_that_has_no_room_any_more_is_a_fault_of_the_model(device: Device) -> None:
    models = resident(device)
    assert list(models.unload_idle()) == [""]
    use(models, order("6-a"))
    with pytest.raises(ModelLoadError, match="out of memory"):
        use(models, Transcribe(lease=2, items=(), word_timestamps="auto"))
    assert models.names == ("6-a",)


def test_freed_model_is_loaded_again_by_the_next_lease(device: Device) -> None:
    models = resident(device)
    use(models, order("4-a", is_kept=True))
    assert models.free("")
    assert models.free("4-a")
    assert models.free("4-a"), "it is not in memory"
    assert not device.used
    assert use(models, order("")).loaded is not None
    assert set(device.used) == {"3-default"}


def test_kept_model_is_not_unloaded_when_it_is_idle(device: Device) -> None:
    models = resident(device)
    use(models, order("4-a", is_kept=True))
    assert list(models.unload_idle()) == [""]
    use(models, order("4-a"))
    assert list(models.unload_idle()) == ["4-a"]


def test_held_model_is_kept_or_no_longer_kept_on_request(device: Device) -> None:
    models = resident(device)
    models.keep("", is_kept=True)
    assert not list(models.unload_idle())
    models.keep("", is_kept=False)
    assert list(models.unload_idle()) == [""]
