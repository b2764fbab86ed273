"""Workers on other hosts: they join, leave and disappear, and no process is started in their slots."""

from __future__ import annotations

import pytest

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.states import SegmentState, WorkerState
from unit.broker_bench import Bench, bench

WINDOW_BYTES = 960_000


def test_joined_worker_gets_work_and_no_process_is_started() -> None:
    b = bench("p0")
    b.submit()
    assert b.join("far/cuda0") == "far/cuda0.1"
    b.read(0)
    assert b.last(ac.SendLease).lease.worker == "far/cuda0.1"
    b.reply_to_all()
    assert b.stored(0).state is SegmentState.DONE
    assert {spawn.slot for spawn in b.all(ac.SpawnWorker)} == {"p0"}


def test_file_is_read_with_the_window_of_a_remote_worker() -> None:
    b = bench("p0")
    b.submit()
    assert not b.all(ac.SendPrepare)
    b.join("far/cuda0")
    assert b.all(ac.SendPrepare)


def test_leases_of_a_silent_remote_worker_are_queued_again() -> None:
    b = bench("p0", silence_s=30)
    b.join("far/cuda0")
    b.submit()
    b.read(0)
    b.wait(29)
    b.handle(ev.MessageReceived("p0.1", pr.Heartbeat()))
    b.wait(1)
    assert b.last(ac.KillWorker) == ac.KillWorker(worker="far/cuda0.1", cause="no message for 30 s")
    b.die("far/cuda0.1", cause="its session was ended")
    assert b.stored(0).state is SegmentState.PENDING
    assert b.slot("far/cuda0").state is WorkerState.STOPPED
    b.wait(3600)
    assert [spawn.slot for spawn in b.all(ac.SpawnWorker)].count("far/cuda0") == 0


def test_late_result_of_an_earlier_session_is_stale() -> None:
    b = bench("p0")
    b.join("far/cuda0")
    b.submit()
    b.read(0)
    late = b.last(ac.SendLease)
    assert b.join("far/cuda0") == "far/cuda0.2"
    assert b.reply(late) == [ac.ResultStale(worker="far/cuda0.1", lease=late.lease.id)]
    assert b.last(ac.SendLease).lease.worker == "far/cuda0.2"
    assert b.stored(0).state is SegmentState.LEASED


@pytest.mark.parametrize("state", ["starting", "idle", "busy", "draining", "lost", "stopped"])
def test_joined_worker_replaces_its_last_session(state: str) -> None:
    b = bench("p0", silence_s=30)
    b.handle(ev.WorkerJoined(slot="far/cuda0"))
    if state != "starting":
        b.ready("far/cuda0.1")
    if state in {"busy", "draining"}:
        b.submit()
        b.read(0)
    if state == "draining":
        b.handle(ev.MessageReceived("far/cuda0.1", pr.WorkerLeaving(cause="SIGTERM")))
    if state == "lost":
        b.wait(30)
    if state == "stopped":
        b.die("far/cuda0.1")
    assert b.slot("far/cuda0").state.value == state
    b.handle(ev.WorkerJoined(slot="far/cuda0"))
    now = b.slot("far/cuda0")
    assert (now.identity, now.state, now.leases) == ("far/cuda0.2", WorkerState.STARTING, ())
    b.die("far/cuda0.1", cause="its session was ended")
    assert b.slot("far/cuda0") == now, "the end of a session that is over is no news"
    if state in {"busy", "draining"}:
        assert b.stored(0).state is SegmentState.PENDING
    kills = [kill.worker for kill in b.all(ac.KillWorker) if kill.worker.startswith("far")]
    assert kills == ([] if state == "stopped" else ["far/cuda0.1"])


def test_slot_of_this_host_is_not_taken_by_a_remote_worker() -> None:
    b = bench("gpu0")
    b.handle(ev.SlotRemoved("gpu0"))
    b.die("gpu0.1")
    with pytest.raises(ValueError, match=r"gpu0 is taken by gpu0\.1: stopped"):
        b.join("gpu0")


