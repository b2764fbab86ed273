"""Thousands of random histories, in each of which every promise is kept."""

from __future__ import annotations

import pytest
from fate import Fault
from mutations import MUTATIONS, Mutation
from simulate import HISTORIES, simulate
from world import HistoryFailed, World

SHARES = 4
"""The histories are lived in so many tests, so that a failure is seen early and a run in parallel is shared out."""


@pytest.mark.parametrize("share", range(SHARES))
def test_no_promise_is_broken(share: int) -> None:
    """A failure names its seed: `python tests/simulation/replay.py SEED` lives it again."""
    assert simulate(range(share, HISTORIES, SHARES)) > HISTORIES


def test_the_same_seed_lives_the_same_history() -> None:
    worlds = [World(7, remembered=10_000), World(7, remembered=10_000)]
    for world in worlds:
        world.run()
    assert list(worlds[0].noted) == list(worlds[1].noted)
    assert worlds[0].steps == worlds[1].steps


def test_a_history_without_faults_ends_with_every_job_done() -> None:
    for seed in range(20):
        world = World(seed, without=frozenset(Fault))
        world.run()
        assert {job.state.value for job in world.store.jobs.values()} == {"done"}


@pytest.mark.parametrize("mutation", [pytest.param(m, id=m.name) for m in MUTATIONS])
def test_the_simulation_finds_a_mutation(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the tests: a core with this fault breaks a promise within the default number of histories."""
    monkeypatch.setattr(mutation.owner, mutation.attribute, mutation.replacement)
    with pytest.raises(HistoryFailed, match=r"replay\.py \d+"):
        simulate(range(HISTORIES))
