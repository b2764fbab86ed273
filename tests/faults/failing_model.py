"""A model that fails by plan: the real one, with its native part behind a gate."""

from __future__ import annotations

import os
import resource
import signal
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

import subtitled.asr.model
from subtitled.errors import ModelError

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from numpy.typing import NDArray

    from faults.planned_faults import ModelFault, PlannedFaults

RATE = 16_000
MARK_HZ = 7900.0
"""In the highest mel band, where the demo recordings are quiet."""
MARK_LEVEL = 0.45
"""Above any value of that band without a mark, below all with one (0.50)."""
MARK_FRAMES = 20

ERRORS = {
    # As CTranslate2 words them.
    "cuda": "CUDA failed with error an illegal memory access was encountered",
    "memory": "CUDA failed with error out of memory",
}


def mark(pcm: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return `pcm`, int16 (n,) at 16 kHz mono, with a soft high tone by which the gate knows it."""
    tone = 800 * np.sin(2 * np.pi * MARK_HZ / RATE * np.arange(len(pcm)))
    return np.asarray(np.clip(pcm + tone, -32_768, 32_767), np.int16)


class Batch(threading.local):
    """The windows that one thread has encoded since it last decoded."""

    is_marked = False
    is_decoded = False


class FailingWhisper:
    """In the place of CTranslate2's Whisper model: each call goes through to it, unless the plan says otherwise."""

    def __init__(self, whisper: Any, plan: PlannedFaults) -> None:
        self._whisper = whisper
        self._plan = plan
        self._batch = Batch()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whisper, name)

    def encode(self, features: Any, *args: Any, **kwargs: Any) -> Any:
        """Note whether a marked segment is in the batch, and encode it; a CPU gets its windows one by one."""
        highest = np.asarray(features)[:, -1, :]
        is_marked = bool(((highest > MARK_LEVEL).sum(axis=1) >= MARK_FRAMES).any())
        self._batch.is_marked = is_marked or (self._batch.is_marked and not self._batch.is_decoded)
        self._batch.is_decoded = False
        self._strike("encode", len(highest))
        return self._whisper.encode(features, *args, **kwargs)

    def generate(self, encoded: Any, prompts: Any, **kwargs: Any) -> Any:
        """Decode."""
        self._batch.is_decoded = True
        fault = self._plan.strike_model("generate", len(prompts), is_marked=self._batch.is_marked)
        if fault is not None and fault.kind == "no_text":
            return [SimpleNamespace(sequences_ids=[[]], scores=[0.0], no_speech_prob=0.0) for _ in prompts]
        _suffer(fault, self._plan)
        return self._whisper.generate(encoded, prompts, **kwargs)

    def align(self, encoded: Any, start: Any, texts: Any, *args: Any, **kwargs: Any) -> Any:
        """Align."""
        self._strike("align", len(texts))
        return self._whisper.align(encoded, start, texts, *args, **kwargs)

    def _strike(self, call: str, batch: int) -> None:
        _suffer(self._plan.strike_model(call, batch, is_marked=self._batch.is_marked), self._plan)


def _suffer(fault: ModelFault | None, plan: PlannedFaults) -> None:
    if fault is None:
        return
    if fault.kind == "death":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault.kind == "hang":
        threading.Event().wait()
    if fault.kind == "wait":
        plan.wait_for_change(fault)
        return
    if fault.kind == "model":
        raise ModelError("the model is gone")
    raise RuntimeError(ERRORS[fault.kind])


def load_faulty(plan: PlannedFaults, name: str, *, compute_type: str, cpu_threads: int) -> WhisperModel:
    """Load a model on the CPU, whatever device it is meant for, and put the gate before its native part."""
    _suffer(plan.strike_model("load", 1, is_marked=False), plan)
    model = subtitled.asr.model.load(name, device="cpu", compute_type=compute_type, cpu_threads=cpu_threads)
    if hasattr(model, "model"):  # no translation model
        model.model = FailingWhisper(model.model, plan)
    return model