def test_draining_daemon_accepts_no_worker() -> None:
    b = Bench()
    b.handle(ev.DrainRequested())
    b.handle(ev.WorkerJoined(slot="far/cuda0"))
    assert b.is_idle()
    assert "far/cuda0" not in b.broker.worker_table.workers


def test_leaving_worker_finishes_its_leases_and_is_drained() -> None:
    b = bench("p0", batch_size=1)
    b.join("far/cuda0", credit=2)
    b.submit()
    b.read(0, 1, 2, 3)
    b.receive(b.last(ac.SendLease))
    b.wait(1)
    b.reply(b.last(ac.SendLease))
    b.handle(ev.MessageReceived("far/cuda0.1", pr.WorkerLeaving(cause="SIGTERM")))
    b.handle(ev.MessageReceived("far/cuda0.1", pr.WorkerLeaving(cause="SIGTERM")))
    assert b.slot("far/cuda0").cause == "SIGTERM"
    _, first, second = b.all(ac.SendLease)
    b.reply(first)
    assert not b.sent(pr.Drain)
    b.reply(second)
    assert b.sent(pr.Drain) == [ac.SendMessage("far/cuda0.1", pr.Drain())]
    b.die("far/cuda0.1", cause="left")
    assert b.slot("far/cuda0").state is WorkerState.STOPPED
    assert b.slot("far/cuda0").failures == 0
    assert b.stored(3).state is SegmentState.PENDING


@pytest.mark.parametrize("is_ready", [True, False])
def test_leaving_worker_without_work_is_drained_at_once(is_ready: bool) -> None:
    b = Bench()
    b.handle(ev.WorkerJoined(slot="far/cuda0"))
    if is_ready:
        b.ready("far/cuda0.1")
    b.handle(ev.MessageReceived("far/cuda0.1", pr.WorkerLeaving(cause="SIGTERM")))
    if is_ready:
        assert b.sent(pr.Drain)[-1] == ac.SendMessage("far/cuda0.1", pr.Drain())
    else:
        assert b.last(ac.KillWorker) == ac.KillWorker(worker="far/cuda0.1", cause="SIGTERM")
    b.die("far/cuda0.1")
    assert b.slot("far/cuda0").state is WorkerState.STOPPED


def test_lease_has_a_time_limit_to_arrive_and_one_to_be_done() -> None:
    """At 16 kB/s a window takes a minute: a slow link is not a dead one, while heartbeats come."""
    b = bench("p0", batch_size=1, lease_min_s=30, lease_per_audio_s=0, silence_s=10_000)
    b.join("far/cuda0", credit=2)
    b.submit()
    b.read(0, 1, 2, samples=480_000)
    b.wait(1)
    b.receive(b.last(ac.SendLease))
    b.wait(1)
    b.reply(b.last(ac.SendLease))
    _, first, second = b.all(ac.SendLease)
    assert b.slot("far/cuda0").due_at == 2 + WINDOW_BYTES / 16_000
    b.wait(59)
    b.receive(first)
    assert b.slot("far/cuda0").due_at == 61 + 30
    b.wait(29)
    b.reply(first)
    assert b.slot("far/cuda0").due_at == 2 + 2 * WINDOW_BYTES / 16_000, "it waited for the first to arrive"
    b.wait(20)
    b.receive(second)
    b.receive(second)
    assert b.slot("far/cuda0").due_at == 110 + 3 * 15, "it takes 15 s for a lease on average"
    assert not b.all(ac.KillWorker)
    b.wait(45)
    assert b.last(ac.KillWorker).cause == "lease not received or not done within its time limit"


def test_arrival_of_a_returned_lease_changes_nothing() -> None:
    b = bench("p0")
    b.join("far/cuda0")
    b.submit()
    b.read(0)
    sent = b.last(ac.SendLease)
    b.reply(sent)
    assert b.receive(sent) == []
    b.join("far/cuda0")
    assert b.receive(sent) == []


def test_measured_link_is_recorded() -> None:
    b = bench("gpu0")
    b.join("far/cuda0")
    b.handle(ev.LinkMeasured(worker="far/cuda0.1", round_trip_s=0.02, bytes_per_s=1e6))
    b.handle(ev.LinkMeasured(worker="far/cuda0.7", round_trip_s=7, bytes_per_s=7))
    assert (b.slot("far/cuda0").round_trip_s, b.slot("far/cuda0").bytes_per_s) == (0.02, 1e6)


