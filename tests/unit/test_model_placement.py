"""Several models: which worker loads which, when, and the jobs whose model cannot be loaded."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.model_placement import IDLE_LOADS, TURN_LOADS, ModelLoad, ModelSpec
from subtitled.core.states import JobState, SegmentState, WorkerState
from subtitled.core.transcription import Phrase
from unit.broker_bench import Bench

BIG = pr.EngineSettings(model="/models/big")
SMALL = pr.EngineSettings(model="/models/small")
LOAD_S = 5.0
TURN_S = TURN_LOADS * LOAD_S
"""Of a worker that has work, after one load."""


def bench(
    *slots: str, big: dict[str, Any] | None = None, default: dict[str, Any] | None = None, **policy: Any
) -> Bench:
    """Return a bench with the models "big" and "small" besides the default, and these workers ready."""
    models = (
        ModelSpec(**(default or {})),
        ModelSpec(name="big", engine=BIG, **(big or {})),
        ModelSpec(name="small", engine=SMALL),
    )
    made = Bench(models, silence_s=1e6, lease_min_s=1e6, **policy)
    made.worker("p0")
    made.worker("p1")
    for slot in slots:
        made.worker(slot)
    return made


def submit(b: Bench, job: str, model: str, *, segments: int = 1, **options: Any) -> None:
    """Have a file with some segments arrive and be read."""
    b.submit(job, model=model, **options)
    b.read(*range(segments), job=job)


def answer(b: Bench, lease: ac.SendLease, *, evicted: tuple[str, ...] = (), memory_bytes: int = 0) -> None:
    """Answer a lease, as a worker that has loaded its model if that was necessary."""
    model = lease.message.model
    held = pr.HeldModel(name=model, load_s=LOAD_S, memory_bytes=memory_bytes)
    b.reply(lease, loaded=held if lease.message.is_load else None, evicted=evicted)


def refuse_load(b: Bench, lease: ac.SendLease, cause: str = "out of memory") -> None:
    """Have a worker fail to load the model of a lease."""
    refusal = pr.LeaseRefused(lease=lease.lease.id, cause=cause, is_model_fault=True)
    b.handle(ev.MessageReceived(lease.lease.worker, refusal))


def leases_of(b: Bench, model: str) -> list[ac.SendLease]:
    """Return the leases of a model."""
    return [sent for sent in b.all(ac.SendLease) if sent.message.model == model]


def held_by(b: Bench, slot: str) -> set[str]:
    """Return the models that the broker believes a worker to hold."""
    return set(b.slot(slot).models)


def test_worker_loads_a_model_with_the_first_lease_of_it() -> None:
    b = bench("gpu0")
    submit(b, "a", "big")
    first = b.last(ac.SendLease)
    assert (first.message.model, first.message.is_load, first.message.engine) == ("big", True, BIG)
    answer(b, first)
    submit(b, "b", "big")
    second = b.last(ac.SendLease)
    assert (second.message.model, second.message.is_load, second.message.engine) == ("big", False, None)
    assert held_by(b, "gpu0") == {"", "big"}


def test_lease_has_the_segments_of_one_model() -> None:
    b = bench("gpu0")
    b.die("gpu0.1")
    for job, model in (("a", ""), ("b", "big"), ("c", ""), ("d", "big")):
        submit(b, job, model)
    b.wait(60)
    b.ready("gpu0.2")
    while leases := list(b.broker.lease_dispatch.leases):
        answer(b, b.lease(leases[0]))
    models = {"a": "", "b": "big", "c": "", "d": "big"}
    for sent in b.all(ac.SendLease):
        assert {models[item.key.job] for item in sent.message.items} == {sent.message.model}
    assert {b.state(job) for job in "abcd"} == {JobState.WRITING}


def test_lease_that_includes_a_load_has_more_time() -> None:
    b = bench("gpu0", start_timeout_s=600)
    b.broker.set_policy(replace(b.policy, lease_min_s=30))
    submit(b, "a", "big")
    assert b.slot("gpu0").due_at == 630
    answer(b, b.last(ac.SendLease))
    submit(b, "b", "big")
    assert b.slot("gpu0").due_at == 30


def test_worker_that_loads_a_model_gets_leases_of_no_other() -> None:
    b = bench(max_models=0, batch_size=1)
    b.worker("gpu0", credit=4)
    submit(b, "a", "big", segments=8)
    submit(b, "b", "", segments=8)
    assert {sent.message.model for sent in b.all(ac.SendLease)} == {"big"}
    answer(b, b.all(ac.SendLease)[0])
    assert {sent.message.model for sent in b.all(ac.SendLease)} == {"big", ""}


def test_worker_that_loads_a_model_gets_no_lease_ahead_of_it() -> None:
    """The load may fail, and takes the time of a lease ahead."""
    b = bench(batch_size=1)
    b.worker("gpu0", credit=4)
    submit(b, "a", "big", segments=8)
    assert len(b.all(ac.SendLease)) == 1
    answer(b, b.last(ac.SendLease))
    assert len(b.all(ac.SendLease)) == 5


def test_model_is_loaded_beside_the_others_at_once_if_there_is_room() -> None:
    """The worker has work for its own model, which does not have to go."""
    b = bench("gpu0", batch_size=1)
    submit(b, "a", "", segments=100)
    submit(b, "b", "big")
    b.reply(b.last(ac.SendLease))
    assert b.last(ac.SendLease).message.model == "big"
    answer(b, b.last(ac.SendLease))
    assert held_by(b, "gpu0") == {"", "big"}


def test_worker_with_work_keeps_its_model_for_a_turn() -> None:
    """After it, no more leases of the old model are sent: the wait of the other model is bounded."""
    b = bench("gpu0", max_models=1, batch_size=1)
    submit(b, "z", "big")
    b.wait(100)
    answer(b, b.last(ac.SendLease))
    submit(b, "a", "big", segments=100)
    submit(b, "b", "")
    while b.now < TURN_S:
        b.wait(1)
        answer(b, b.last(ac.SendLease))
        assert b.last(ac.SendLease).message.model == "big"
    b.wait(1)
    answer(b, b.last(ac.SendLease))
    swap = b.last(ac.SendLease)
    assert (swap.message.model, swap.message.is_load, swap.message.evict) == ("", True, ("big",))
    answer(b, swap)
    assert held_by(b, "gpu0") == {""}


def test_report_of_one_worker_does_not_keep_another_from_loading_a_model() -> None:
    b = bench("gpu0", batch_size=1)
    b.join("far/0", load_s=1.0)
    placement = b.broker.placement
    placement.loaded("far/0", pr.HeldModel(name="big", load_s=86_400.0, memory_bytes=2**48), 3.0)
    placement.loaded("gpu0", pr.HeldModel(name="big", load_s=LOAD_S, memory_bytes=2**30), 60.0)
    assert (placement.memory_bytes("big", "far/0"), placement.memory_bytes("big", "gpu0")) == (2**48, 2**30)
    assert placement.memory_bytes("big") == placement.memory_bytes("big", "gpu1") == 2**30


def test_load_takes_no_longer_than_the_answer_to_its_lease() -> None:
    """A worker may report any time; a wrong one must not keep its models for hours."""
    b = bench("gpu0", max_models=1, batch_size=1)
    submit(b, "z", "big")
    b.wait(2)
    b.reply(b.last(ac.SendLease), loaded=pr.HeldModel(name="big", load_s=86_400.0))
    b.wait(100)
    submit(b, "a", "")
    answer(b, b.last(ac.SendLease))
    submit(b, "b", "", segments=100)
    submit(b, "c", "big")
    b.wait(20)
    b.reply(b.last(ac.SendLease))
    assert b.last(ac.SendLease).message.model == "big", "its turn of ten loads of 2 s is over"


def test_worker_without_work_changes_its_model_after_a_load_time() -> None:
    b = bench("gpu0", max_models=1)
    submit(b, "z", "big")
    b.wait(LOAD_S)
    answer(b, b.last(ac.SendLease))
    b.wait(100)
    submit(b, "a", "small")
    answer(b, b.last(ac.SendLease))
    submit(b, "b", "big")
    assert not leases_of(b, "big")[1:], "the model was loaded just now"
    b.wait(IDLE_LOADS * LOAD_S)
    assert leases_of(b, "big")[1].message.evict == ("small",)


def test_urgent_model_does_not_wait_for_the_turn_to_end() -> None:
    b = bench("gpu0", max_models=1, batch_size=1)
    submit(b, "z", "big")
    answer(b, b.last(ac.SendLease))
    submit(b, "a", "big", segments=100)
    b.wait(IDLE_LOADS * LOAD_S)
    submit(b, "b", "small", priority=10)
    answer(b, b.last(ac.SendLease))
    assert b.last(ac.SendLease).message.model == "small"


def test_least_recently_used_model_is_unloaded_first() -> None:
    b = bench("gpu0", max_models=2)
    for job, model in (("a", "big"), ("b", "")):
        submit(b, job, model)
        answer(b, b.last(ac.SendLease))
        b.wait(100)
    submit(b, "c", "small")
    assert b.last(ac.SendLease).message.evict == ("big",)
    assert b.last(ac.SendLease).message.may_evict == ("",)


def test_preloaded_model_is_never_unloaded() -> None:
    b = bench("gpu0", max_models=2, default={"preload": 1})
    submit(b, "a", "big")
    answer(b, b.last(ac.SendLease))
    b.wait(100)
    submit(b, "b", "small")
    assert b.last(ac.SendLease).message.evict == ("big",)
    assert b.last(ac.SendLease).message.may_evict == ()


def test_job_fails_if_the_preloaded_models_leave_no_place_for_its_model() -> None:
    b = bench("gpu0", max_models=1, default={"preload": 1})
    submit(b, "a", "big")
    assert b.state("a") is JobState.FAILED
    assert "pool.max_models" in b.jobs["a"].cause


def test_models_that_the_worker_unloaded_are_loaded_again() -> None:
    b = bench("gpu0")
    submit(b, "a", "big")
    answer(b, b.last(ac.SendLease), evicted=("",))
    assert held_by(b, "gpu0") == {"big"}
    submit(b, "b", "")
    again = b.last(ac.SendLease)
    assert (again.message.model, again.message.is_load, again.message.engine) == ("", True, None)


def test_idle_worker_that_holds_the_model_is_preferred() -> None:
    b = bench("gpu0", "gpu1")
    submit(b, "a", "big")
    first = b.last(ac.SendLease)
    answer(b, first)
    for job in "bcd":
        submit(b, job, "big")
        assert b.last(ac.SendLease).lease.worker == first.lease.worker
        answer(b, b.last(ac.SendLease))


def test_further_worker_loads_a_model_only_if_the_work_is_worth_it() -> None:
    b = bench("gpu0", "gpu1", batch_size=1)
    submit(b, "a", "big", segments=3)
    b.wait(LOAD_S)
    answer(b, b.last(ac.SendLease))
    b.wait(1)
    b.reply(b.last(ac.SendLease))
    assert {sent.lease.worker for sent in leases_of(b, "big")} == {b.all(ac.SendLease)[0].lease.worker}
    submit(b, "b", "big", segments=100)
    assert {sent.lease.worker for sent in leases_of(b, "big")} == {"gpu0.1", "gpu1.1"}


def test_slots_limit_the_workers_that_load_a_model() -> None:
    b = bench("gpu0", "gpu1", big={"slots": ("gpu1",)})
    submit(b, "a", "big")
    assert b.last(ac.SendLease).lease.worker == "gpu1.1"


def test_worker_that_cannot_load_a_model_is_not_tried_again_for_a_while() -> None:
    b = bench("gpu0", "gpu1", quarantine_s=600)
    submit(b, "a", "big")
    refuse_load(b, b.last(ac.SendLease))
    assert len({sent.lease.worker for sent in leases_of(b, "big")}) == 2, "the other worker tries"
    assert b.stored(0).losses == 0, "the segment is not blamed"
    submit(b, "c", "")
    refuse_load(b, leases_of(b, "big")[-1], "still out of memory")
    assert b.state("a") is JobState.FAILED
    assert "the model cannot be loaded: " in b.jobs["a"].cause
    b.reply(leases_of(b, "")[0])
    assert b.state("c") is JobState.WRITING, "jobs of other models go on"
    b.wait(600)
    submit(b, "d", "big")
    answer(b, b.last(ac.SendLease))
    assert b.state("d") is JobState.WRITING


def test_loss_of_a_worker_that_loads_a_model_is_not_blamed_on_the_segments() -> None:
    b = bench("gpu0", attempts=3, crash_budget=100)
    submit(b, "a", "big")
    for incarnation in (1, 2):
        assert b.last(ac.SendLease).lease.worker == f"gpu0.{incarnation}"
        b.die(f"gpu0.{incarnation}")
        assert (b.stored(0).state, b.stored(0).losses) == (SegmentState.PENDING, 0)
        b.wait(60)
        b.ready(f"gpu0.{incarnation + 1}")
    assert b.last(ac.SendLease).message.is_load
    b.die("gpu0.3", cause="killed by SIGKILL")
    b.wait(60)
    b.ready("gpu0.4")
    assert b.state("a") is JobState.FAILED
    assert "lost 3 times while loading it: killed by SIGKILL" in b.jobs["a"].cause


def test_segment_that_kills_the_worker_after_the_load_is_blamed() -> None:
    b = bench("gpu0")
    submit(b, "a", "big")
    progress = pr.LeaseProgress(lease=b.last(ac.SendLease).lease.id, steps=1)
    b.handle(ev.MessageReceived("gpu0.1", pr.Heartbeat(leases=(progress,))))
    b.die("gpu0.1")
    assert b.stored(0).losses == 1


def test_job_of_a_model_that_is_not_configured_fails() -> None:
    b = bench("gpu0")
    b.submit("a", model="huge")
    assert b.state("a") is JobState.FAILED
    assert 'the model "huge" is not in [[models]]' in b.jobs["a"].cause
    assert '"big", "small"' in b.jobs["a"].cause


def test_changed_model_is_loaded_again_and_its_running_lease_ends_with_the_old_one() -> None:
    b = bench("gpu0")
    submit(b, "a", "big")
    answer(b, b.last(ac.SendLease))
    submit(b, "b", "big")
    running = b.last(ac.SendLease)
    other = pr.EngineSettings(model="/models/bigger")
    b.handle(ev.ModelsChanged((ModelSpec(), ModelSpec(name="big", engine=other))))
    submit(b, "c", "big")
    b.reply(running)
    assert b.state("b") is JobState.WRITING
    again = b.last(ac.SendLease)
    assert (again.message.is_load, again.message.engine) == (True, other)


def test_removed_model_fails_its_waiting_jobs_only() -> None:
    b = bench("gpu0", batch_size=1)
    b.die("gpu0.1")
    submit(b, "a", "big")
    submit(b, "b", "")
    b.handle(ev.ModelsChanged((ModelSpec(),)))
    b.wait(60)
    b.ready("gpu0.2")
    assert b.state("a") is JobState.FAILED
    b.reply(b.last(ac.SendLease))
    assert b.state("b") is JobState.WRITING


def test_abandoned_load_is_repeated_for_the_next_job() -> None:
    b = bench("gpu0")
    submit(b, "a", "big")
    first = b.last(ac.SendLease)
    b.handle(ev.CancelRequested("a"))
    b.handle(ev.MessageReceived("gpu0.1", pr.LeaseAbandoned(lease=first.lease.id)))
    submit(b, "b", "big")
    assert b.last(ac.SendLease).message.is_load


def test_worker_that_is_reserved_for_a_model_serves_its_own_again_if_that_is_not_needed() -> None:
    b = bench("gpu0", max_models=1, batch_size=1)
    submit(b, "z", "big")
    answer(b, b.last(ac.SendLease))
    submit(b, "a", "big", segments=9)
    submit(b, "b", "small")
    b.wait(TURN_S)
    assert b.slot("gpu0").reserved == "small"
    b.handle(ev.CancelRequested("b"))
    answer(b, b.last(ac.SendLease))
    assert b.slot("gpu0").reserved is None
    assert b.last(ac.SendLease).message.model == "big"


def test_load_of_a_model_without_waiting_segments_is_skipped() -> None:
    b = bench("gpu0", "gpu1")
    lease = b.broker.lease_dispatch
    load = ModelLoad(slot="gpu1", spec=lease.placement.specs["big"], evict=(), may_evict=())
    before = b.slot("gpu1")
    lease._lease_with_load(load, b.now)
    assert (b.slot("gpu1"), dict(lease.leases)) == (before, {})


def wait_for_turn() -> Bench:
    """Return a bench whose only waiting job waits until its worker may unload another model."""
    b = bench("gpu0", max_models=1)
    submit(b, "z", "big")
    b.wait(LOAD_S)
    answer(b, b.last(ac.SendLease))
    b.wait(100)
    submit(b, "a", "small")
    answer(b, b.last(ac.SendLease))
    submit(b, "b", "big")
    assert b.broker.tick(b.now)[1] == b.now + IDLE_LOADS * LOAD_S
    return b


def test_daemon_does_not_wake_for_a_model_whose_only_job_was_cancelled() -> None:
    b = wait_for_turn()
    b.handle(ev.CancelRequested("b"))
    b.now += 100
    assert b.broker.tick(b.now)[1] > b.now


def test_draining_daemon_does_not_wake_for_a_model_that_waits() -> None:
    b = wait_for_turn()
    b.handle(ev.DrainRequested())
    b.now += 100
    b.broker.tick(b.now)
    assert b.broker.tick(b.now)[1] > b.now


def test_report_of_another_model_than_that_of_the_lease_is_ignored() -> None:
    b = bench("gpu0")
    submit(b, "a", "big")
    b.reply(b.last(ac.SendLease), loaded=pr.HeldModel(name="", load_s=LOAD_S))
    assert b.broker.placement.loads == {}


def test_models_unloaded_for_a_refused_or_an_ordinary_lease_are_loaded_again() -> None:
    b = bench("gpu0", attempts=9)
    submit(b, "a", "big")
    answer(b, b.last(ac.SendLease))
    submit(b, "b", "big")
    refusal = pr.LeaseRefused(lease=b.last(ac.SendLease).lease.id, cause="out of memory", evicted=("",))
    b.handle(ev.MessageReceived("gpu0.1", refusal))
    assert held_by(b, "gpu0") == {"big"}
    submit(b, "c", "")
    assert b.last(ac.SendLease).message.model == "big"
    b.reply(b.last(ac.SendLease))
    assert b.last(ac.SendLease).message.is_load
    answer(b, b.last(ac.SendLease))
    submit(b, "d", "big")
    again = b.last(ac.SendLease)
    assert not again.message.is_load
    b.reply(again, loaded=pr.HeldModel(name="big", load_s=LOAD_S), evicted=("",))
    assert held_by(b, "gpu0") == {"big"}


def preloading_bench(*slots: str, count: int, **changes: Any) -> Bench:
    """Return a bench that keeps the model "big" on so many workers."""
    b = bench(big={"preload": count, **changes})
    for slot in slots:
        b.worker(slot)
    return b


def test_preloaded_model_is_loaded_without_waiting_segments() -> None:
    b = preloading_bench("gpu0", "gpu1", "gpu2", count=2)
    loads = b.all(ac.SendLease)
    assert [(sent.lease.worker, sent.message.model, sent.message.is_load) for sent in loads] == [
        ("gpu0.1", "big", True),
        ("gpu1.1", "big", True),
    ]
    assert not any(sent.message.items for sent in loads)
    for sent in loads:
        answer(b, sent)
    submit(b, "a", "big")
    assert not b.last(ac.SendLease).message.is_load


def test_preload_unloads_neither_the_default_model_nor_one_with_waiting_segments() -> None:
    """The jobs of these models would fail: nothing may be unloaded for them then."""
    b = bench("gpu0", big={"slots": ("gpu0",)})
    submit(b, "a", "small")
    answer(b, b.last(ac.SendLease))
    submit(b, "b", "small")
    b.handle(
        ev.ModelsChanged(
            (
                ModelSpec(),
                ModelSpec(name="big", engine=BIG, preload=1),
                ModelSpec(name="small", engine=SMALL),
            )
        )
    )
    answer(b, b.last(ac.SendLease))
    preload = b.last(ac.SendLease)
    assert (preload.message.model, preload.message.items) == ("big", ())
    assert preload.message.may_evict == ("small",)
    refuse_load(b, preload)
    assert "it is not kept in memory: out of memory" in b.broker.placement.preload_obstacle("big", b.now)
    submit(b, "c", "big")
    assert set(b.last(ac.SendLease).message.may_evict) == {"small", ""}, "a job may have their memory"
    answer(b, b.last(ac.SendLease), evicted=("small", ""))
    submit(b, "d", "")
    assert b.last(ac.SendLease).message.may_evict == ("big",), "the device has no room for both"


def test_preload_that_max_models_leaves_no_place_for_is_reported() -> None:
    b = bench("gpu0", max_models=1, big={"preload": 1})
    assert not b.all(ac.SendLease)
    assert "pool.max_models" in b.broker.placement.preload_obstacle("big", b.now)
    assert not b.broker.placement.obstacle("big", b.now), "jobs may use it"


def test_preloaded_model_is_loaded_by_the_slots_that_may_have_it_once_it_is_present() -> None:
    b = preloading_bench("cpu0", "gpu0", count=9, slots=("gpu*",), is_present=False)
    assert not b.all(ac.SendLease)
    big = ModelSpec(name="big", engine=BIG, preload=9, slots=("gpu*",))
    b.handle(ev.ModelsChanged((ModelSpec(), big)))
    assert [sent.lease.worker for sent in b.all(ac.SendLease)] == ["gpu0.1"]


def test_worker_on_another_host_loads_a_preloaded_model() -> None:
    b = preloading_bench(count=1)
    b.join("far/0")
    assert [sent.lease.worker for sent in b.all(ac.SendLease)] == ["far/0.1"]


def test_another_worker_loads_a_preloaded_model_that_was_lost() -> None:
    b = preloading_bench("gpu0", "gpu1", count=1)
    answer(b, b.last(ac.SendLease))
    b.die("gpu0.1")
    assert b.last(ac.SendLease).lease.worker == "gpu1.1"


def test_busy_worker_loads_a_preloaded_model_after_its_leases() -> None:
    b = bench(batch_size=1)
    b.worker("gpu0", credit=2)
    submit(b, "a", "", segments=100)
    b.handle(ev.ModelsChanged((ModelSpec(), ModelSpec(name="big", engine=BIG, preload=1))))
    while b.last(ac.SendLease).message.model == "":
        b.reply(b.lease(min(b.broker.lease_dispatch.leases)))
    assert len(b.all(ac.SendLease)) <= 4
    answer(b, b.last(ac.SendLease))
    assert b.last(ac.SendLease).message.model == ""


def test_preloaded_model_that_cannot_be_loaded_is_tried_again_after_a_while() -> None:
    b = preloading_bench("gpu0", count=1)
    refuse_load(b, b.last(ac.SendLease))
    assert b.slot("gpu0").state is WorkerState.IDLE
    assert len(b.all(ac.SendLease)) == 1
    due_at = b.broker.tick(b.now)[1]
    assert due_at == b.now + b.policy.quarantine_s
    b.wait(due_at - b.now)
    assert len(b.all(ac.SendLease)) == 2


def test_load_of_an_abandoned_lease_is_known() -> None:
    """The worker holds the model, and must be able to unload it for another one."""
    b = bench("gpu0")
    submit(b, "a", "big")
    first = b.last(ac.SendLease)
    b.handle(ev.CancelRequested("a"))
    held = pr.HeldModel(name="big", load_s=LOAD_S)
    b.handle(
        ev.MessageReceived("gpu0.1", pr.LeaseAbandoned(lease=first.lease.id, loaded=held, evicted=("",)))
    )
    assert held_by(b, "gpu0") == {"big"}
    submit(b, "b", "small")
    assert b.last(ac.SendLease).message.may_evict == ("big",)


def test_model_of_a_load_that_was_not_reported_may_be_unloaded() -> None:
    b = bench("gpu0")
    submit(b, "a", "big")
    first = b.last(ac.SendLease)
    b.handle(ev.CancelRequested("a"))
    b.handle(ev.MessageReceived("gpu0.1", pr.LeaseAbandoned(lease=first.lease.id)))
    assert held_by(b, "gpu0") == {""}
    submit(b, "b", "small")
    assert b.last(ac.SendLease).message.may_evict == ("big", "")


def test_removed_and_changed_models_are_unloaded_for_the_next_one() -> None:
    b = bench("gpu0")
    for job, model in (("a", "big"), ("b", "small")):
        submit(b, job, model)
        answer(b, b.last(ac.SendLease))
    b.handle(
        ev.ModelsChanged((ModelSpec(), ModelSpec(name="small", engine=BIG), ModelSpec(name="n", engine=BIG)))
    )
    submit(b, "c", "n")
    load = b.last(ac.SendLease).message
    assert (load.evict, load.may_evict) == (("big",), ("small", ""))


def test_models_of_an_earlier_session_may_be_unloaded_and_are_loaded_before_use() -> None:
    b = bench()
    b.join("far/0", has_default=False, stale_models=("big",))
    assert held_by(b, "far/0") == set()
    submit(b, "a", "big")
    assert b.last(ac.SendLease).message.is_load
    answer(b, b.last(ac.SendLease))
    submit(b, "b", "")
    assert b.last(ac.SendLease).message.is_load
    assert b.last(ac.SendLease).message.may_evict == ("big",)


def test_idle_worker_may_unload_others_to_load_its_model_again() -> None:
    b = bench("gpu0")
    submit(b, "a", "big")
    answer(b, b.last(ac.SendLease))
    b.handle(ev.MessageReceived("gpu0.1", pr.ModelUnloaded(model="")))
    submit(b, "b", "")
    again = b.last(ac.SendLease).message
    assert (again.is_load, again.may_evict) == (True, ("big",))


def test_worker_without_a_measurement_of_memory_keeps_its_models_for_a_turn() -> None:
    """It had to unload a model for this one: it has no room for both."""
    b = bench("gpu0", batch_size=1)
    submit(b, "a", "big")
    answer(b, b.last(ac.SendLease), evicted=("",))
    submit(b, "b", "", segments=100)
    answer(b, b.last(ac.SendLease), evicted=("big",))
    submit(b, "c", "big")
    b.reply(b.last(ac.SendLease))
    assert b.last(ac.SendLease).message.model == ""


def test_file_is_not_read_while_its_model_is_downloaded() -> None:
    """Its PCM would take the memory that the files of other models need."""
    b = bench("gpu0", big={"is_present": False})
    b.submit("a", model="big")
    b.submit("b", model="")
    assert [sent.job.id for sent in b.all(ac.SendPrepare)] == ["b"]
    assert (b.state("a"), b.jobs["a"].cause) == (
        JobState.QUEUED,
        'waiting for the download of the model "big"',
    )
    b.handle(ev.ModelsChanged((ModelSpec(), ModelSpec(name="big", engine=BIG))))
    assert b.last(ac.SendPrepare).job.id == "a"
    assert (b.state("a"), b.jobs["a"].cause) == (JobState.PREPARING, "")


def test_job_that_waits_for_a_download_can_be_cancelled() -> None:
    b = bench("gpu0", big={"is_present": False})
    b.submit("a", model="big")
    b.handle(ev.CancelRequested("a"))
    b.handle(ev.ModelsChanged((ModelSpec(), ModelSpec(name="big", engine=BIG))))
    assert b.state("a") is JobState.CANCELLED
    assert not b.all(ac.SendPrepare)


def test_job_fails_without_being_read_if_its_model_cannot_be_downloaded_or_was_removed() -> None:
    b = bench("gpu0", big={"is_present": False})
    b.submit("a", model="big")
    b.handle(ev.ModelsChanged((ModelSpec(), ModelSpec(name="big", engine=BIG, fault="no such model"))))
    b.submit("b", model="removed")
    assert not b.all(ac.SendPrepare)
    assert (b.state("a"), b.jobs["a"].cause) == (JobState.FAILED, "no such model")
    assert b.state("b") is JobState.FAILED
    assert 'the model "removed" is not in [[models]]' in b.jobs["b"].cause


def answer_text(
    b: Bench, sent: ac.SendLease, text: str, *, language: str = "de", is_speech: bool = True
) -> None:
    """Answer a lease with this text for each segment."""
    result = pr.SegmentResult(
        phrases=(Phrase(text=text, start_ms=0, end_ms=900),),
        language=language,
        language_probability=0.9,
        is_speech=is_speech,
    )
    held = pr.HeldModel(name=sent.message.model, load_s=LOAD_S) if sent.message.is_load else None
    items = tuple(pr.ItemResult.of(item.key, result) for item in sent.message.items)
    message = pr.Transcribed(lease=sent.lease.id, items=items, loaded=held)
    b.handle(ev.MessageReceived(sent.lease.worker, message))


def test_file_with_a_model_for_each_task_is_read_once() -> None:
    b = bench("gpu0", "gpu1")
    submit(b, "a", "", segments=2, is_translated_too=True, translation_model="big")
    first = b.last(ac.SendLease)
    assert {(item.task, item.is_translated_too) for item in first.audio} == {("transcribe", False)}
    while leases := list(b.broker.lease_dispatch.leases):
        sent = b.lease(leases[0])
        if sent.message.model == "big":
            assert {(item.task, item.language) for item in sent.audio} == {("translate", "de")}
        answer_text(b, sent, "text")
    assert len(b.all(ac.SendPrepare)) == 1
    assert b.state("a") is JobState.WRITING


def test_result_has_the_transcript_of_one_model_and_the_translation_of_another() -> None:
    b = bench("gpu0")
    submit(b, "a", "", is_translated_too=True, translation_model="big")
    for text in ("Guten Morgen", "Good morning"):
        answer_text(b, b.last(ac.SendLease), text)
    [stored] = [save.result for save in b.all(ac.SaveSegment) if save.result is not None]
    found = msgspec.msgpack.decode(stored, type=pr.SegmentResult)
    assert [phrase.text for phrase in found.phrases] == ["Guten Morgen"]
    assert [phrase.text for phrase in found.translation or ()] == ["Good morning"]


def test_english_and_silence_are_not_leased_to_the_model_that_translates() -> None:
    b = bench("gpu0")
    cases: list[tuple[str, dict[str, Any]]] = [("a", {"language": "en"}), ("b", {"is_speech": False})]
    for job, facts in cases:
        submit(b, job, "", is_translated_too=True, translation_model="big")
        answer_text(b, b.last(ac.SendLease), "text", **facts)
        assert b.state(job) is JobState.WRITING
    assert not leases_of(b, "big")


def test_lost_translation_is_translated_again_and_a_restart_transcribes_again() -> None:
    b = bench("gpu0", "gpu1")
    submit(b, "a", "", is_translated_too=True, translation_model="big")
    answer_text(b, b.last(ac.SendLease), "text")
    lost = b.last(ac.SendLease)
    b.die(lost.lease.worker)
    assert b.last(ac.SendLease).audio[0].task == "translate"
    assert b.stored(0).state is SegmentState.LEASED
    b.restart()
    assert b.stored(0).state is SegmentState.PENDING
    assert b.broker.live_jobs.segment(b.stored(0).key).transcript is None
