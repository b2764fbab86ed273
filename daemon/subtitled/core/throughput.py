"""The throughput of a worker, learned from the leases that it has finished."""

from __future__ import annotations

from msgspec import Struct

LEASES = 16
"""Weight of the past: each lease counts for one sixteenth."""
FIXED_WINDOWS = 2.2
"""Fixed cost of a call, in windows, assumed while a worker has only had leases of one size.

speaches' figures for large-v3-turbo on an RTX 3090: 0.70 s for one window, 2.22 s for eight (`benchmarks/pool.py`).
"""


class Throughput(Struct, frozen=True, kw_only=True):
    """A least-squares line through the sizes and times of leases: a fixed cost, and a cost for each window, full or not.

    So a worker that was given small leases does not look slow.
    """

    leases: int = 0
    """Leases that it was learned from; 0: nothing is known."""
    mean_windows: float = 0.0
    mean_s: float = 0.0
    s_per_window: float = 0.0
    """Seconds for each window beyond the fixed cost of a lease."""
    variance: float = 0.0
    covariance: float = 0.0

    def after(self, windows: int, took_s: float) -> Throughput:
        """Return the throughput after one more lease.

        The first may include one-time work, such as compiling kernels: a faster second one replaces it.
        """
        count = self.leases + 1
        is_first = count == 1 or (count == 2 and took_s < self.seconds(windows))
        weight = 1.0 if is_first else 1 / min(count, LEASES)
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
            mean_s=mean_s,
            s_per_window=min(max(slope, usual / 4), mean_s / mean_windows),
            variance=variance,
            covariance=covariance,
        )

    def seconds(self, windows: float) -> float:
        """Return the seconds for a lease of so many windows."""
        return self.mean_s + (windows - self.mean_windows) * self.s_per_window

    def least_windows_within(self, seconds: float) -> int:
        """Return the windows of a lease that takes so many seconds even if a lease has no fixed cost."""
        return int(seconds * self.mean_windows / self.mean_s)

    def windows_within(self, seconds: float, batch_size: int) -> int:
        """Return the windows decoded in so many seconds, in leases of at most `batch_size`."""
        batch_s = self.seconds(batch_size)
        batches = max(0, int(seconds / batch_s))
        left_s = seconds - batches * batch_s
        more = int((left_s - self.seconds(0)) / self.s_per_window)
        return batches * batch_size + max(0, more)