def test_faulty_remote_device_is_quarantined() -> None:
    """It may join after the quarantine, and its next failure quarantines it again."""
    b = Bench(crash_budget=2, quarantine_s=600)
    b.join("far/cuda0")
    b.die("far/cuda0.1")
    b.join("far/cuda0")
    b.die("far/cuda0.2")
    assert b.slot("far/cuda0").state is WorkerState.BROKEN
    b.handle(ev.WorkerJoined(slot="far/cuda0"))
    assert b.slot("far/cuda0").state is WorkerState.BROKEN
    b.wait(600)
    assert b.slot("far/cuda0").state is WorkerState.STOPPED
    assert b.join("far/cuda0") == "far/cuda0.3"
    b.die("far/cuda0.3")
    assert b.slot("far/cuda0").state is WorkerState.BROKEN
    b.handle(ev.SlotReset("far/cuda0"))
    assert b.slot("far/cuda0").state is WorkerState.STOPPED
    assert b.join("far/cuda0") == "far/cuda0.4"
    assert b.slot("far/cuda0").failures == 0
    assert not b.all(ac.SpawnWorker)


def test_draining_daemon_does_not_wait_for_a_quarantined_device() -> None:
    b = Bench(crash_budget=1)
    b.join("far/cuda0")
    b.join("far/cuda1")
    b.die("far/cuda0.1")
    b.wait(30)
    assert b.slot("far/cuda1").state is WorkerState.LOST
    assert not b.is_idle()
    b.handle(ev.DrainRequested())
    assert not b.is_idle()
    b.die("far/cuda1.1")
    assert b.is_idle()


def test_stopped_remote_slots_are_forgotten_after_a_while() -> None:
    """Hosts that come and go have ever new names; one that comes back later is never confused with what it was."""
    b = bench("gpu0")
    for _ in range(3):
        b.join("far/cuda0")
    b.die("far/cuda0.3")
    b.wait(0)
    b.wait(599)
    assert "far/cuda0" in b.broker.worker_table.workers
    assert b.broker.tick(b.now)[1] <= 600
    b.wait(1)
    assert list(b.broker.worker_table.workers) == ["gpu0"]
    assert b.join("far/cuda0") == "far/cuda0.4"
    assert b.join("other/cuda0") == "other/cuda0.4"
    b.handle(ev.SlotRemoved("gpu0"))
    b.die("gpu0.1")
    b.wait(7000)
    assert "gpu0" in b.broker.worker_table.workers, "the slots of this host are in its configuration"


def silenced(b: Bench) -> None:
    """Make the one remote worker silent while it works on a lease."""
    b.join("far/cuda0")
    b.submit()
    b.read(0)
    b.receive(b.last(ac.SendLease))
    b.wait(30)
    assert b.stored(0).losses == 1


@pytest.mark.parametrize("is_noticed", [True, False])
def test_partition_is_not_blamed_on_the_running_lease(is_noticed: bool) -> None:
    """The same process comes back: what it held did not kill it."""
    b = bench("p0", silence_s=30, attempts=2)
    silenced(b)
    if is_noticed:
        b.die("far/cuda0.1", cause="its session was ended")
        assert b.slot("far/cuda0").failures == 1
    b.handle(ev.WorkerJoined(slot="far/cuda0", previous="far/cuda0.1"))
    assert b.stored(0).losses == 0
    assert b.slot("far/cuda0").failures == 0


def test_lost_connection_is_not_blamed_on_the_running_lease() -> None:
    b = bench("p0", attempts=2)
    b.join("far/cuda0")
    b.submit()
    b.read(0)
    b.receive(b.last(ac.SendLease))
    b.die("far/cuda0.1", cause="its connection was lost")
    assert (b.stored(0).losses, b.slot("far/cuda0").failures) == (1, 1)
    b.join("far/cuda0", previous="far/cuda0.1")
    assert (b.stored(0).losses, b.slot("far/cuda0").failures) == (0, 0)


