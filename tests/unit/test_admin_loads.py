"""Models that an admin loads and unloads: when workers load, keep and unload them."""

from __future__ import annotations

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.model_placement import ModelSpec
from unit.broker_bench import Bench
from unit.test_model_placement import BIG, SMALL, answer, bench, leases_of, refuse_load, submit


def load(b: Bench, model: str, workers: int = 1) -> list[ac.Action]:
    """Have an admin load a model."""
    return b.handle(ev.ModelRequested(model=model, workers=workers))


def unload(b: Bench, model: str) -> list[ac.Action]:
    """Have an admin unload a model."""
    return load(b, model, 0)


def freed(b: Bench) -> list[tuple[str, str]]:
    """Return the models of the messages that make workers unload one."""
    return [
        (sent.worker, sent.message.model)
        for sent in b.sent(pr.FreeModel)
        if isinstance(sent.message, pr.FreeModel)
    ]


def kept(b: Bench) -> list[tuple[str, str, bool]]:
    """Return what workers were sent about whether they keep a model that they hold."""
    return [
        (sent.worker, sent.message.model, sent.message.is_kept)
        for sent in b.sent(pr.KeepModel)
        if isinstance(sent.message, pr.KeepModel)
    ]


def report_unload(b: Bench, worker: str, model: str) -> None:
    """Have a worker report that it has unloaded a model."""
    b.handle(ev.MessageReceived(worker, pr.ModelUnloaded(model=model)))


def test_loaded_model_is_kept_by_the_requested_number_of_workers() -> None:
    b = bench("gpu0", "gpu1", "gpu2")
    for _ in range(100):
        load(b, "big", 2)
    loads = b.all(ac.SendLease)
    assert [(sent.lease.worker, sent.message.is_load, sent.message.is_kept) for sent in loads] == [
        ("gpu0.1", True, True),
        ("gpu1.1", True, True),
    ]
    assert not any(sent.message.items for sent in loads)
    for sent in loads:
        answer(b, sent)
    load(b, "big", 2)
    assert len(b.all(ac.SendLease)) == 2
    b.die("gpu0.1")
    assert b.last(ac.SendLease).lease.worker == "gpu2.1"


def test_model_is_loaded_while_the_queue_is_paused_and_no_segment_is_leased() -> None:
    b = bench("gpu0")
    b.submit("a", model="big")
    b.prepared(0, job="a")
    answer(b, b.last(ac.SendLease))
    b.handle(ev.PauseRequested(is_paused=True))
    b.prepared(1, job="a")
    b.prepared(2, job="a")
    load(b, "small")
    [loaded] = leases_of(b, "small")
    assert not loaded.message.items
    assert loaded.message.may_evict == (), "the paused job needs the others"
    answer(b, loaded)
    unload(b, "big")
    report_unload(b, "gpu0.1", "big")
    load(b, "big")
    assert [len(sent.message.items) for sent in leases_of(b, "big")] == [1, 0]
    answer(b, b.last(ac.SendLease))
    b.handle(ev.PauseRequested(is_paused=False))
    assert [len(sent.message.items) for sent in leases_of(b, "big")] == [1, 0, 2]


def test_unloaded_model_is_freed_at_once_where_no_lease_uses_it() -> None:
    b = bench("gpu0", "gpu1", batch_size=1)
    load(b, "big", 2)
    for sent in b.all(ac.SendLease):
        answer(b, sent)
    submit(b, "a", "big")
    running = b.last(ac.SendLease)
    idle = {"gpu0.1", "gpu1.1"} - {running.lease.worker}
    unload(b, "big")
    assert freed(b) == [(worker, "big") for worker in idle]
    b.reply(running)
    assert set(freed(b)) == {("gpu0.1", "big"), ("gpu1.1", "big")}
    for worker, model in freed(b):
        report_unload(b, worker, model)
    b.wait(1000)
    assert len(freed(b)) == 2
    assert len(leases_of(b, "big")) == 3, "it is not loaded again"
    assert not b.broker.placement.preload_obstacle("big", b.now)


def test_unloaded_model_stays_as_long_as_segments_wait_for_it() -> None:
    b = bench("gpu0", batch_size=1)
    submit(b, "a", "big", segments=3)
    unload(b, "big")
    for _ in range(3):
        assert not freed(b)
        answer(b, b.last(ac.SendLease))
    assert freed(b) == [("gpu0.1", "big")]


def test_paused_queue_needs_no_model() -> None:
    b = bench("gpu0", batch_size=1)
    submit(b, "a", "", segments=2)
    b.handle(ev.PauseRequested(is_paused=True))
    b.reply(b.last(ac.SendLease))
    assert not freed(b)
    unload(b, "")
    assert freed(b) == [("gpu0.1", "")]
    report_unload(b, "gpu0.1", "")
    b.handle(ev.PauseRequested(is_paused=False))
    again = b.last(ac.SendLease)
    assert (again.message.model, again.message.is_load, again.message.is_kept) == ("", True, False)


