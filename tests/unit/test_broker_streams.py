"""Workers that decode several leases at once: none of them is harmed by another one's end."""

from __future__ import annotations

import random

import pytest

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.model_placement import ModelSpec
from subtitled.core.policy import Policy
from subtitled.core.records import SegmentKey
from subtitled.core.states import JobState, SegmentState
from unit.broker_bench import SECOND, WINDOW, Bench, bench, indices

LIMIT_S = Policy().lease_min_s


def cpu(b: Bench, streams: int, slot: str = "cpu0") -> str:
    """Open the slot of a CPU."""
    return b.worker(slot, credit=streams, streams=streams, batch_size=8, is_cpu=True)


def submit(b: Bench, *jobs: str, samples: int = WINDOW, model: str = "") -> None:
    """Have files of one segment each arrive and be read."""
    for job in jobs:
        b.submit(job, model=model)
    for job in jobs:
        b.read(0, job=job, samples=samples)


def restarted(b: Bench, slot: str, streams: int) -> None:
    """Let the time pass until the process of a slot has started again, and have it be ready."""
    while b.slot(slot).state.value in {"backoff", "broken"}:
        b.wait(10)
        b.handle(ev.MessageReceived("p0.1", pr.Heartbeat()))
    b.ready(b.slot(slot).identity, credit=streams, streams=streams, batch_size=8, is_cpu=True)


# -- a segment that ends its worker ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [2, 3, 5])
@pytest.mark.parametrize("streams", [1, 2, 16])
@pytest.mark.parametrize("is_instant", [False, True])
def test_a_segment_that_ends_its_worker_fails_no_other_one(
    streams: int, attempts: int, is_instant: bool
) -> None:
    jobs = [f"{number:02}" for number in range(40)]
    deadly = SegmentKey("20", 0)
    for seed in range(3):
        chance = random.Random(seed)
        b = bench("p0", attempts=attempts)
        cpu(b, streams)
        submit(b, *jobs)
        while leases := b.broker.lease_dispatch.leases:
            b.now += 1
            ending = next((lease for lease in leases.values() if deadly in lease.keys), None)
            lease = ending if ending and is_instant else chance.choice(list(leases.values()))
            if lease is ending:
                b.die(lease.worker)
                restarted(b, "cpu0", streams)
            else:
                b.reply(b.lease(lease.id))
        assert [job for job in jobs if b.state(job) is JobState.FAILED] == [deadly.job]
        assert all(
            segment.state in {SegmentState.DONE, SegmentState.FAILED} for segment in b.segments.values()
        )


def test_the_last_attempt_at_a_segment_is_made_alone() -> None:
    """Also where jobs of another model would keep the worker permanently busy."""
    other = ModelSpec(name="other", engine=pr.EngineSettings(model="small"))
    b = Bench((ModelSpec(), other), attempts=2)
    b.worker("p0")
    cpu(b, 4)
    submit(b, "load", model="other")
    b.reply(b.last(ac.SendLease), loaded=pr.HeldModel(name="other", batch_size=8, load_s=1, streams=4))
    submit(b, "a", "b")
    b.die("cpu0.1")
    restarted(b, "cpu0", 4)
    submit(b, *[f"x{number}" for number in range(9)])
    submit(b, *[f"y{number}" for number in range(9)], model="other")
    alone = []
    while leases := b.broker.lease_dispatch.leases:
        b.now += 1
        for lease in leases.values():
            if lease.keys and lease.keys[0].job in {"a", "b"}:
                assert len(leases) == 1
                alone.append(lease.keys[0].job)
        first = next(iter(leases.values()))
        is_load = first.is_load
        loaded = pr.HeldModel(name="other", batch_size=8, load_s=1, streams=4) if is_load else None
        b.reply(b.lease(first.id), loaded=loaded)
    assert sorted(alone) == ["a", "b"]
    assert {b.state(job) for job in b.jobs} == {JobState.WRITING}


def test_the_last_attempt_does_not_stop_work_that_goes_first() -> None:
    """An urgent job of another model has all streams; then the worker is emptied for it."""
    other = ModelSpec(name="other", engine=pr.EngineSettings(model="small"))
    b = Bench((ModelSpec(), other), attempts=2)
    b.worker("p0")
    cpu(b, 4)
    loaded = pr.HeldModel(name="other", batch_size=8, load_s=1, streams=4)
    submit(b, "suspect")
    b.die("cpu0.1")
    b.submit("urgent", priority=1, model="other")
    b.read(*range(40), job="urgent", samples=WINDOW)
    restarted(b, "cpu0", 4)
    at_once = []
    while leases := list(b.broker.lease_dispatch.leases.values()):
        if b.broker.lease_dispatch.ready.count("other"):
            at_once.append(len(leases))
        b.now += 1
        b.reply(b.lease(leases[0].id), loaded=loaded if leases[0].is_load else None)
    assert set(at_once[2:]) == {4}, at_once
    assert {b.state(job) for job in b.jobs} == {JobState.WRITING}


