"""Two hosts with a network between them that delays, loses, is slow, and goes away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.chaos.chaos import make_recordings, run_undisturbed
from integration.network.hosts import SLOT, Hosts
from integration.network.partition import run
from network_namespaces import Conditions, ForbiddenError, Network

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long
FILES = 6
SEED = 20_260_102


@pytest.fixture(scope="module", autouse=True)
def allowed() -> None:
    """Skip the module where the system does not let us make networks."""
    try:
        with Network():
            pass
    except ForbiddenError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the files of all tests."""
    return make_recordings(tmp_path_factory.mktemp("media"), FILES, SEED)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, sources: list[Path]) -> dict[str, str]:
    """Return their texts as transcribed by workers of this host."""
    return run_undisturbed(tmp_path_factory.mktemp("undisturbed"), sources)[0]


def test_a_far_host_behind_a_lossy_link_hears_the_same(
    tmp_path: Path, sources: list[Path], expected: dict[str, str]
) -> None:
    """50 ms there and back, and one packet of a hundred is lost."""
    with Hosts(tmp_path, conditions=Conditions(delay_s=0.025, loss=0.01)) as hosts:
        for source in sources:
            hosts.daemon.drop(source, source.name)
        assert hosts.check_files(expected) == []
        assert set(hosts.done_by()) == {SLOT}
        assert hosts.facts().incarnation == 1
        hosts.daemon.stop()


def test_a_slow_link_is_no_dead_one_and_is_sent_flac(
    tmp_path: Path, sources: list[Path], expected: dict[str, str]
) -> None:
    """Twice real time, as PCM, slower than any worker: heartbeats are in time behind all that audio, and FLAC is sent once that is known."""
    conditions = Conditions(bytes_per_s=64_000.0, queue_s=0.5)
    with Hosts(tmp_path, conditions=conditions) as hosts:
        for source in sources:
            hosts.daemon.drop(source, source.name)
        assert hosts.check_files(expected) == []
        assert hosts.facts().incarnation == 1
        assert hosts.sent_bytes() < 0.8 * hosts.daemon.pcm_bytes()
        hosts.daemon.stop()


@pytest.mark.parametrize("devices", [(), ("cpu",)], ids=["alone", "with others"])
def test_a_network_that_goes_away_for_five_seconds_costs_time_alone(
    tmp_path: Path, sources: list[Path], expected: dict[str, str], devices: tuple[str, ...]
) -> None:
    outcome = run(tmp_path, sources, expected, seconds=5, devices=devices)
    assert outcome.faults == []
    assert outcome.lost_leases
