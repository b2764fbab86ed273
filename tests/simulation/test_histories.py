"""Thousands of random histories, in each of which every promise is kept."""

from __future__ import annotations

import re

import pytest
from fault_plan import Fault
from history import HistoryFailed, World
from mutations import MUTATIONS, Mutation
from replay import main as replay
from simulate import HISTORIES, simulate
from simulate import main as simulate_many

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


def test_a_history_that_breaks_a_promise_is_printed_as_small_as_it_gets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each fault and each strike that is left is needed; its seed alone prints the same history again."""
    mutation = next(m for m in MUTATIONS if m.name == "a late reply for a stale lease counts")
    monkeypatch.setattr(mutation.owner, mutation.attribute, mutation.replacement)
    is_any_smaller = False
    for start in range(0, 2000, 400):
        assert simulate_many(["400", str(start)]) == 1
        story = capsys.readouterr().out
        seed = int(story.split()[1])
        whole = World(seed)
        with pytest.raises(HistoryFailed):
            whole.run()
        [struck] = re.findall(r"they struck (\d+) times", story)
        assert int(struck) <= len(whole.fate.struck)
        is_any_smaller |= int(struck) < len(whole.fate.struck)
        assert replay([str(seed)]) == 1
        assert capsys.readouterr().out == story
    assert is_any_smaller, "some histories fail with nothing to spare, but not all of them"


def test_a_history_without_a_broken_promise_replays_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(["7"]) == 0
    assert capsys.readouterr().out == "seed 7: no promise broken\n"


@pytest.mark.parametrize("mutation", [pytest.param(m, id=m.name) for m in MUTATIONS])
def test_the_simulation_finds_a_mutation(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the tests: a core with this fault breaks a promise within the default number of histories."""
    monkeypatch.setattr(mutation.owner, mutation.attribute, mutation.replacement)
    with pytest.raises(HistoryFailed, match=r"replay\.py \d+"):
        simulate(range(HISTORIES))
