"""What a room and a line do to speech, and sounds that are no speech at all; float32 at 16 kHz."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from demo_model.espeak import RATE

Samples = npt.NDArray[np.float32]
Quiet = Literal["silence", "white", "pink", "brown", "hum", "tone", "beeps", "chord", "sweep", "clicks"]
QUIET: tuple[Quiet, ...] = get_args(Quiet)
"""The sounds that are no speech, in which nobody should hear a word."""


LOUDNESS = 0.08
"""RMS of speech before it is given a level of its own."""


def levelled(samples: Samples) -> Samples:
    """Return speech at LOUDNESS."""
    return samples * np.float32(LOUDNESS / np.sqrt(np.mean(samples**2)))


def coloured(samples: Samples, rng: np.random.Generator) -> Samples:
    """Return speech as it might arrive: a quarter each low-passed, tilted, and with a short reverberation."""
    from scipy import signal

    out = samples.astype(np.float64)
    if rng.random() < 0.25:
        b, a = signal.butter(2, rng.uniform(2800, 7000) / (RATE / 2))
        out = signal.lfilter(b, a, out)
    if rng.random() < 0.25:
        out = signal.lfilter([1, -rng.uniform(-0.5, 0.5)], [1], out)
    if rng.random() < 0.25:
        n = int(RATE * rng.uniform(0.08, 0.3))
        room = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n) * rng.uniform(0.02, 0.12)
        room[0] = 1.0
        out = signal.fftconvolve(out, room)
    return out.astype(np.float32)


def _noise(rng: np.random.Generator, n: int, slope: float) -> npt.NDArray[np.float64]:
    """Return noise whose spectrum falls as frequency to the power of minus ``slope``."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum /= np.maximum(np.arange(len(spectrum)), n / RATE) ** slope
    return np.fft.irfft(spectrum, n)


def quiet(kind: Quiet, rng: np.random.Generator, seconds: float) -> Samples:
    """Return a sound without speech, of RMS 1 (silence: of digital zeros)."""
    n = int(seconds * RATE)
    t = np.arange(n) / RATE
    x: npt.NDArray[np.float64]
    match kind:
        case "silence":
            return np.zeros(n, np.float32)
        case "white":
            x = rng.standard_normal(n)
        case "pink":
            x = _noise(rng, n, 0.5)
        case "brown":
            x = _noise(rng, n, 1.0)
        case "hum":
            mains, hiss = rng.choice([50.0, 60.0]), _noise(rng, n, 1.0)
            x = 0.1 * hiss / hiss.std() + sum(np.sin(2 * np.pi * mains * k * t + k) / k for k in range(1, 6))
        case "tone":
            x = np.sin(2 * np.pi * rng.uniform(100, 3000) * t)
        case "beeps":
            on = np.sin(2 * np.pi * rng.uniform(0.1, 3) * t) > rng.uniform(-0.9, 0.8)
            x = np.sin(2 * np.pi * rng.uniform(100, 3000) * t) * on
        case "chord":
            swell = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.1, 2) * t)
            x = swell * sum(rng.uniform(0.2, 1) * np.sin(2 * np.pi * f * t) for f in rng.uniform(80, 3000, 3))
        case "sweep":
            low, high, period = rng.uniform(80, 400), rng.uniform(800, 4000), rng.uniform(1, 8)
            x = np.sin(2 * np.pi * np.cumsum(low + (high - low) * (t / period % 1.0)) / RATE)
        case "clicks":
            x = np.zeros(n)
            x[rng.integers(0, n, max(1, int(seconds * rng.uniform(0.3, 8))))] = 1.0
    return np.asarray(x / (x.std() + 1e-9), np.float32)