def test_remote_process_that_ends_early_counts_as_a_crash() -> None:
    b = Bench(crash_budget=3)
    for _ in range(3):
        b.join("far/cuda0")
    assert b.slot("far/cuda0").failures == 2
    b.handle(ev.WorkerJoined(slot="far/cuda0"))
    assert b.slot("far/cuda0").state is WorkerState.BROKEN
    assert b.last(ac.KillWorker) == ac.KillWorker(worker="far/cuda0.3", cause="joined again")
    assert b.die("far/cuda0.3", cause="its session was ended") == []


def test_crash_of_a_remote_process_is_blamed_on_its_running_lease() -> None:
    b = bench("p0", silence_s=30, attempts=2)
    silenced(b)
    b.die("far/cuda0.1", cause="its session was ended")
    b.join("far/cuda0")
    assert b.stored(0).losses == 1
    assert b.slot("far/cuda0").failures == 1
    b.receive(b.last(ac.SendLease))
    b.join("far/cuda0")
    assert b.stored(0).state is SegmentState.FAILED


def test_new_session_of_the_same_process_blames_nothing() -> None:
    b = bench("p0", attempts=1)
    b.join("far/cuda0")
    b.submit()
    b.read(0)
    b.receive(b.last(ac.SendLease))
    b.join("far/cuda0", previous="far/cuda0.1")
    assert b.stored(0).losses == 0
    assert b.last(ac.SendLease).lease.worker == "far/cuda0.2"


def test_lease_that_never_arrived_is_not_blamed() -> None:
    b = bench("p0", attempts=1)
    b.join("far/cuda0")
    b.submit()
    b.read(0)
    b.join("far/cuda0")
    assert b.stored(0).losses == 0


def test_repeated_unload_messages_do_not_extend_a_lease() -> None:
    b = bench("p0", silence_s=1000, lease_min_s=30, start_timeout_s=60)
    b.join("far/cuda0")
    b.submit()
    b.read(0)
    b.receive(b.last(ac.SendLease))
    for _ in range(9):
        b.wait(10)
        b.handle(ev.MessageReceived("far/cuda0.1", pr.ModelUnloaded()))
    assert b.last(ac.KillWorker).worker == "far/cuda0.1"


def test_blame_for_a_hang_is_not_undone() -> None:
    b = bench("p0", silence_s=1000, lease_min_s=30)
    b.join("far/cuda0")
    b.submit()
    b.read(0)
    b.receive(b.last(ac.SendLease))
    b.wait(30)
    b.join("far/cuda0", previous="far/cuda0.1")
    assert b.stored(0).losses == 1


def test_a_worker_that_sends_an_invalid_message_blames_no_segment() -> None:
    """Its session ends; the segments of its lease lose no attempt."""
    b = bench("p0", attempts=2)
    b.submit()
    for number in range(1, 5):
        worker = b.join("far/cuda0")
        if number == 1:
            b.read(0)
        b.receive(b.last(ac.SendLease))
        b.handle(
            ev.WorkerExited(worker=worker, is_fatal=False, cause="sent an invalid message", is_blamed=False)
        )
        assert (b.stored(0).state, b.stored(0).losses) == (SegmentState.PENDING, 0)


def test_the_last_attempt_is_not_for_a_remote_worker_that_has_finished_nothing() -> None:
    """A key holder may join under ever new names, and lose what it is given."""
    b = bench("p0", attempts=2)
    b.worker("gpu0")
    b.submit()
    b.read(0, 1)
    for lease in b.all(ac.SendLease):
        if lease.lease.worker == "gpu0.1":
            held = lease
    first = b.join("far/x1")
    assert b.last(ac.SendLease).lease.worker == first
    b.receive(b.last(ac.SendLease))
    b.die(first)
    assert b.stored(1).losses == 1
    b.join("far/x2")
    assert b.last(ac.SendLease).lease.worker == first, "x2 gets no last attempt"
    b.wait(1)
    b.reply(held)
    assert b.last(ac.SendLease).lease.worker == "gpu0.1"
