"""How long a worker takes for a lease, learned from those that it has answered."""

from __future__ import annotations

from msgspec import Struct

MEMORY = 16
"""Leases that count: each further one takes the place of a sixteenth of what was learned before."""
FIXED_WINDOWS = 2.2
"""What a call costs beyond its segments, in windows, while a worker has only had leases of one size.

speaches' figures for large-v3-turbo on an RTX 3090: 0.70 s for one window, 2.22 s for eight (`benchmarks/pool.py`).
"""


class Throughput(Struct, frozen=True, kw_only=True):
    """A line through the sizes and times of leases: a call has its fixed cost, and each window, full or not, its own.

    Least squares, so that a worker that was given small leases is not taken for a slow one.
    """

    leases: int = 0
    """How many it was learned from; of 0 nothing is known."""
    mean_windows: float = 0.0
    mean_samples: float = 0.0
    """The audio in a lease: for people, who count in that."""
    mean_s: float = 0.0
    s_per_window: float = 0.0
    """What each window takes beyond the fixed cost of a lease."""
    variance: float = 0.0
    covariance: float = 0.0

    def after(self, windows: int, took_s: float, *, samples: int) -> Throughput:
        """Return what is known after one lease more.

        The first may hold what is done only once, as kernels are compiled: a faster second one takes its place.
        """
        count = self.leases + 1
        is_first = count == 1 or (count == 2 and took_s < self.seconds(windows))
        weight = 1.0 if is_first else 1 / min(count, MEMORY)
        off, off_s = windows - self.mean_windows, took_s - self.mean_s
        mean_windows = self.mean_windows + weight * off
        mean_s = self.mean_s + weight * off_s
        variance = (1 - weight) * (self.variance + weight * off * off)
        covariance = (1 - weight) * (self.covariance + weight * off * off_s)
        usual = mean_s / (mean_windows + FIXED_WINDOWS)
        # The usual share of the fixed cost counts as much as leases whose sizes differ by one.
        slope = (covariance + usual) / (variance + 1)
        return Throughput(
            leases=count,
            mean_windows=mean_windows,
            mean_samples=self.mean_samples + weight * (samples - self.mean_samples),
            mean_s=mean_s,
            s_per_window=min(max(slope, usual / 4), mean_s / mean_windows),
            variance=variance,
            covariance=covariance,
        )

    @property
    def samples_per_s(self) -> float:
        """Audio done in a second, in leases as they came; 0 while nothing is known."""
        return self.mean_samples / self.mean_s if self.leases else 0.0

    def seconds(self, windows: float) -> float:
        """Return how long a lease of so many windows takes."""
        return self.mean_s + (windows - self.mean_windows) * self.s_per_window

    def windows_within(self, seconds: float, batch_size: int) -> int:
        """Return how many windows are done in so many seconds, in leases of at most `batch_size`."""
        batch_s = self.seconds(batch_size)
        batches = max(0, int(seconds / batch_s))
        left_s = seconds - batches * batch_s
        more = int((left_s - self.seconds(0)) / self.s_per_window)
        return batches * batch_size + max(0, more)