def test_worker_that_starts_unloads_the_default_model_until_a_job_needs_it() -> None:
    b = bench("gpu0")
    unload(b, "")
    report_unload(b, "gpu0.1", "")
    b.die("gpu0.1")
    b.wait(60)
    b.ready("gpu0.2")
    assert freed(b) == [("gpu0.1", ""), ("gpu0.2", "")]
    report_unload(b, "gpu0.2", "")
    submit(b, "a", "")
    answer(b, b.last(ac.SendLease))
    b.die("gpu0.2")
    b.wait(60)
    b.ready("gpu0.3")
    assert len(freed(b)) == 2


def test_model_that_is_loaded_again_before_it_was_freed_stays() -> None:
    b = bench("gpu0", batch_size=1)
    submit(b, "a", "big")
    running = b.last(ac.SendLease)
    unload(b, "big")
    load(b, "big")
    answer(b, running)
    assert not freed(b)
    unload(b, "big")
    load(b, "big")
    report_unload(b, "gpu0.1", "big")
    assert b.last(ac.SendLease).message.is_kept, "the message of the worker crossed the request"
    assert len(leases_of(b, "big")) == 2


def test_preload_loads_nothing_that_an_admin_has_unloaded() -> None:
    b = bench("gpu0", big={"preload": 1})
    answer(b, b.last(ac.SendLease))
    unload(b, "big")
    report_unload(b, "gpu0.1", "big")
    b.wait(1000)
    assert len(leases_of(b, "big")) == 1
    models = (
        ModelSpec(),
        ModelSpec(name="big", engine=BIG, preload=1),
        ModelSpec(name="small", engine=SMALL),
    )
    b.handle(ev.ModelsChanged((*models, ModelSpec(name="other", engine=SMALL, fault="missing"))))
    assert len(leases_of(b, "big")) == 1, "the configuration of this model is the same"
    b.handle(ev.ModelsChanged((models[0], ModelSpec(name="big", engine=BIG, preload=2), models[2])))
    assert len(leases_of(b, "big")) == 2


def test_loaded_model_gives_way_to_a_job_whose_model_has_no_room() -> None:
    """After all others without work; it is loaded again after a while, if there is room then."""
    b = bench("gpu0")
    submit(b, "a", "")
    b.reply(b.last(ac.SendLease))
    load(b, "big")
    answer(b, b.last(ac.SendLease))
    b.wait(1)
    submit(b, "b", "")
    b.reply(b.last(ac.SendLease))
    submit(b, "c", "small")
    assert b.last(ac.SendLease).message.may_evict == ("", "big")
    answer(b, b.last(ac.SendLease), evicted=("", "big"))
    assert len(leases_of(b, "big")) == 1
    assert "unloaded for a job" in b.broker.placement.preload_obstacle("big", b.now)
    b.wait(b.policy.quarantine_s)
    assert b.last(ac.SendLease).message.model == "big"
    assert b.last(ac.SendLease).message.may_evict == ("small",)


def test_load_for_an_admin_unloads_no_other_model_that_is_kept() -> None:
    b = bench("gpu0")
    load(b, "big")
    answer(b, b.last(ac.SendLease))
    load(b, "small")
    assert b.last(ac.SendLease).message.may_evict == ()
    refuse_load(b, b.last(ac.SendLease))
    assert "out of memory" in b.broker.placement.preload_obstacle("small", b.now)
    load(b, "small")
    assert len(leases_of(b, "small")) == 2, "an admin who repeats the request has made room"


def test_model_that_is_downloaded_is_loaded_afterwards() -> None:
    b = bench("gpu0", big={"is_present": False})
    load(b, "big")
    assert not b.all(ac.SendLease)
    b.handle(ev.ModelsChanged((ModelSpec(), ModelSpec(name="big", engine=BIG))))
    assert b.last(ac.SendLease).message.is_kept


def test_load_without_a_worker_that_may_hold_the_model_is_reported() -> None:
    b = bench("cpu0", big={"slots": ("gpu*",)})
    load(b, "big")
    assert (
        b.broker.placement.preload_obstacle("big", b.now) == "no worker that is configured for it is running"
    )
    b.worker("gpu0")
    assert b.last(ac.SendLease).lease.worker == "gpu0.1"
    assert not b.broker.placement.preload_obstacle("big", b.now)


