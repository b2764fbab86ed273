"""A file is refused whose decoding takes far more processor time than any real recording."""

from __future__ import annotations

import pytest

from subtitled.config.schema import SAMPLE_RATE
from subtitled.errors import MediaError
from subtitled.workers.prepare import SLOWEST_SPEED, SPEED_WINDOW_S, SpeedLimit


class ProcessorTime:
    """Processor time that a test spends."""

    def __init__(self) -> None:
        self.spent_s = 1000.0

    def __call__(self) -> float:
        """Return it, in seconds."""
        return self.spent_s


def decode(
    limit: SpeedLimit, clock: ProcessorTime, *, audio_s: float, speed: float, start_s: float = 0
) -> None:
    """Decode `audio_s` seconds of audio in steps of one second, at `speed` seconds for each second of processor time."""
    for second in range(1, int(audio_s) + 1):
        clock.spent_s += 1 / speed
        limit.check(int((start_s + second) * SAMPLE_RATE))


def test_file_that_is_decoded_slowly_but_steadily_is_accepted() -> None:
    clock = ProcessorTime()
    decode(SpeedLimit(clock), clock, audio_s=10 * SPEED_WINDOW_S, speed=SLOWEST_SPEED * 1.1)


def test_file_whose_decoding_is_below_the_slowest_speed_is_refused_after_one_window() -> None:
    clock = ProcessorTime()
    begun_s = clock.spent_s
    with pytest.raises(MediaError, match=r"took \d+ s of processor time, at most \d+ s are allowed"):
        decode(SpeedLimit(clock), clock, audio_s=10 * SPEED_WINDOW_S, speed=SLOWEST_SPEED * 0.9)
    assert SPEED_WINDOW_S <= clock.spent_s - begun_s < SPEED_WINDOW_S + 3


def test_fast_start_of_a_file_does_not_pay_for_a_slow_end() -> None:
    clock = ProcessorTime()
    limit = SpeedLimit(clock)
    fast_s = 100 * SPEED_WINDOW_S
    decode(limit, clock, audio_s=fast_s, speed=50)
    with pytest.raises(MediaError, match=r"convert it with ffmpeg"):
        decode(limit, clock, audio_s=fast_s, speed=0.01, start_s=fast_s)


def test_slow_moment_in_a_fast_file_is_accepted() -> None:
    clock = ProcessorTime()
    limit = SpeedLimit(clock)
    for minute in range(10):
        clock.spent_s += SPEED_WINDOW_S / 2
        limit.check(minute * 60 * SAMPLE_RATE)
        decode(limit, clock, audio_s=60, speed=20, start_s=minute * 60)
