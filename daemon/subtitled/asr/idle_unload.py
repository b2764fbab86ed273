"""Unloading an idle model, and loading it again for the next lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from subtitled.asr import memory


class IdleUnload:
    """Loads and unloads CTranslate2's model; may be used from several threads at once."""

    def __init__(self, model: Any, idle_unload_s: float) -> None:
        """`model` is loaded; `idle_unload_s` is 0 where it is to stay so."""
        self._model = model
        self._idle_unload_s = idle_unload_s
        self._lock = threading.Lock()
        self._users = 0
        self._is_loaded = True
        self._idle_since = time.monotonic()

    @property
    def wait_s(self) -> float | None:
        """How long a thread waits for work before it calls `leave`; None: without limit."""
        return self._idle_unload_s or None

    @property
    def is_loaded(self) -> bool:
        """The weights are in memory."""
        return self._is_loaded

    @contextmanager
    def hold(self) -> Iterator[float]:
        """Keep the model in memory; yields the seconds that loading took, 0 if it was loaded.

        Raises RuntimeError or MemoryError if memory is too short for it.
        """
        with self._lock:
            load_s = self._load() if not self._is_loaded else 0.0
            self._users += 1
        try:
            yield load_s
        finally:
            with self._lock:
                self._users -= 1
                self._idle_since = time.monotonic()

    def unload_if_idle(self) -> bool:
        """Free the model's memory if it was not used for long enough; return whether it was freed."""
        with self._lock:
            is_idle = not self._users and time.monotonic() - self._idle_since >= self._idle_unload_s
            if not (self._is_loaded and self._idle_unload_s and is_idle):
                return False
            self._model.unload_model()
            self._is_loaded = False
        memory.trim()
        return True

    def unload(self) -> bool:
        """Free the model's memory permanently, unless a thread uses it; return whether it is free."""
        with self._lock:
            if self._users:
                return False
            if self._is_loaded:
                self._model.unload_model()
                self._is_loaded = False
        memory.trim()
        return True

    def _load(self) -> float:
        started = time.monotonic()
        self._model.load_model()
        self._is_loaded = True
        return time.monotonic() - started