# -- leases that are too long ------------------------------------------------------------------------------------------


def heartbeats(b: Bench, seconds: float) -> None:
    """Let time pass in which all workers are alive."""
    while seconds > 0:
        b.wait(min(10.0, seconds))
        seconds -= 10
        for identity in ("cpu0.1", "p0.1"):
            b.handle(ev.MessageReceived(identity, pr.Heartbeat()))


def test_only_the_lease_that_is_overdue_is_blamed() -> None:
    b = bench("p0")
    cpu(b, 4)
    submit(b, "short", samples=SECOND)
    submit(b, "b", "c", "d")
    heartbeats(b, LIMIT_S)
    assert b.last(ac.KillWorker).worker == "cpu0.1"
    assert {job: b.stored(0, job).losses for job in b.jobs} == {"short": 1, "b": 0, "c": 0, "d": 0}


def test_all_running_leases_are_blamed_for_a_worker_that_is_silent() -> None:
    b = bench("p0")
    cpu(b, 4)
    submit(b, "b", "c")
    b.wait(LIMIT_S)
    assert b.last(ac.KillWorker).cause == "no message for 30 s"
    assert [b.stored(0, job).losses for job in "bc"] == [1, 1]


@pytest.mark.parametrize("streams", [2, 4])
def test_a_segment_that_freezes_its_worker_fails_though_others_are_overdue(streams: int) -> None:
    """Short clips exceed their time limits before it does, and more of them arrive all the time."""
    b = bench("p0")
    cpu(b, streams)
    submit(b, "frozen")
    for number in range(300):
        if b.state("frozen") is JobState.FAILED:
            break
        running = list(b.broker.lease_dispatch.leases.values())
        is_frozen = any(lease.keys[0].job == "frozen" for lease in running)
        b.wait(3)
        for identity in ("p0.1", *([] if is_frozen else [b.slot("cpu0").identity])):
            b.handle(ev.MessageReceived(identity, pr.Heartbeat()))
        if b.slot("cpu0").state.value == "lost":
            b.die(b.slot("cpu0").identity)
            restarted(b, "cpu0", streams)
        elif not is_frozen:
            for lease in running:
                b.reply(b.lease(lease.id))
        submit(b, f"clip{number}", samples=SECOND)
    assert b.state("frozen") is JobState.FAILED
    assert not [job for job in b.jobs if job != "frozen" and b.state(job) is JobState.FAILED]


@pytest.mark.parametrize("others", [(), ("b", "c")])
def test_an_abandoned_lease_of_a_cpu_does_not_end_the_others(others: tuple[str, ...]) -> None:
    """Encoding a window takes a thread of a CPU longer than a worker has to stop an abandoned lease."""
    b = bench("p0", abandon_s=5)
    cpu(b, 4)
    submit(b, "a", *others)
    b.handle(ev.CancelRequested("a"))
    b.now += 1
    submit(b, "later")
    heartbeats(b, 20)
    assert not b.all(ac.KillWorker)
    for lease in list(b.broker.lease_dispatch.leases.values()):
        if not lease.is_abandoned:
            b.reply(b.lease(lease.id))
    assert {b.state(job) for job in (*others, "later")} == {JobState.WRITING}
    heartbeats(b, 4 * WINDOW / SECOND)
    assert b.last(ac.KillWorker).cause == "did not stop an abandoned lease within 120 s"


def test_an_abandoned_lease_of_a_cpu_without_streams_is_stopped_soon() -> None:
    b = bench("p0", abandon_s=5)
    cpu(b, 1)
    submit(b, "a")
    b.handle(ev.CancelRequested("a"))
    b.wait(5)
    assert b.last(ac.KillWorker).cause == "did not stop an abandoned lease within 5 s"


def test_refusals_that_end_a_worker_are_not_blamed_on_its_other_leases() -> None:
    b = bench("p0", crash_budget=2)
    cpu(b, 4)
    submit(b, "a", "b", "c", "d")
    for lease in list(b.broker.lease_dispatch.leases)[:2]:
        b.handle(ev.MessageReceived("cpu0.1", pr.LeaseRefused(lease=lease, cause="memory")))
    assert b.last(ac.KillWorker).cause == "refused a lease: memory"
    assert [b.stored(0, job).losses for job in "abcd"] == [1, 1, 0, 0]


