"""Samples to log-mel frames, equal to those of faster-whisper over digital silence (a test holds them equal).

Frames are kept as log10 of mel power until a window is composed: two sounds, one after the other, are then the larger
of both, and noise is added as power.  faster-whisper's floor and range come last (``normalised``).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

MELS = 80
LEAD = 2
"""Frames before the first sample that hear it already."""
FLOOR = -10.0
"""log10 of the smallest power."""

Frames = npt.NDArray[np.float32]


@cache
def _bank() -> npt.NDArray[np.float32]:
    from faster_whisper.feature_extractor import FeatureExtractor

    return np.asarray(FeatureExtractor(feature_size=MELS).mel_filters, np.float32)


def log_power(samples: npt.NDArray[np.float32]) -> Frames:
    """Return [frames, 80] log10 mel power, 100 frames a second, of a sound between silences.

    The first sample is in the middle of frame ``LEAD``.
    """
    window = np.hanning(401)[:-1].astype(np.float32)
    frames = LEAD + -(-(len(samples) + 200) // 160)
    padded = np.zeros(frames * 160 + 800, np.float32)
    padded[520 : 520 + len(samples)] = samples
    pieces = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160][:frames] * window
    power = np.abs(np.fft.rfft(pieces, axis=-1)).astype(np.float32) ** 2
    return np.asarray(np.log10(np.maximum(power @ _bank().T, 10.0**FLOOR)), np.float32)


def added(frames: Frames, other: Frames) -> Frames:
    """Return the frames of two sounds that sound at once, and have nothing to do with one another."""
    return np.asarray(np.logaddexp(frames * 2.302585, other * 2.302585) / 2.302585, np.float32)


def normalised(frames: Frames, headroom: float = 0.0) -> Frames:
    """Return what the network hears: at most 8 below the loudest (``headroom``: louder, elsewhere), about -1 to 1."""
    loudest = float(frames.max()) + headroom
    return np.asarray((np.maximum(np.maximum(frames, FLOOR), loudest - 8.0) + 4.0) / 4.0, np.float32)