def test_load_for_an_admin_exceeds_no_limit_of_models_while_the_queue_is_paused() -> None:
    b = bench("gpu0", max_models=2)
    b.submit("a", model="big")
    b.prepared(0, job="a")
    answer(b, b.last(ac.SendLease))
    b.handle(ev.PauseRequested(is_paused=True))
    b.prepared(1, job="a")
    load(b, "small")
    assert not leases_of(b, "small"), "the paused job needs the one model, and the default is never unloaded"
    assert "pool.max_models" in b.broker.placement.preload_obstacle("small", b.now)
    b.handle(ev.PauseRequested(is_paused=False))
    answer(b, b.last(ac.SendLease))
    [loaded] = leases_of(b, "small")
    assert loaded.message.evict == ("big",)


def test_copy_of_an_earlier_session_is_unloaded() -> None:
    """The link was cut before the worker received the message, or the admin unloaded the model meanwhile."""
    b = bench(big={"slots": ("far/*",)})
    worker = b.join("far/0", credit=2)
    load(b, "big")
    answer(b, b.last(ac.SendLease))
    unload(b, "big")
    assert freed(b) == [(worker, "big")]
    b.die(worker)
    again = b.join("far/0", credit=2, has_default=False, stale_models=("big", "small"))
    assert freed(b)[1:] == [(again, "big")]
    report_unload(b, again, "big")
    assert b.slot("far/0").stale_models == ("small",)
    unload(b, "small")
    assert freed(b)[2:] == [(again, "small")]


def test_copy_with_an_earlier_configuration_is_unloaded() -> None:
    b = bench("gpu0")
    load(b, "big")
    answer(b, b.last(ac.SendLease))
    b.handle(ev.ModelsChanged((ModelSpec(), ModelSpec(name="big", engine=SMALL))))
    unload(b, "big")
    assert freed(b) == [("gpu0.1", "big")]
    report_unload(b, "gpu0.1", "big")
    assert not b.slot("gpu0").stale_models
    unload(b, "big")
    assert len(freed(b)) == 1


def test_model_that_was_unloaded_for_a_job_is_loaded_by_the_next_process() -> None:
    b = bench("gpu0")
    load(b, "big")
    answer(b, b.last(ac.SendLease))
    submit(b, "a", "small")
    answer(b, b.last(ac.SendLease), evicted=("big",))
    assert len(leases_of(b, "big")) == 1
    b.die("gpu0.1")
    b.wait(60)
    b.ready("gpu0.2")
    assert leases_of(b, "big")[1].lease.worker == "gpu0.2"


def test_workers_that_hold_a_model_keep_it_as_an_admin_requests() -> None:
    b = bench("gpu0", "gpu1", max_models=0)
    load(b, "")
    assert kept(b) == [("gpu0.1", "", True)]
    load(b, "", 2)
    assert kept(b)[1:] == [("gpu1.1", "", True)]
    b.die("gpu0.1")
    load(b, "", 1)
    assert len(kept(b)) == 2, "the other worker keeps it already"
    b.wait(60)
    b.ready("gpu0.2")
    assert len(kept(b)) == 2
    load(b, "", 2)
    assert kept(b)[2:] == [("gpu0.2", "", True)]
    load(b, "", 1)
    assert kept(b)[3:] == [("gpu1.1", "", False)]
    unload(b, "")
    assert set(freed(b)) == {("gpu0.2", ""), ("gpu1.1", "")}
    assert len(kept(b)) == 4


def test_worker_that_loads_a_model_for_a_job_keeps_it_only_if_too_few_others_do() -> None:
    b = bench("gpu0", batch_size=1)
    load(b, "big")
    answer(b, b.last(ac.SendLease))
    b.worker("gpu1")
    submit(b, "a", "big", segments=500)
    while len([sent for sent in leases_of(b, "big") if sent.message.is_load]) < 2:
        b.wait(10)
        answer(b, b.last(ac.SendLease))
    first, second = (sent for sent in leases_of(b, "big") if sent.message.is_load)
    assert (first.message.is_kept, second.message.is_kept) == (True, False)
    answer(b, second)
    b.die("gpu0.1")
    assert kept(b) == [("gpu1.1", "big", True)]


def test_model_is_no_longer_kept_when_a_reload_ends_the_request() -> None:
    b = bench("gpu0")
    load(b, "big")
    answer(b, b.last(ac.SendLease))
    b.handle(ev.ModelsChanged((ModelSpec(), ModelSpec(name="big", engine=BIG, slots=("gpu0",)))))
    assert kept(b) == [("gpu0.1", "big", False)]
    load(b, "big")
    b.handle(ev.ModelsChanged((ModelSpec(), ModelSpec(name="big", engine=SMALL))))
    assert kept(b)[1:] == [("gpu0.1", "big", True), ("gpu0.1", "big", False)], "nor is the stale copy"
