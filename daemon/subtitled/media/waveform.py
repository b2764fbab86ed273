"""The waveform of a file: its peaks, coarse enough to be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from subtitled.config.schema import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTERVAL_MS = 100
MAX_PEAKS = 2**17
"""Maximum peaks of one file; a longer file has longer intervals, a day 700 ms."""
_INTERVAL_SAMPLES = INTERVAL_MS * SAMPLE_RATE // 1000


class WaveformBuilder:
    """The loudest sample of each interval, as one byte: 0 for silence, 255 for full scale.

    Fed block by block, whatever the blocks' lengths; takes 36 kB an hour.
    """

    def __init__(self) -> None:
        self._peaks = bytearray()
        self._rest = np.empty(0, np.int16)

    def feed(self, block: NDArray[np.int16]) -> None:
        """Take the next samples (`block`: int16 (n,), 16 kHz mono)."""
        samples = np.concatenate([self._rest, block])
        whole = len(samples) - len(samples) % _INTERVAL_SAMPLES
        if whole:
            self._peaks += _loudest(samples[:whole].reshape(-1, _INTERVAL_SAMPLES))
        self._rest = samples[whole:]

    def finish(self) -> tuple[int, bytes]:
        """Return the length of an interval in milliseconds, and the peaks, at most `MAX_PEAKS`; the last may be of less audio."""
        if len(self._rest):
            self._peaks += _loudest(self._rest.reshape(1, -1))
            self._rest = self._rest[:0]
        factor = -(-len(self._peaks) // MAX_PEAKS) or 1
        if factor == 1:
            return INTERVAL_MS, bytes(self._peaks)
        missing = -len(self._peaks) % factor
        padded = np.frombuffer(bytes(self._peaks) + bytes(missing), np.uint8)
        return INTERVAL_MS * factor, padded.reshape(-1, factor).max(axis=1).tobytes()


def _loudest(intervals: NDArray[np.int16]) -> bytes:
    """Return the peak of each row; what is not silence is at least 1."""
    highest, lowest = (bound.astype(np.int32) for bound in (intervals.max(axis=1), intervals.min(axis=1)))
    peaks = np.minimum((np.maximum(highest, -lowest) + 127) >> 7, 255)
    return bytes(peaks.astype(np.uint8))