# -- models with fewer streams -----------------------------------------------------------------------------------------


def test_a_model_with_fewer_streams_gets_no_more_leases_than_it_decodes() -> None:
    b = Bench((ModelSpec(), ModelSpec(name="big", engine=pr.EngineSettings(model="large-v3"))))
    b.worker("p0")
    cpu(b, 16)
    b.submit("a", model="big")
    b.read(*range(40), samples=5 * SECOND)
    first = b.last(ac.SendLease)
    b.reply(first, loaded=pr.HeldModel(name="big", batch_size=4, load_s=15.0, streams=2))
    submit(b, "b", "c", "d")
    running = [lease.model for lease in b.broker.lease_dispatch.leases.values()]
    assert (running.count("big"), running.count("")) == (2, 3)


def test_leases_that_wait_do_not_become_more_than_a_model_decodes() -> None:
    b = Bench((ModelSpec(), ModelSpec(name="big", engine=pr.EngineSettings(model="large-v3"))))
    b.worker("p0")
    b.worker("gpu0", credit=6, streams=2, batch_size=1)
    submit(b, "load", model="big")
    b.reply(b.last(ac.SendLease), loaded=pr.HeldModel(name="big", batch_size=1, load_s=15.0, streams=1))
    submit(b, "a", "b")
    b.submit("long", model="big")
    b.read(*range(9), job="long")
    while leases := b.broker.lease_dispatch.leases:
        running = [leases[lease].model for lease in b.slot("gpu0").leases[:2]]
        assert running.count("big") <= 1
        b.now += 1
        b.reply(b.lease(min(leases)))


def test_a_new_process_decodes_the_default_model_with_all_its_streams() -> None:
    """The last one had loaded it again when memory was short."""
    b = Bench((ModelSpec(), ModelSpec(name="big", engine=pr.EngineSettings(model="large-v3"))), max_models=1)
    b.worker("p0")
    cpu(b, 16)
    for job, model in (("x", "big"), ("y", "")):
        submit(b, job, model=model)
        while not (b.all(ac.SendLease) and b.last(ac.SendLease).lease.model == model):
            heartbeats(b, 10)
        b.reply(b.last(ac.SendLease), loaded=pr.HeldModel(name=model, batch_size=8, load_s=1, streams=2))
    assert b.slot("cpu0").streams_of("") == 2
    b.die("cpu0.1")
    restarted(b, "cpu0", 16)
    assert b.slot("cpu0").streams_of("") == 16


# -- the speed of a lease among others ---------------------------------------------------------------------------------


def test_leases_are_sized_for_a_worker_whose_streams_are_all_at_work() -> None:
    """A clip that is decoded alone has all threads."""
    b = bench("p0")
    cpu(b, 16)
    for number in range(16):
        submit(b, f"clip{number}")
        b.now += 1.5
        b.reply(b.last(ac.SendLease))
    b.submit("long")
    b.read(*range(300), job="long", samples=WINDOW)
    sent = [len(indices(sent)) for sent in b.all(ac.SendLease) if sent.lease.keys[0].job == "long"]
    assert sent == [1] * 16
    for lease in list(b.broker.lease_dispatch.leases):
        b.now += 0.1
        b.reply(b.lease(lease))
    # A window took 24 s at most, and 3 s at least.
    assert max(len(lease.keys) for lease in b.broker.lease_dispatch.leases.values()) <= 3


def test_leases_are_about_equal_so_that_all_streams_end_together() -> None:
    """With the largest possible ones first, one stream would decode the rest alone."""
    b = bench("p0")
    cpu(b, 2)
    submit(b, "a", "b")
    for lease in list(b.broker.lease_dispatch.leases):
        b.now += 0.55
        b.reply(b.lease(lease))
    assert b.broker.lease_dispatch.sizing().limit(b.slot("cpu0")) == 8
    b.submit("long")
    b.read(*range(20), job="long", samples=WINDOW)
    for _ in range(4):
        first = min(b.broker.lease_dispatch.leases)
        b.now += len(b.lease(first).lease.keys) / 2
        b.reply(b.lease(first))
    sizes = [len(indices(sent)) for sent in b.all(ac.SendLease) if sent.lease.keys[0].job == "long"]
    assert sizes == [1, 1, 5, 5, 5, 3], "one segment each while the file is being read"
