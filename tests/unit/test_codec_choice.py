"""Which form audio takes on the wire, and what is known of a link."""

from __future__ import annotations

import pytest

from subtitled.core.protocol import WireCodec
from subtitled.workers.codec_choice import LEAST_BYTES, ROUND_TRIPS, LinkMeter, Mode, choose

MB = 1_000_000
GPU = 3.2 * MB
"""PCM that it takes in a second: 100 of audio."""


def sent(meter: LinkMeter, lease: int, size: int, now: float, *, packed: float = 1.0) -> None:
    meter.sent(lease, now, size=size, pcm_bytes=round(size / packed))


@pytest.mark.parametrize("current", ["pcm", "flac"])
@pytest.mark.parametrize(
    ("mbit", "form"), [(10_000, "pcm"), (1_000, "pcm"), (50, "flac"), (10, "flac"), (1, "flac")]
)
def test_link_that_pcm_would_use_by_half_gets_flac(mbit: int, form: WireCodec, current: WireCodec) -> None:
    assert choose("auto", current, link_bytes_per_s=mbit * MB / 8, pcm_bytes_per_s=GPU) == form


def test_slow_worker_on_a_slow_link_gets_pcm() -> None:
    """What it takes in, not what the link carries, is the measure."""
    assert choose("auto", "flac", link_bytes_per_s=MB, pcm_bytes_per_s=MB / 6) == "pcm"


@pytest.mark.parametrize("current", ["pcm", "flac"])
def test_between_the_bounds_the_codec_is_kept(current: WireCodec) -> None:
    for share in (0.26, 0.3, 0.4, 0.49):
        link = GPU / share
        assert choose("auto", current, link_bytes_per_s=link, pcm_bytes_per_s=GPU) == current


@pytest.mark.parametrize("current", ["pcm", "flac"])
@pytest.mark.parametrize(("link", "speed"), [(None, None), (None, GPU), (MB, None), (0.0, GPU), (MB, 0.0)])
def test_unknown_speed_changes_nothing(current: WireCodec, link: float | None, speed: float | None) -> None:
    assert choose("auto", current, link_bytes_per_s=link, pcm_bytes_per_s=speed) == current


@pytest.mark.parametrize("mode", ["pcm", "flac"])
def test_configured_codec_is_used(mode: Mode) -> None:
    for link in (None, 1.0, 1e12):
        for current in ("pcm", "flac"):
            assert choose(mode, current, link_bytes_per_s=link, pcm_bytes_per_s=GPU) == mode


def test_link_speed_is_measured_without_the_round_trip() -> None:
    meter = LinkMeter()
    meter.echoed(0.1)
    sent(meter, 1, 2 * MB, 10.0)
    assert meter.bytes_in_flight == 2 * MB
    assert meter.received(1, 12.1)
    assert meter.bytes_per_s == pytest.approx(MB)
    assert meter.bytes_in_flight == 0


def test_the_mean_follows_a_link_that_changes() -> None:
    meter = LinkMeter()
    rates = []
    for lease, rate in enumerate([MB, *10 * (MB / 10,)]):
        sent(meter, lease, MB, 100.0 * lease)
        meter.received(lease, 100.0 * lease + MB / rate)
        rates.append(meter.bytes_per_s or 0.0)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(MB / 10, rel=0.3)


def test_each_of_several_queued_leases_measures_the_link() -> None:
    """Of what is in flight all the time, none is ever sent with nothing before it."""
    meter = LinkMeter()
    meter.echoed(0.4)
    for lease in range(5):
        sent(meter, lease, MB, 0.1 * lease)
    for lease in range(5):
        assert meter.received(lease, 1.0 + lease + 0.4)
        assert meter.bytes_per_s == pytest.approx(MB)


def test_lease_sent_on_an_idle_link_is_measured_alone() -> None:
    meter = LinkMeter()
    meter.echoed(0.4)
    sent(meter, 1, MB, 0.0)
    sent(meter, 2, MB, 0.3)  # the first is at the worker, and its Received on the way
    assert meter.received(1, 0.1 + 0.4)
    assert meter.received(2, 0.3 + 0.1 + 0.4)
    assert meter.bytes_per_s == pytest.approx(10 * MB)


def test_shortest_recent_round_trip_is_used() -> None:
    meter = LinkMeter()
    before = meter.round_trip_s
    assert before is None
    for round_trip_s in (0.3, 0.05, 2.0):
        meter.echoed(round_trip_s)
    assert meter.round_trip_s == 0.05
    for _ in range(ROUND_TRIPS):
        meter.echoed(0.2)
    assert meter.round_trip_s == 0.2


def test_small_lease_measures_nothing() -> None:
    meter = LinkMeter()
    sent(meter, 1, LEAST_BYTES - 1, 0.0)
    assert not meter.received(1, 1.0)
    assert meter.bytes_per_s is None


def test_unknown_or_repeated_lease_measures_nothing() -> None:
    meter = LinkMeter()
    assert not meter.received(1, 1.0)
    sent(meter, 1, MB, 0.0)
    assert meter.received(1, 1.0)
    assert not meter.received(1, 2.0)
    assert meter.bytes_per_s == pytest.approx(MB)


@pytest.mark.parametrize("round_trip_s", [0.0, 1.0, 5.0])
def test_lease_as_fast_as_a_round_trip_means_a_fast_link(round_trip_s: float) -> None:
    meter = LinkMeter()
    meter.echoed(round_trip_s)
    sent(meter, 1, MB, 0.0)
    assert meter.received(1, round_trip_s)
    assert meter.bytes_per_s == pytest.approx(1000 * MB)


def test_link_speed_is_converted_to_pcm() -> None:
    meter = LinkMeter()
    sent(meter, 1, MB, 0.0, packed=0.4)
    assert meter.pcm_bytes_per_s is None
    assert meter.received(1, 1.0)
    logged: float | None = meter.pcm_bytes_per_s
    assert logged == pytest.approx(2.5 * MB)
