"""What a transcribe worker passes to its model, and what it sends, with a model that decodes nothing."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from subtitled.asr.engine import OutOfMemoryError
from subtitled.asr.idle_unload import IdleUnload
from subtitled.asr.model import load
from subtitled.asr.progress import report_step
from subtitled.asr.prompts import PromptRequest
from subtitled.core.protocol import (
    AbandonLease,
    Drain,
    EngineSettings,
    FromWorker,
    Heartbeat,
    LeaseAbandoned,
    LeaseItem,
    LeaseRefused,
    SegmentResult,
    TextItem,
    Transcribe,
    Transcribed,
    Translate,
    Translated,
)
from subtitled.core.records import SegmentKey
from subtitled.core.translation import SentenceTranslation, TranslationRequest
from subtitled.errors import ExitCode
from subtitled.workers.model_loader import LoadedModel, load_model
from subtitled.workers.resident_models import ResidentModels
from subtitled.workers.transcribe import TranscribeRole

WAIT_S = 60


class Port:
    """Keeps what the role sends."""

    def __init__(self) -> None:
        self.sent: queue.SimpleQueue[FromWorker] = queue.SimpleQueue()
        self.codes: queue.SimpleQueue[ExitCode] = queue.SimpleQueue()

    def post(self, message: FromWorker, blobs: Sequence[Any] = ()) -> None:
        """Keep a message."""
        assert not blobs
        self.sent.put(message)

    def answer(self) -> FromWorker:
        """Return the next message that is not a heartbeat."""
        while isinstance(message := self.sent.get(timeout=WAIT_S), Heartbeat):
            pass
        return message

    def stop(self, code: ExitCode) -> None:
        """Keep the exit code."""
        self.codes.put(code)


class Role:
    """A transcribe role whose model finds silence; keeps the requests that its model receives."""

    def __init__(self, *, is_refusing: bool = False, is_abandoning: bool = False) -> None:
        self.is_refusing = is_refusing
        self.is_abandoning = is_abandoning
        self.requests: list[PromptRequest] = []
        self.port = Port()
        loaded = self._load(EngineSettings(model="default"))
        self._role = TranscribeRole(self.port, loaded, ResidentModels(loaded, self._load))

    def lease(self, *languages: str | None, **more: Any) -> list[FromWorker]:
        """Send a lease with a segment of each language; return all messages up to its answer."""
        items = tuple(
            LeaseItem(key=SegmentKey("a", index), language=language, task="transcribe")
            for index, language in enumerate(languages)
        )
        message = Transcribe(lease=1, items=items, word_timestamps="auto", **more)
        self._role.receive(message, [memoryview(bytes(2)) for _ in items])
        messages = [self.port.sent.get(timeout=WAIT_S)]
        while isinstance(messages[-1], Heartbeat):
            messages.append(self.port.sent.get(timeout=WAIT_S))
        return messages

    def drain(self) -> ExitCode:
        """End the role; return its exit code."""
        self._role.receive(Drain(), ())
        return self.port.codes.get(timeout=WAIT_S)

    def _load(self, settings: EngineSettings) -> LoadedModel:
        weights = SimpleNamespace(unload_model=lambda: None, load_model=lambda: None)
        engine: Any = SimpleNamespace(
            batch_size=4,
            languages=("de", "en"),
            window_samples=480_000,
            features=lambda _: np.zeros((80, 1), dtype=np.float32),
            transcribe=self._transcribe,
        )
        return LoadedModel(
            settings=settings,
            device="cpu",
            engine=engine,
            residence=IdleUnload(weights, 0.0),
            compute_type="int8",
            digest="",
            load_s=1.0,
        )

    def _transcribe(
        self, _features: object, requests: Sequence[PromptRequest], **_: object
    ) -> list[SegmentResult]:
        self.requests += requests
        if self.is_abandoning:
            self._role.receive(AbandonLease(lease=1), ())
            report_step()
        if self.is_refusing:
            raise OutOfMemoryError("out of memory")
        silence = SegmentResult(phrases=(), language="", language_probability=0.0, is_speech=False)
        return [silence for _ in requests]


def test_language_of_each_segment_reaches_the_model() -> None:
    """Each part of a segment in "multi" has a language of its own, which the model detects."""
    role = Role()
    assert isinstance(role.lease("de", "multi", None, "a language of one model")[-1], Transcribed)
    assert [request.language for request in role.requests] == ["de", "multi", None, None]
    assert role.drain() is ExitCode.OK


@pytest.mark.parametrize("is_load", [True, False])
def test_end_of_a_load_is_reported_before_the_answer(is_load: bool) -> None:
    """Without it, a segment that ends the process counts as a load that failed."""
    role = Role()
    engine = EngineSettings(model="big")
    more = {"model": "big", "engine": engine, "is_load": True} if is_load else {}
    *progress, answer = role.lease("de", **more)
    steps = [[one.steps for one in sent.leases] for sent in progress if isinstance(sent, Heartbeat)]
    assert steps == ([[1]] if is_load else [])
    assert isinstance(answer, Transcribed)
    assert role.drain() is ExitCode.OK


@pytest.mark.parametrize("is_abandoned", [True, False])
def test_lease_without_a_result_reports_the_models_that_were_loaded_and_unloaded(is_abandoned: bool) -> None:
    """Else the daemon would lease an unloaded one, and could not unload the new one for another."""
    role = Role(is_refusing=True, is_abandoning=is_abandoned)
    engine = EngineSettings(model="big")
    *_, answer = role.lease("de", model="big", engine=engine, is_load=True, evict=("",))
    assert isinstance(answer, LeaseAbandoned if is_abandoned else LeaseRefused)
    assert answer.loaded is not None
    assert (answer.loaded.name, answer.evicted) == ("big", ("",))
    assert role.drain() is ExitCode.OK


def test_worker_with_the_bundled_models_transcribes_and_translates() -> None:
    port = Port()
    load_one = partial(load_model, device="cpu", cpu_threads=1, wants_digest=True, load=load)
    loaded = load_one(EngineSettings(model="demo"))
    role = TranscribeRole(port, loaded, ResidentModels(loaded, load_one))
    request = TranslationRequest(source="en", target="zh", sentences=("Goodbye.", "Thank you for listening."))
    item = TextItem(key=SegmentKey("a", 0), request=request)
    engine = EngineSettings(kind="ctranslate2", model="demo-translation", beam_size=5, batch_size=0)
    role.receive(Translate(lease=1, items=(item,), model="text", is_load=True, engine=engine), ())
    answer = port.answer()
    assert isinstance(answer, Translated)
    assert answer.loaded is not None
    assert (answer.loaded.name, answer.loaded.languages) == ("text", ())
    assert answer.loaded.memory_bytes > 0
    assert len(answer.loaded.digest) == 64
    [result] = answer.results
    assert (result.key, result.engine, result.version) == (
        item.key,
        "ctranslate2",
        "demo-translation, int8_float32",
    )
    assert result.sentences == (
        SentenceTranslation(text="再见。"),
        SentenceTranslation(text="谢谢收听。"),
    )
    for wrong in (
        Translate(lease=2, items=(item,)),
        Transcribe(lease=3, items=(), word_timestamps="auto", model="text"),
        Translate(
            lease=4,
            items=(item,),
            model="speech",
            is_load=True,
            engine=EngineSettings(model="demo-translation"),
        ),
        Translate(
            lease=5,
            items=(item,),
            model="speech",
            is_load=True,
            engine=EngineSettings(kind="ctranslate2", model="demo"),
        ),
    ):
        role.receive(wrong, ())
        refused = port.answer()
        assert isinstance(refused, LeaseRefused)
        assert refused.lease == wrong.lease
        assert "translate text" in refused.cause or "translates text" in refused.cause
        assert refused.is_model_fault == wrong.is_load
    role.receive(Drain(), ())
    assert port.codes.get(timeout=WAIT_S) is ExitCode.OK
