"""A worker slot that fails again and again is put aside for a while, and takes no other's work with it."""

from __future__ import annotations

import pytest

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.states import JobState, SegmentState, WorkerState
from unit.broker_bench import Bench, bench


def crash_often(b: Bench, slot: str, count: int) -> None:
    """End `count` processes of a slot, one after the other, each when it is ready."""
    for _ in range(count):
        if b.slot(slot).state is WorkerState.BACKOFF:
            b.wait(80)
        if b.slot(slot).state is WorkerState.STARTING:
            b.ready(b.slot(slot).identity)
        b.die(b.slot(slot).identity)


def test_slot_that_crashes_ten_times_in_a_row_is_quarantined_and_restarted() -> None:
    b = bench("gpu0", crash_budget=10, quarantine_s=600)
    crash_often(b, "gpu0", 9)
    assert b.slot("gpu0").state is WorkerState.BACKOFF
    crash_often(b, "gpu0", 1)
    assert b.slot("gpu0").state is WorkerState.BROKEN
    assert b.slot("gpu0").cause == (
        "quarantined after 10 failures in a row, the last one: killed by SIGSEGV; it is restarted in 600 s, or at once"
        " on SIGHUP; see the log for the cause of each failure"
    )
    assert not b.slot("gpu0").is_permanently_broken, "the daemon must not end for it"
    assert b.broker.tick(b.now)[1] == b.now + 600
    assert not b.wait(599)
    b.wait(1)
    assert b.last(ac.SpawnWorker) == ac.SpawnWorker(slot="gpu0", incarnation=11)


def test_slot_after_quarantine_is_quarantined_again_by_its_next_crash() -> None:
    b = bench("gpu0", crash_budget=3, quarantine_s=600)
    crash_often(b, "gpu0", 3)
    b.wait(600)
    crash_often(b, "gpu0", 1)
    assert b.slot("gpu0").state is WorkerState.BROKEN
    assert b.broker.tick(b.now)[1] == b.now + 600


def test_quarantined_slot_is_restarted_by_a_reload() -> None:
    b = bench("gpu0", crash_budget=3)
    crash_often(b, "gpu0", 3)
    b.handle(ev.SlotReset("gpu0"))
    assert b.last(ac.SpawnWorker) == ac.SpawnWorker(slot="gpu0", incarnation=4)
    crash_often(b, "gpu0", 2)
    assert b.slot("gpu0").state is WorkerState.BACKOFF, "its failures are forgiven"


def test_quarantined_slot_can_be_removed() -> None:
    b = bench("gpu0", crash_budget=1)
    crash_often(b, "gpu0", 1)
    b.handle(ev.SlotRemoved("gpu0"))
    assert b.slot("gpu0").state is WorkerState.STOPPED
    assert not b.wait(3600)


def test_slot_is_never_restarted_after_a_fatal_exit() -> None:
    b = bench("gpu0", crash_budget=2)
    crash_often(b, "gpu0", 1)
    b.wait(80)
    b.die("gpu0.2", is_fatal=True, cause="no such model")
    assert b.slot("gpu0").is_permanently_broken
    assert not b.wait(3600)


def test_finished_lease_resets_the_crash_count() -> None:
    b = bench("p0", "gpu0", crash_budget=2)
    b.submit()
    b.read(0, 1)
    b.die("gpu0.1")
    b.wait(1)
    b.ready("gpu0.2")
    b.reply(b.last(ac.SendLease))
    b.die("gpu0.2")
    assert b.slot("gpu0").state is WorkerState.BACKOFF


@pytest.mark.parametrize("is_readable", [True, False])
def test_finished_or_refused_file_resets_the_crash_count(is_readable: bool) -> None:
    b = bench("p0", "gpu0", crash_budget=2)
    b.submit()
    b.die("p0.1")
    b.wait(1)
    b.ready("p0.2")
    if is_readable:
        b.read(0)
    else:
        b.refuse("no audio in it")
    b.die("p0.2")
    assert b.slot("p0").state is WorkerState.BACKOFF


def test_worker_that_refuses_every_lease_is_quarantined() -> None:
    """Another program has taken the memory of its GPU: it would bury the whole queue in no time."""
    b = bench("p0", "gpu0", crash_budget=2, batch_size=1)
    b.submit()
    b.read(0, 1)
    for _ in range(2):
        lease = b.last(ac.SendLease).lease
        b.handle(ev.MessageReceived(lease.worker, pr.LeaseRefused(lease=lease.id, cause="out of memory")))
    assert b.last(ac.KillWorker) == ac.KillWorker(worker="gpu0.1", cause="refused a lease: out of memory")
    b.die("gpu0.1", cause="killed by SIGKILL")
    assert b.slot("gpu0").state is WorkerState.BROKEN
    assert "after 2 failures in a row, the last one: refused a lease: out of memory;" in b.slot("gpu0").cause
    assert {b.stored(0).state, b.stored(1).state} == {SegmentState.PENDING}


def test_drained_worker_that_refuses_its_lease_may_exit() -> None:
    b = bench("p0", "gpu0", crash_budget=1)
    b.submit()
    b.read(0)
    b.handle(ev.DrainRequested())
    b.handle(ev.MessageReceived("gpu0.1", pr.LeaseRefused(lease=1, cause="out of memory")))
    assert not b.all(ac.KillWorker)


@pytest.mark.parametrize("attempts", [2, 3])
def test_faulty_device_fails_no_segment_that_a_healthy_one_can_decode(attempts: int) -> None:
    b = bench("p0", "gpu0", "gpu1", attempts=attempts, crash_budget=10)
    b.submit()
    b.read(*range(40), samples=100)
    while b.broker.lease_dispatch.leases:
        for lease in sorted(b.broker.lease_dispatch.leases):
            sent = b.lease(lease)
            if sent.lease.worker.startswith("gpu0"):
                crash_often(b, "gpu0", 1)
                b.handle(ev.MessageReceived("gpu1.1", pr.Heartbeat()))
                b.wait(20)
                if b.slot("gpu0").state is WorkerState.STARTING:
                    b.ready(b.slot("gpu0").identity)
            elif lease in b.broker.lease_dispatch.leases:
                b.reply(sent)
    assert b.state("a") is JobState.WRITING
    assert {segment.state for segment in b.segments.values()} == {SegmentState.DONE}


def test_lost_segment_goes_to_the_only_worker_even_after_a_crash() -> None:
    b = bench("p0", "gpu0", "gpu1", attempts=2)
    b.submit()
    b.read(0)
    b.die("gpu1.1")
    b.die(b.last(ac.SendLease).lease.worker)
    b.wait(1)
    b.ready("gpu1.2")
    assert b.last(ac.SendLease).lease.worker == "gpu1.2"


def test_worker_that_crashed_once_shares_lost_segments() -> None:
    """Chance may have killed it: it must not stand idle while another does all of it alone."""
    b = bench("p0", "gpu0", "gpu1", attempts=3)
    b.submit()
    b.read(0, 1, 2, 3)
    b.die("gpu0.1")
    b.wait(1)
    b.ready("gpu0.2")
    assert b.last(ac.SendLease).lease.worker == "gpu0.2"


def test_worker_that_crashed_starts_with_a_single_segment() -> None:
    b = bench("p0", "gpu0", batch_size=16)
    b.die("gpu0.1")
    b.submit()
    b.read(0, 1, 2)
    b.wait(1)
    b.ready("gpu0.2", credit=2)
    assert len(b.all(ac.SendLease)) == 1
    b.reply_to_all()
    assert [len(sent.message.items) for sent in b.all(ac.SendLease)] == [1, 2]
