"""Random histories of the whole loop, in each of which every invariant holds."""

from __future__ import annotations

import re

import pytest
from fault_plan import Fault, FaultPlan
from history import History, HistoryFailed
from mutations import MUTATIONS, TEXT_MUTATIONS, Mutation
from replay import main as replay
from simulate import HISTORIES, simulate
from simulate import main as simulate_many

SHARES = 4
"""The histories are divided into this many tests, so that a failure is seen early and a parallel run shares them."""


@pytest.mark.parametrize(
    "share", [0, *(pytest.param(share, marks=pytest.mark.long) for share in range(1, SHARES))]
)
def test_every_invariant_holds(share: int) -> None:
    """A failure names its seed: `python tests/simulation/replay.py SEED` replays it."""
    assert simulate(range(share, HISTORIES, SHARES)) > HISTORIES


def test_a_seed_replays_the_same_history() -> None:
    noted = []
    for _ in range(2):
        history = History(7, remembered=10_000)
        history.run()
        noted.append([(at, history.readable(what)) for at, what in history.noted])
    assert noted[0] == noted[1]


def test_without_faults_every_job_is_done() -> None:
    for seed in range(20):
        history = History(seed, without=frozenset(Fault))
        history.run()
        assert {job.state.value for job in history.store.jobs.values()} == {"done"}


@pytest.mark.long
def test_a_failure_is_printed_with_as_few_faults_as_possible(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each fault and each strike that is left is necessary; the seed alone prints the same story again."""
    mutation = next(m for m in MUTATIONS if m.name == "a late reply for a stale lease counts")
    monkeypatch.setattr(mutation.owner, mutation.attribute, mutation.replacement)
    is_any_smaller = False
    for start in range(0, 2000, 400):
        assert simulate_many(["400", str(start)]) == 1
        story = capsys.readouterr().out
        seed = int(story.split()[1])
        whole = History(seed)
        with pytest.raises(HistoryFailed):
            whole.run()
        [struck] = re.findall(r"they struck (\d+) times", story)
        assert int(struck) <= len(whole.fault_plan.struck)
        is_any_smaller |= int(struck) < len(whole.fault_plan.struck)
        assert replay([str(seed)]) == 1
        assert capsys.readouterr().out == story
    assert is_any_smaller, "some histories need all their faults to fail, but not all of them"


def test_replay_reports_that_nothing_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(["7"]) == 0
    assert capsys.readouterr().out == "seed 7: every invariant holds\n"


@pytest.mark.long
@pytest.mark.parametrize("mutation", [pytest.param(m, id=m.name) for m in MUTATIONS])
def test_the_simulation_finds_a_mutation(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon with this fault violates an invariant; the rarest one in about a thousand histories."""
    monkeypatch.setattr(mutation.owner, mutation.attribute, mutation.replacement)
    is_about_texts = mutation in TEXT_MUTATIONS  # no other history has sentences
    seeds = (seed for seed in range(3 * HISTORIES) if not is_about_texts or FaultPlan(seed).has_texts)
    with pytest.raises(HistoryFailed, match=r"replay\.py \d+") as failed:
        simulate(seeds)
    is_outdated = isinstance(failed.value.__cause__, TypeError | AttributeError)
    assert not is_outdated, "the mutation does not fit the daemon any more"
