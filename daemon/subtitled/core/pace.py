"""How long a worker takes for a lease, learned from those that it has answered."""

from __future__ import annotations

from msgspec import Struct

WINDOW_SAMPLES = 480_000
"""The longest segment: what Whisper sees at once."""
MEMORY = 16
"""Leases that count: each further one takes the place of a sixteenth of what was learned before."""
FIXED_WINDOWS = 2.2
"""What a call costs beyond its segments, in windows, while a worker has only had leases of one size.

speaches' figures for large-v3-turbo on an RTX 3090: 0.70 s for one window, 2.22 s for eight (`benchmarks/pool.py`).
"""


class Pace(Struct, frozen=True, kw_only=True):
    """A line through the leases' lengths and times: a call has its fixed cost, and each sample its own.

    Least squares, so that a worker that was given small leases is not taken for a slow one.
    """

    leases: int = 0
    """How many it was learned from; of 0 nothing is known."""
    mean_samples: float = 0.0
    mean_s: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0

    def after(self, samples: int, took_s: float) -> Pace:
        """Return what is known after one lease more."""
        count = self.leases + 1
        weight = 1 / min(count, MEMORY)
        off_samples, off_s = samples - self.mean_samples, took_s - self.mean_s
        return Pace(
            leases=count,
            mean_samples=self.mean_samples + weight * off_samples,
            mean_s=self.mean_s + weight * off_s,
            variance=(1 - weight) * (self.variance + weight * off_samples * off_samples),
            covariance=(1 - weight) * (self.covariance + weight * off_samples * off_s),
        )

    @property
    def s_per_sample(self) -> float:
        """What each sample takes beyond the fixed cost of a lease."""
        usual = self.mean_s / (self.mean_samples + FIXED_WINDOWS * WINDOW_SAMPLES)
        # The usual share of the fixed cost counts as much as leases that differ by a window.
        slope = (self.covariance + WINDOW_SAMPLES**2 * usual) / (self.variance + WINDOW_SAMPLES**2)
        most = self.mean_s / self.mean_samples
        return min(max(slope, usual / 4), most)

    def seconds(self, samples: float) -> float:
        """Return how long a lease of so much audio takes."""
        per_sample = self.s_per_sample
        return self.mean_s + (samples - self.mean_samples) * per_sample

    def windows_within(self, seconds: float, batch_size: int) -> int:
        """Return how many whole windows are done in so many seconds, in leases of at most `batch_size`."""
        batch_s = self.seconds(batch_size * WINDOW_SAMPLES)
        batches = max(0, int(seconds / batch_s))
        left_s = seconds - batches * batch_s
        more = int((left_s - self.seconds(0)) / (self.s_per_sample * WINDOW_SAMPLES))
        return batches * batch_size + max(0, more)
