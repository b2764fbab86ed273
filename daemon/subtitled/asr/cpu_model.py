"""A Whisper model on a CPU: several calls at once with a thread or a few each, a single call with all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctranslate2.models import Whisper


class CpuModel:
    """In the place of CTranslate2's model, whose number of threads is fixed when it is loaded; so it is loaded twice.

    May be used in several threads. A call that begins while another one runs gets the threads of one stream.
    """

    def __init__(self, streams: Whisper, whole: Whisper) -> None:
        """`streams` runs several calls at once, `whole` one call with all threads."""
        self._streams = streams
        self._whole = whole
        self._lock = threading.Lock()
        self._calls = 0
        self.encode = self._divided("encode")
        self.generate = self._divided("generate")
        self.align = self._divided("align")
        self.detect_language = self._divided("detect_language")

    def __getattr__(self, name: str) -> Any:
        """Return a property of the model."""
        return getattr(self._streams, name)

    def load_model(self) -> None:
        """Load the weights again."""
        self._streams.load_model()
        self._whole.load_model()

    def unload_model(self) -> None:
        """Free the memory of the weights."""
        self._streams.unload_model()
        self._whole.unload_model()

    def _divided(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with self._lock:
                self._calls += 1
                model = self._whole if self._calls == 1 else self._streams
            try:
                return getattr(model, name)(*args, **options)
            finally:
                with self._lock:
                    self._calls -= 1

        return call
