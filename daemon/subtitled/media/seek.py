"""Stretches of a media file's audio, wherever they lie in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.plan import AudioSource
from subtitled.media.decode import Decoder, open_media

WARM_SAMPLES = SAMPLE_RATE // 2
"""Decoded before what is wanted: codecs lean on what was before (the bit reservoir of MP3, the overlap of AAC, 80 ms of Opus)."""
_LEADS = (SAMPLE_RATE, 4 * SAMPLE_RATE, 16 * SAMPLE_RATE)
"""Distance from the requested position to the position that is sought: an index may have no nearer entry, or lead slightly too far."""
MAX_DRIFT_MS = 20
"""Largest error of a position: too small to notice beside a cue."""
_AHEAD_SAMPLES = 10 * SAMPLE_RATE
"""A position at most this far ahead is reached by decoding, not by seeking."""


class RangeDecoder:
    """One media file; a context manager. What follows what was read last is read on without a gap.

    A place is found by the file's timestamps; where those are not even, by decoding from the beginning. `source` and
    `language` choose what is decoded, as in `open_media`. All raise MediaError.
    """

    def __init__(
        self,
        path: str,
        *,
        source: AudioSource | None = None,
        language: str | None = None,
        drift_ms: int = 0,
        root: str | None = None,
    ) -> None:
        """`drift_ms`: as the whole file's decoding has shown it (`Decoder.drift_ms`)."""
        self._is_even = drift_ms <= MAX_DRIFT_MS
        self._open_media = partial(open_media, path, source=source, language=language, root=root)
        self._decoder: Decoder | None = None
        self._blocks: Iterator[NDArray[np.int16]] = iter(())
        self._at = 0
        """The decoded sample that `_held` begins with."""
        self._held = np.empty(0, np.int16)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; may be repeated."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def read(self, start: int, samples: int) -> NDArray[np.int16]:
        """Return the decoded samples from `start` on (int16 (n,), 16 kHz mono), fewer where the audio ends."""
        ahead = start - self._at - len(self._held)
        if self._decoder is None or start < self._at or (ahead > _AHEAD_SAMPLES and self._is_even):
            self._go(start)
        parts: list[NDArray[np.int16]] = []
        wanted = samples
        while True:
            skipped = min(start - self._at, len(self._held))
            part = self._held[skipped : skipped + wanted] if self._at + skipped == start else self._held[:0]
            self._held = self._held[skipped + len(part) :]
            self._at += skipped + len(part)
            start += len(part)
            wanted -= len(part)
            parts.append(part)
            if not wanted or (block := next(self._blocks, None)) is None:
                return np.concatenate(parts)
            self._held = block

    def _go(self, start: int) -> None:
        """Have the next blocks begin before `start`, far enough for the decoder to be warm by then."""
        self._held = self._held[:0]
        if self._decoder is None:
            self._open()
        for lead in _LEADS:
            if start <= lead or self._decoder is None or not self._is_even:
                break
            at = self._decoder.seek(start - lead)
            if at is None:
                break
            if at <= start - WARM_SAMPLES:
                self._blocks, self._at = iter(self._decoder), at
                return
        self.close()
        self._open()

    def _open(self) -> None:
        self._decoder = self._open_media()
        self._blocks, self._at = iter(self._decoder), 0
