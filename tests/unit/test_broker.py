"""The broker: one event each, and the actions that it must lead to."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.broker import CHANGED
from subtitled.core.prepare_dispatch import GRANT_BYTES
from subtitled.core.records import Role, SegmentKey
from subtitled.core.states import IllegalTransition, JobState, SegmentState, WorkerState
from subtitled.version import VERSION
from unit.broker_bench import PLAN_SETTINGS, SECOND, WINDOW, Bench, bench, indices, plan

# -- the good way --------------------------------------------------------------------------------------------


def test_file_passes_through_all_stages() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    assert b.state("a") is JobState.PREPARING
    b.prepared(0)
    assert indices(b.last(ac.SendLease)) == [0], "the first lease leaves while the file is being read"
    b.read(1)
    assert b.state("a") is JobState.TRANSCRIBING
    b.reply_to_all()
    assert b.last(ac.WriteOutputs).job.state is JobState.WRITING
    b.handle(ev.OutputsWritten("a", b"done/a"))
    assert b.state("a") is JobState.DONE
    assert b.jobs["a"].location == b"done/a"
    assert b.broker.live_jobs.jobs == {}
    assert b.broker.live_jobs.queued_bytes == 0


def test_silent_file_is_written_without_a_lease() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read()
    assert b.state("a") is JobState.WRITING
    assert not b.all(ac.SendLease)
    assert len(b.all(ac.WriteOutputs)) == 1


def test_no_file_is_read_before_a_model_reports_its_window() -> None:
    b = bench("p0")
    b.submit()
    assert not b.all(ac.SendPrepare)
    b.worker("gpu0")
    assert b.last(ac.SendPrepare).message.settings.window_samples == WINDOW


def test_no_file_is_started_without_disk_space() -> None:
    b = bench("p0", "gpu0")
    b.handle(ev.DiskSpaceChanged(is_enough=False))
    b.submit()
    assert b.state("a") is JobState.QUEUED
    b.handle(ev.DiskSpaceChanged(is_enough=True))
    assert b.state("a") is JobState.PREPARING


def waiting(b: Bench) -> list[str]:
    """Return the jobs of the queue in its order."""
    return [name for *_, name in b.broker.live_jobs.waiting]


def test_files_are_started_in_the_changed_order_and_none_while_the_queue_is_paused() -> None:
    b = bench("p0", "gpu0")
    b.handle(ev.PauseRequested(is_paused=True))
    b.handle(ev.PauseRequested(is_paused=True))
    assert b.all(ac.SavePause) == [ac.SavePause(is_paused=True)]
    for name in "abc":
        b.submit(name)
    b.handle(ev.JobMoved(job="c", neighbour="a"))
    assert waiting(b) == ["c", "a", "b"]
    b.handle(ev.JobMoved(job="c", neighbour="a", is_after=True))
    assert waiting(b) == ["a", "c", "b"]
    b.handle(ev.JobMoved(job="c", neighbour="a"))
    b.handle(ev.JobMoved(job="c", neighbour="unknown"))
    b.handle(ev.JobMoved(job="c", neighbour="c"))
    assert (b.jobs["c"].changed_priority, b.jobs["c"].priority) == (0, 0)
    b.handle(ev.PriorityChanged(job="b", priority=10))
    b.handle(ev.PriorityChanged(job="unknown", priority=10))
    assert waiting(b) == ["b", "c", "a"]
    assert not b.all(ac.SendPrepare)
    b.handle(ev.PauseRequested(is_paused=False))
    assert b.last(ac.SendPrepare).job.id == "b"


def test_uploaded_file_is_read_when_it_is_complete() -> None:
    b = bench("p0", "gpu0")
    b.submit(state=JobState.RECEIVING)
    assert not b.all(ac.SendPrepare)
    b.handle(ev.Uploaded(job="a", size=7, mtime_ns=8, sha256="f" * 64))
    assert b.state("a") is JobState.PREPARING
    sent = b.last(ac.SendPrepare).job
    assert (sent.size, sent.mtime_ns, sent.sha256) == (7, 8, "f" * 64)


@pytest.mark.parametrize("event", [ev.UploadExpired(job="a", cause="silent"), ev.CancelRequested("a")])
def test_job_whose_upload_ends_is_forgotten(event: ev.Event) -> None:
    b = bench("p0", "gpu0")
    b.submit(state=JobState.RECEIVING)
    b.handle(event)
    assert b.state("a") is JobState.CANCELLED
    assert b.broker.live_jobs.jobs == {}


def test_restarted_daemon_still_waits_for_an_upload() -> None:
    b = bench("p0", "gpu0")
    b.submit(state=JobState.RECEIVING)
    after = bench("p0", "gpu0")
    after.broker.restore([(b.jobs["a"], ())], 0.0)
    assert not after.all(ac.SendPrepare)
    after.handle(ev.Uploaded(job="a", size=7, mtime_ns=8, sha256="f" * 64))
    assert after.all(ac.SendPrepare)


def test_two_workers_share_one_file() -> None:
    b = bench("p0", "gpu0", "gpu1")
    b.submit()
    b.read(0, 1)
    assert {sent.lease.worker for sent in b.all(ac.SendLease)} == {"gpu0.1", "gpu1.1"}


def test_only_a_full_batch_is_leased_ahead() -> None:
    b = bench("p0", "gpu0", credit=2, batch_size=2)
    b.submit()
    b.prepared(0)
    b.prepared(1)
    assert len(b.all(ac.SendLease)) == 1
    b.prepared(2)
    assert [indices(sent) for sent in b.all(ac.SendLease)] == [[0], [1, 2]]


# -- the death of a transcribe worker ------------------------------------------------------------------------


def test_dead_worker_releases_its_lease() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0)
    b.die("gpu0.1")
    assert b.stored(0).state is SegmentState.PENDING
    assert b.stored(0).losses == 1
    b.worker("gpu1")
    assert b.last(ac.SendLease).lease.worker == "gpu1.1"
    b.reply_to_all()
    assert b.state("a") is JobState.WRITING


def test_dead_worker_is_restarted_after_a_while() -> None:
    b = bench("gpu0")
    b.die("gpu0.1")
    assert b.slot("gpu0").state is WorkerState.BACKOFF
    assert not b.wait(0.4)
    assert b.broker.tick(b.now)[1] == pytest.approx(b.slot("gpu0").due_at)
    b.wait(0.3)
    assert b.last(ac.SpawnWorker) == ac.SpawnWorker(slot="gpu0", incarnation=2)


def test_late_reply_of_a_dead_worker_is_stale() -> None:
    b = bench("p0", "gpu0", "gpu1")
    b.submit()
    b.read(0)
    late = b.last(ac.SendLease)
    b.die(late.lease.worker)
    actions = b.reply(late)
    assert actions == [ac.ResultStale(worker=late.lease.worker, lease=late.lease.id)]
    assert b.stored(0).state is SegmentState.LEASED


def test_late_reply_of_a_worker_declared_lost_is_stale() -> None:
    b = bench("p0", "gpu0", lease_min_s=30, silence_s=1000)
    b.submit()
    b.read(0)
    b.wait(30)
    assert b.last(ac.KillWorker).worker == "gpu0.1"
    assert b.slot("gpu0").state is WorkerState.LOST
    b.reply(b.last(ac.SendLease))
    assert b.stored(0).state is SegmentState.PENDING


def test_late_reply_of_an_earlier_incarnation_is_stale() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0)
    late = b.last(ac.SendLease)
    b.die("gpu0.1")
    b.wait(5)
    b.ready("gpu0.2")
    b.reply(late)
    assert b.stored(0).state is SegmentState.LEASED
    assert b.last(ac.ResultStale).worker == "gpu0.1"


def test_only_the_running_lease_is_blamed() -> None:
    b = bench("p0", "gpu0", credit=2, batch_size=1)
    b.submit()
    b.read(0, 1)
    assert [indices(sent) for sent in b.all(ac.SendLease)] == [[0], [1]]
    b.die("gpu0.1")
    assert (b.stored(0).losses, b.stored(1).losses) == (1, 0)


def test_worker_gets_as_many_segments_as_its_batch_size() -> None:
    b = bench("p0", batch_size=16)
    b.worker("gpu0", batch_size=2)
    b.submit()
    b.read(*range(7))
    b.reply_to_all()
    assert max(len(indices(sent)) for sent in b.all(ac.SendLease)) == 2
    assert b.state("a") is JobState.WRITING


def test_worker_with_streams_decodes_several_leases_at_once() -> None:
    """Each has its own time limit; all running ones are blamed for its end, the waiting one is not."""
    b = bench("p0", batch_size=1)
    b.worker("gpu0", credit=3, streams=2)
    b.submit()
    b.read(0, 1, 2)
    assert [indices(sent) for sent in b.all(ac.SendLease)] == [[0], [1], [2]]
    b.wait(20)
    b.reply(b.lease(2))
    assert b.slot("gpu0").due_at == 30, "the first lease has been running all the time"
    b.die("gpu0.1")
    assert [b.stored(index).losses for index in (0, 2)] == [1, 1]


def test_the_streams_of_a_worker_share_the_ready_segments() -> None:
    """The first one does not take all of a short file, while the others have nothing to do."""
    b = bench("gpu0", "p0", batch_size=8)
    b.submit("a")
    b.read(*range(9), job="a")
    b.worker("gpu1", credit=4, streams=4)
    sent = [lease for lease in b.all(ac.SendLease) if lease.lease.worker == "gpu1.1"]
    assert [len(indices(lease)) for lease in sent] == [2, 1, 1, 1]


def test_idle_worker_goes_before_a_free_stream() -> None:
    b = bench("p0", batch_size=1)
    for slot in ("gpu0", "gpu1"):
        b.worker(slot, credit=3, streams=2)
    b.submit()
    b.read(0, 1, 2)
    assert [sent.lease.worker for sent in b.all(ac.SendLease)] == ["gpu0.1", "gpu1.1", "gpu0.1"]


@pytest.mark.parametrize("is_late", [False, True])
def test_lease_has_more_time_when_the_model_has_to_be_loaded(is_late: bool) -> None:
    """Also if it was sent before the message about the unload arrived."""
    b = bench("gpu0", "p0", start_timeout_s=600, silence_s=10_000)
    b.submit()
    if not is_late:
        b.handle(ev.MessageReceived("gpu0.1", pr.ModelUnloaded()))
    b.read(0, 1)
    if is_late:
        b.handle(ev.MessageReceived("gpu0.1", pr.ModelUnloaded()))
    assert b.slot("gpu0").due_at == 630
    b.reply(b.last(ac.SendLease))
    assert b.slot("gpu0").due_at == 30, "it is loaded now"
    b.reply(b.last(ac.SendLease))
    b.handle(ev.MessageReceived("gpu0.7", pr.ModelUnloaded()))
    assert b.slot("gpu0").resident("").is_loaded, "messages of an unknown worker are ignored"


def test_time_limit_of_a_lease_starts_when_the_one_before_it_is_answered() -> None:
    b = bench("p0", "gpu0", credit=2, batch_size=1, lease_min_s=30, silence_s=1000)
    b.submit()
    b.read(0, 1)
    b.wait(10)
    b.reply(b.all(ac.SendLease)[0])
    b.wait(29)
    assert not b.all(ac.KillWorker), "its time limit started when the worker got to it"
    b.wait(1)
    assert b.last(ac.KillWorker).cause == "lease not done within its time limit"
    assert b.stored(1).losses == 1


def test_suspect_segments_are_leased_alone() -> None:
    b = bench("p0", batch_size=16)
    b.worker("gpu0", credit=2)
    b.die("gpu0.1")
    b.submit()
    b.read(0, 1, 2)
    b.worker("gpu1")
    assert indices(b.last(ac.SendLease)) == [0, 1, 2]
    b.die("gpu1.1")
    b.wait(60)
    b.ready("gpu1.2")
    assert [len(b.last(ac.SendLease).message.items)] == [1]
    b.reply_to_all()
    assert [len(sent.message.items) for sent in b.all(ac.SendLease)] == [3, 1, 1, 1]


def test_segment_that_loses_three_workers_fails() -> None:
    b = bench("p0", "gpu0", attempts=3)
    b.submit()
    b.read(0)
    for incarnation in (1, 2, 3):
        b.die(f"gpu0.{incarnation}", cause=f"crash {incarnation}")
        b.wait(60)
        b.ready(f"gpu0.{incarnation + 1}")
    assert b.stored(0).state is SegmentState.FAILED
    assert b.stored(0).cause == "crash 3"
    assert b.state("a") is JobState.FAILED
    assert b.jobs["a"].cause == "1 of 1 segments could not be transcribed"
    assert len(b.all(ac.WriteFailure)) == 1


def test_other_segments_are_done_after_one_has_failed() -> None:
    b = bench("p0", "gpu0", attempts=1)
    b.submit()
    b.prepared(0)
    b.read(1)
    b.handle(ev.MessageReceived("gpu0.1", pr.LeaseRefused(lease=1, cause="out of memory")))
    assert b.state("a") is JobState.TRANSCRIBING
    b.reply_to_all()
    assert (b.stored(0).state, b.stored(1).state) == (SegmentState.FAILED, SegmentState.DONE)
    assert b.state("a") is JobState.FAILED


def test_fatal_exit_breaks_the_slot_and_others_continue() -> None:
    b = bench("p0", "gpu0", "gpu1")
    b.submit()
    b.read(0)
    first = b.last(ac.SendLease).lease.worker
    b.die(first, is_fatal=True, cause="no such model")
    broken = b.slot(first.partition(".")[0])
    assert (broken.state, broken.cause) == (WorkerState.BROKEN, "no such model")
    assert b.last(ac.SendLease).lease.worker != first
    b.wait(3600)
    assert not [
        spawn for spawn in b.all(ac.SpawnWorker) if (spawn.slot, spawn.incarnation) == (broken.slot, 2)
    ]


def test_broken_slot_is_restarted_by_a_reload() -> None:
    b = bench("gpu0")
    b.die("gpu0.1", is_fatal=True)
    b.handle(ev.SlotReset("gpu0"))
    assert b.last(ac.SpawnWorker) == ac.SpawnWorker(slot="gpu0", incarnation=2)


def test_silent_worker_is_killed() -> None:
    b = bench("gpu0", silence_s=30)
    b.wait(29)
    b.handle(ev.MessageReceived("gpu0.1", pr.Heartbeat()))
    b.wait(29)
    assert not b.all(ac.KillWorker)
    b.wait(1)
    assert b.last(ac.KillWorker) == ac.KillWorker(worker="gpu0.1", cause="no message for 30 s")
    b.die("gpu0.1", cause="killed by SIGKILL")
    assert b.slot("gpu0").cause == "no message for 30 s", "the cause is the reason for the kill, not the kill"


def test_worker_that_is_never_ready_is_killed() -> None:
    b = Bench(start_timeout_s=600)
    b.handle(ev.SlotAdded("gpu0", Role.TRANSCRIBE))
    b.wait(599)
    assert not b.all(ac.KillWorker)
    b.wait(1)
    assert b.last(ac.KillWorker).worker == "gpu0.1"


def test_messages_of_a_dead_worker_change_nothing() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    order = b.last(ac.SendPrepare)
    b.die("p0.1")
    for event in (
        ev.MessageReceived("p0.1", pr.WorkerReady(version=VERSION, credit=1)),
        ev.MessageReceived("p0.1", pr.Heartbeat()),
        ev.MessageReceived("never was", pr.Heartbeat()),
        ev.MessageReceived(
            "p0.1", pr.Heartbeat(feed=order.message.feed, decoded_samples=1, is_waiting=False)
        ),
        ev.MessageReceived("p0.1", pr.Prepared(feed=order.message.feed, plan=plan(0))),
        ev.MessageReceived("p0.1", pr.PlanComplete(feed=order.message.feed, media=b"")),
        ev.MessageReceived("p0.1", pr.PrepareRefused(feed=order.message.feed, cause="late")),
        ev.WorkerExited(worker="p0.0", is_fatal=True, cause="of another life"),
    ):
        assert b.handle(event) == []


# -- replies -------------------------------------------------------------------------------------------------


def test_segment_missing_in_a_reply_is_leased_again() -> None:
    b = bench("p0")
    b.submit()
    b.worker("gpu0")
    b.die("gpu0.1")
    b.read(0, 1)
    b.worker("gpu1")
    b.reply(b.last(ac.SendLease), without=(1,))
    assert b.stored(0).state is SegmentState.DONE
    assert (b.stored(1).losses, b.stored(1).cause) == (1, "the worker's reply left it out")
    assert indices(b.last(ac.SendLease)) == [1]


def test_results_of_a_running_lease_count_at_once() -> None:
    """A job ends without the rest of the lease; the answer to the lease does not count them again."""
    b = bench("p0", "p1", "gpu0")
    b.die("gpu0.1")
    b.submit("a")
    b.submit("b")
    b.read(0, job="a")
    b.read(0, 1, job="b")
    b.worker("gpu1")
    sent = b.last(ac.SendLease)
    assert [item.key for item in sent.message.items] == [
        SegmentKey("a", 0),
        SegmentKey("b", 0),
        SegmentKey("b", 1),
    ]
    some = b.outcomes(sent)[:2]
    b.handle(ev.MessageReceived("gpu1.1", pr.SegmentsTranscribed(lease=sent.lease.id, items=some)))
    assert b.state("a") is JobState.WRITING
    assert [b.stored(index, "b").state for index in (0, 1)] == [SegmentState.DONE, SegmentState.LEASED]
    assert b.slot("gpu1").leases == (sent.lease.id,)
    b.reply(sent)
    assert b.state("b") is JobState.WRITING
    results = [save.segment.key for save in b.all(ac.SaveSegment) if save.result is not None]
    assert len(results) == len(set(results)) == 3


def test_worker_that_is_lost_after_some_results_loses_the_others() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0, 1)
    b.die("gpu0.1")
    b.submit("b")
    b.read(0, 1, 2, job="b")
    b.worker("gpu1")
    sent = next(sent for sent in b.all(ac.SendLease) if len(sent.message.items) > 1)
    part = pr.SegmentsTranscribed(lease=sent.lease.id, items=b.outcomes(sent)[:1])
    b.handle(ev.MessageReceived(sent.lease.worker, part))
    b.die(sent.lease.worker)
    first, *others = (item.key for item in sent.message.items)
    assert b.segments[first].state is SegmentState.DONE
    assert all(b.segments[key].losses == 1 for key in others)
    late = len(b.actions)
    b.handle(ev.MessageReceived(sent.lease.worker, part))
    assert not [save for save in b.actions[late:] if isinstance(save, ac.SaveSegment)]


def test_result_that_is_twice_in_a_reply_counts_once() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0)
    sent = b.last(ac.SendLease)
    outcome = pr.ItemResult(
        key=SegmentKey("a", 0), is_speech=True, language="de", language_probability=1, result=b""
    )
    unknown = replace(outcome, key=SegmentKey("a", 7))
    b.handle(
        ev.MessageReceived("gpu0.1", pr.Transcribed(lease=sent.lease.id, items=(outcome, outcome, unknown)))
    )
    assert len([save for save in b.all(ac.SaveSegment) if save.result is not None]) == 1


def test_refused_lease_is_leased_again_and_its_worker_stays() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0)
    b.handle(ev.MessageReceived("gpu0.1", pr.LeaseRefused(lease=1, cause="out of memory")))
    assert b.stored(0).losses == 1
    assert b.last(ac.SendLease).lease.id == 2


def test_segment_without_speech_is_skipped() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0)
    b.reply_to_all(is_speech=False)
    assert b.stored(0).state is SegmentState.SKIPPED
    assert b.state("a") is JobState.WRITING


# -- language ------------------------------------------------------------------------------------------------


def test_language_vote_outvotes_a_musical_intro() -> None:
    b = bench("p0", "gpu0", batch_size=1)
    b.submit(language="auto")
    b.read(0, 1, 2)
    b.reply(b.last(ac.SendLease), language="la", probability=0.8)
    b.reply(b.last(ac.SendLease))
    b.reply(b.last(ac.SendLease))
    assert b.jobs["a"].language == "de"
    again = b.last(ac.SendLease)
    assert [(item.key.index, item.language) for item in again.audio] == [(0, "de")]
    assert b.stored(0).cause == "decoded as la, the file is in de"
    assert b.stored(0).losses == 0
    b.reply(again)
    assert b.state("a") is JobState.WRITING


def test_four_results_settle_the_language_while_the_file_is_read() -> None:
    b = bench("p0", "gpu0", batch_size=1)
    b.submit(language="auto")
    for index in range(5):
        b.prepared(index)
    for _ in range(4):
        assert b.last(ac.SendLease).audio[0].language is None
        b.reply(b.last(ac.SendLease))
    assert b.last(ac.SendLease).audio[0].language == "de"
    assert b.broker.live_jobs.queued_bytes == 2 * SECOND, "the PCM of the settled segments is dropped"


def test_result_in_another_language_after_the_vote_is_decoded_again() -> None:
    b = bench("p0", "gpu0", "gpu1", batch_size=1)
    b.submit(language="auto")
    for index in range(6):
        b.prepared(index)
    slow = next(sent for sent in b.all(ac.SendLease) if sent.lease.worker == "gpu1.1")
    for _ in range(4):
        b.reply(next(s for s in reversed(b.all(ac.SendLease)) if s.lease.worker == "gpu0.1"))
    b.reply(slow, language="la")
    index = slow.message.items[0].key.index
    assert b.stored(index).language == "la"
    assert b.stored(index).state in {SegmentState.PENDING, SegmentState.LEASED}


def test_with_language_multi_each_segment_keeps_its_own() -> None:
    b = bench("p0", "gpu0", batch_size=1)
    b.submit(language="multi")
    b.read(0, 1)
    b.reply(b.last(ac.SendLease), language="fr")
    b.reply(b.last(ac.SendLease), language="de")
    assert (b.stored(0).language, b.stored(1).language) == ("fr", "de")
    assert b.state("a") is JobState.WRITING
    assert b.jobs["a"].language is None


# -- prepare workers -----------------------------------------------------------------------------------------


def test_prepare_worker_lost_twice_fails_the_job() -> None:
    b = bench("p0", "gpu0", prepare_attempts=2)
    b.submit()
    b.die("p0.1")
    assert (b.state("a"), b.jobs["a"].losses) == (JobState.QUEUED, 1)
    b.wait(60)
    b.ready("p0.2")
    assert b.state("a") is JobState.PREPARING
    b.die("p0.2", cause="killed by SIGBUS")
    assert b.state("a") is JobState.FAILED
    assert b.jobs["a"].cause == "reading it failed 2 times, the last time with: killed by SIGBUS"


def test_decoder_without_progress_is_killed() -> None:
    b = bench("p0", "gpu0", prepare_stall_s=60, silence_s=1000)
    b.submit()
    feed = b.last(ac.SendPrepare).message.feed
    b.wait(50)
    b.handle(ev.MessageReceived("p0.1", pr.Heartbeat(feed=feed, decoded_samples=1, is_waiting=False)))
    b.wait(59)
    assert not b.all(ac.KillWorker)
    b.handle(ev.MessageReceived("p0.1", pr.Heartbeat(feed=feed, decoded_samples=1, is_waiting=False)))
    b.wait(1)
    assert b.last(ac.KillWorker).cause == "no progress in decoding for 60 s"


def stalled(b: Bench, *, is_blamed: bool) -> None:
    """Let the worker that reads a file make no progress; its folder is checked, and answers."""
    b.wait(60)
    b.die(b.last(ac.KillWorker).worker)
    check = b.last(ac.CheckFile)
    assert check.suspicion == "no progress in decoding for 60 s"
    blame = check.suspicion if is_blamed else ""
    b.handle(ev.FileChecked(job=check.job.id, folder=check.folder, blame=blame))
    b.wait(1)


def test_file_whose_folder_hangs_is_read_again_and_not_blamed() -> None:
    b = bench("p0", "gpu0", prepare_attempts=1, prepare_stall_s=60, silence_s=1000)
    b.submit()
    for incarnation in (2, 3):
        stalled(b, is_blamed=False)
        assert (b.state("a"), b.jobs["a"].losses) == (JobState.QUEUED, 0)
        b.wait(60)
        b.ready(f"p0.{incarnation}")
        assert b.state("a") is JobState.PREPARING


def test_file_that_stalls_its_decoder_in_a_folder_that_answers_is_blamed() -> None:
    b = bench("p0", "gpu0", prepare_attempts=2, prepare_stall_s=60, silence_s=1000)
    b.submit()
    stalled(b, is_blamed=True)
    assert (b.state("a"), b.jobs["a"].losses) == (JobState.QUEUED, 1)
    b.wait(60)
    b.ready("p0.2")
    stalled(b, is_blamed=True)
    assert b.state("a") is JobState.FAILED
    assert "no progress in decoding for 60 s" in b.jobs["a"].cause


def test_files_of_a_folder_that_hangs_wait_and_those_of_others_are_read() -> None:
    b = bench("p0", "gpu0", prepare_stall_s=60, silence_s=1000)
    b.submit("hung", inbox=b"/nfs")
    b.submit("too", inbox=b"/nfs")
    b.submit("other", inbox=b"/disk")
    b.wait(60)
    b.die("p0.1")
    b.wait(60)
    b.ready("p0.2")
    b.read(job="other")
    b.submit("late", inbox=b"/nfs")
    assert [b.state(job) for job in ("hung", "too", "late")] == [JobState.QUEUED] * 3
    assert len(b.all(ac.CheckFile)) == 1
    b.handle(ev.FileChecked(job="hung", folder=b"/nfs", blame=""))
    for job in ("hung", "too", "late"):
        b.read(job=job)
        assert b.state(job) is JobState.WRITING


def test_cancelled_job_of_a_folder_that_hangs_is_not_read_when_it_answers() -> None:
    b = bench("p0", "gpu0", prepare_stall_s=60, silence_s=1000)
    b.submit()
    b.wait(60)
    b.die("p0.1")
    b.handle(ev.CancelRequested("a"))
    b.wait(60)
    b.ready("p0.2")
    b.handle(ev.FileChecked(job="a", folder=b.last(ac.CheckFile).folder, blame="no progress"))
    assert b.state("a") is JobState.CANCELLED
    assert b.slot("p0").state is WorkerState.IDLE


def test_folder_is_checked_for_another_job_or_no_more_after_a_cancel() -> None:
    b = bench("p0", "gpu0")
    b.submit("a", inbox=b"/in", mount=b"/in/nas")
    for job in ("b", "c"):
        b.submit(job, inbox=b"/in", mount=b"/in/nas")
    b.refuse("no such file", is_missing=True)
    b.handle(ev.CancelRequested("b"))
    assert not b.all(ac.StopFileCheck), "the folder is checked for another job"
    b.handle(ev.CancelRequested("a"))
    assert b.all(ac.StopFileCheck) == [ac.StopFileCheck(folder=b"/in/nas")]
    assert [(check.job.id, check.suspicion) for check in b.all(ac.CheckFile)][1:] == [("c", "")]
    assert b.state("c") is JobState.QUEUED
    b.handle(ev.CancelRequested("c"))
    assert len(b.all(ac.StopFileCheck)) == 2
    assert len(b.all(ac.CheckFile)) == 2
    b.submit("new", inbox=b"/in", mount=b"/in/nas")
    assert b.state("new") is JobState.PREPARING


def test_worker_killed_in_a_folder_that_hangs_is_not_blamed_on_its_file_after_a_cancel() -> None:
    b = bench("p0", "p1", "gpu0", prepare_attempts=1, prepare_stall_s=60, silence_s=1000)
    b.submit("a", inbox=b"/nfs")
    b.submit("b", inbox=b"/nfs")
    b.wait(60)
    assert len(b.all(ac.KillWorker)) == 2
    first = b.last(ac.CheckFile).job.id
    b.handle(ev.CancelRequested(first))
    other = b.last(ac.CheckFile).job.id
    assert {first, other} == {"a", "b"}
    for worker in ("p0.1", "p1.1"):
        b.die(worker)
    assert (b.state(other), b.jobs[other].losses) == (JobState.QUEUED, 0)


def unavailable(b: Bench, *, is_blamed: bool) -> None:
    """Report that the file system cannot read the file; its folder is checked, and answers."""
    order = b.last(ac.SendPrepare)
    message = pr.FileUnavailable(feed=order.message.feed, cause="input/output error")
    b.handle(ev.MessageReceived(order.worker, message))
    assert b.slot("p0").state is WorkerState.IDLE
    check = b.last(ac.CheckFile)
    blame = check.suspicion if is_blamed else ""
    b.handle(ev.FileChecked(job=check.job.id, folder=check.folder, blame=blame))


def test_file_on_a_mount_that_has_gone_waits_for_it_and_is_not_blamed() -> None:
    b = bench("p0", "gpu0", prepare_attempts=1)
    b.submit()
    for _ in range(5):
        unavailable(b, is_blamed=False)
        assert (b.state("a"), b.jobs["a"].losses) == (JobState.PREPARING, 0)
    b.read()
    assert b.state("a") is JobState.WRITING


def test_file_that_cannot_be_read_in_a_folder_that_answers_fails_with_its_reason() -> None:
    b = bench("p0", "gpu0", prepare_attempts=2)
    b.submit()
    unavailable(b, is_blamed=True)
    assert (b.state("a"), b.jobs["a"].losses) == (JobState.PREPARING, 1)
    unavailable(b, is_blamed=True)
    assert b.state("a") is JobState.FAILED
    assert b.jobs["a"].cause == "reading it failed 2 times, the last time with: input/output error"


def test_missing_file_waits_while_its_mount_is_gone() -> None:
    b = bench("p0", "gpu0", prepare_attempts=1)
    b.submit("a", inbox=b"/in", mount=b"/in/nas")
    b.submit("local", inbox=b"/in")
    b.refuse("no such file", is_missing=True)
    check = b.last(ac.CheckFile)
    assert (check.folder, check.is_missing, b.state("a")) == (b"/in/nas", True, JobState.QUEUED)
    b.read(job="local")
    assert b.state("local") is JobState.WRITING
    b.handle(ev.FileChecked(job="a", folder=check.folder, blame="", is_missing=True))
    b.read()
    assert (b.state("a"), b.jobs["a"].losses) == (JobState.WRITING, 0)


def test_missing_file_whose_mount_is_there_fails_at_once_with_its_reason() -> None:
    b = bench("p0", "gpu0", prepare_attempts=5)
    b.submit("a", inbox=b"/in", mount=b"/in")
    b.refuse("no such file", is_missing=True)
    check = b.last(ac.CheckFile)
    b.handle(ev.FileChecked(job="a", folder=check.folder, blame=check.suspicion, is_missing=True))
    assert (b.state("a"), b.jobs["a"].cause) == (JobState.FAILED, "no such file")


def test_worker_that_leaves_since_it_cannot_read_a_folder_is_not_blamed_on_the_file() -> None:
    b = bench("p0", "gpu0", prepare_attempts=1)
    b.submit()
    b.handle(ev.MessageReceived("p0.1", pr.WorkerLeaving(cause="the folders have changed")))
    assert (b.state("a"), b.jobs["a"].losses) == (JobState.QUEUED, 0)
    b.die("p0.1", cause="exit status 0")
    assert (b.slot("p0").state, b.slot("p0").failures) == (WorkerState.STOPPED, 0)
    check = b.last(ac.CheckFile)
    assert not check.suspicion
    b.handle(ev.FileChecked(job="a", folder=check.folder, blame=""))
    b.handle(ev.SlotAdded("p0", Role.PREPARE))
    b.ready("p0.2")
    assert b.state("a") is JobState.PREPARING


def test_decoder_that_waits_for_credit_is_not_killed() -> None:
    b = bench("p0", "gpu0", prepare_stall_s=60, silence_s=1000)
    b.submit()
    feed = b.last(ac.SendPrepare).message.feed
    b.handle(ev.MessageReceived("p0.1", pr.Heartbeat(feed=feed, decoded_samples=1, is_waiting=True)))
    b.wait(500)
    assert not b.all(ac.KillWorker)


def test_segments_read_before_the_decoder_died_are_not_sent_again() -> None:
    b = bench("p0", "p1", "gpu0")
    b.submit()
    b.prepared(0)
    b.reply_to_all()
    b.prepared(1)
    b.prepared(2)
    b.die(b.last(ac.SendPrepare).worker)
    order = b.last(ac.SendPrepare)
    assert order.message.plans is None
    assert order.message.done == {0, 1, 2}
    b.read(3)
    b.reply_to_all()
    assert b.state("a") is JobState.WRITING


def test_refused_media_fails_the_job_with_the_reason() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.refuse("there is no audio in it")
    assert b.state("a") is JobState.FAILED
    assert b.last(ac.WriteFailure).job.cause == "there is no audio in it"
    b.handle(ev.FailureWritten("a", b"failed/a"))
    assert b.jobs["a"].is_closed
    assert b.slot("p0").state is WorkerState.IDLE


def test_no_subtitles_are_written_for_a_file_that_has_them() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.already_subtitled("it has subtitles already: talk.srt")
    job = b.last(ac.WriteOutputs).job
    assert (job.state, job.is_already_subtitled) == (JobState.WRITING, True)
    assert not b.all(ac.SendLease)
    b.handle(ev.OutputsWritten("a", b"done/a"))
    assert (b.state("a"), b.jobs["a"].cause) == (JobState.DONE, "it has subtitles already: talk.srt")
    b.submit("b")
    assert b.state("b") is JobState.PREPARING, "its prepare worker is free again"


def test_file_that_got_subtitles_meanwhile_drops_its_segments() -> None:
    """A restart reads it again; meanwhile subtitles were put beside it."""
    b = bench("p0", "gpu0")
    b.submit()
    b.prepared(0)
    b.prepared(1)
    b.restart()
    b.worker("p0")
    b.worker("gpu0")
    b.prepared(1)
    b.already_subtitled("it has subtitles already: talk.srt")
    assert {segment.state for segment in b.segments.values()} == {SegmentState.DROPPED}
    assert b.broker.live_jobs.queued_bytes == 0
    assert b.last(ac.WriteOutputs).job.is_already_subtitled


def test_changed_file_is_rejected() -> None:
    b = bench("p0", "p1", "gpu0")
    b.submit()
    b.prepared(0, samples=SECOND)
    b.die(b.last(ac.SendPrepare).worker)
    b.broker.live_jobs.drop_pcm(b.broker.live_jobs.segment(SegmentKey("a", 0)))
    b.prepared(0, samples=SECOND + 512)
    assert (b.state("a"), b.jobs["a"].cause) == (JobState.FAILED, CHANGED)
    assert b.broker.live_jobs.queued_bytes == 0


def test_file_that_became_shorter_is_rejected() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0, 1)
    b.restart()
    b.worker("gpu0")
    b.worker("p0")
    assert b.state("a") is JobState.TRANSCRIBING
    b.read(0)
    assert (b.state("a"), b.jobs["a"].cause) == (JobState.FAILED, CHANGED)


# -- memory --------------------------------------------------------------------------------------------------


def test_credit_never_exceeds_its_memory() -> None:
    """A file that is not transcribed: its credit ends at the queue, its floor and one segment."""
    b = bench("p0", "gpu0", queue_bytes=16 * 2**20)
    b.die("gpu0.1", is_fatal=True)
    b.submit()
    credit = b.last(ac.SendPrepare).message.credit_bytes
    index = 0
    while credit > 0:
        b.prepared(index, samples=WINDOW)
        index += 1
        credit = GRANT_BYTES * (1 + len(b.sent(pr.FeedCredit))) - index * WINDOW * 2
    most = b.policy.queue_bytes + b.policy.feed_floor_bytes + WINDOW * 2
    assert b.policy.queue_bytes - GRANT_BYTES < b.broker.live_jobs.queued_bytes <= most


def test_many_short_files_do_not_exceed_the_memory() -> None:
    """Each file is read within its first credit; none is transcribed."""
    b = bench("p0", "gpu0", queue_bytes=16 * 2**20)
    b.die("gpu0.1", is_fatal=True)
    for number in range(100):
        b.submit(f"clip{number}")
    read = 0
    while len(b.all(ac.SendPrepare)) > read:
        b.read(0, 1, 2, 3, job=b.all(ac.SendPrepare)[read].job.id, samples=WINDOW)
        read += 1
    assert b.broker.live_jobs.queued_bytes <= b.policy.queue_bytes + b.policy.feed_floor_bytes
    b.worker("gpu1")
    b.reply(b.last(ac.SendLease))
    b.reply_to_all()
    while len(b.all(ac.SendPrepare)) > read:
        b.read(0, 1, 2, 3, job=b.all(ac.SendPrepare)[read].job.id, samples=WINDOW)
        b.reply_to_all()
        read += 1
    assert read == 100, "and they continue when there is room again"


def test_long_file_that_fills_the_queue_does_not_block_a_short_one() -> None:
    b = bench("p0", "p1", "gpu0", queue_bytes=16 * 2**20, batch_size=1)
    b.submit("long")
    index = 0
    while b.broker.live_jobs.queued_bytes + GRANT_BYTES <= b.policy.queue_bytes:
        b.prepared(index, job="long", samples=WINDOW)
        index += 1
    b.submit("short")
    b.read(0, job="short")
    b.reply(b.last(ac.SendLease))
    assert b.last(ac.SendLease).message.items[0].key.job == "short"


def test_open_votes_cannot_hold_all_memory_and_wait_for_credit() -> None:
    """Files of three voters each keep their PCM for the vote; each may still have the credit for a fourth."""
    slots = [f"p{place}" for place in range(8)]
    b = bench(*slots, "gpu0", queue_bytes=16 * 2**20, batch_size=1)
    for slot in slots:
        b.submit(slot, language="auto")
        for index in range(2):
            b.prepared(index, job=slot, samples=WINDOW)
        b.reply_to_all(is_speech=False)
        for index in range(2, 5):
            b.prepared(index, job=slot, samples=WINDOW)
        b.reply_to_all()
    assert b.broker.live_jobs.queued_bytes == 8 * 3 * WINDOW * 2
    granted = {credit.worker for credit in b.sent(pr.FeedCredit)}
    assert granted == {f"{slot}.1" for slot in slots}


def held_up(*sizes: int, **options: Any) -> Bench:
    """Return a bench with a file of each size half read, all of which wait for credit: nothing is transcribed."""
    slots = [f"p{place}" for place in range(len(sizes))]
    b = bench(*slots, "gpu0", queue_bytes=16 * 2**20, batch_size=1)
    for slot, size in zip(slots, sizes, strict=True):
        b.submit(f"long{slot}", size=size, **options)
    index = 0
    while feeds := [
        f for f in (b.slot(slot).feed for slot in slots) if f and f.granted_bytes > f.received_bytes
    ]:
        for feed in feeds:
            b.prepared(index, job=feed.job, samples=WINDOW)
        index += 1
    for slot in slots:
        number = b._order(f"long{slot}").message.feed
        b.handle(
            ev.MessageReceived(f"{slot}.1", pr.Heartbeat(feed=number, decoded_samples=1, is_waiting=True))
        )
    return b


def test_clip_preempts_a_long_file_that_waits_for_credit() -> None:
    """It would wait for hours; the long file has PCM in memory to continue with, and is read further later."""
    b = held_up(1000, 900)
    before = b.broker.live_jobs.queued_bytes
    b.submit("clip", size=10)
    assert b.sent(pr.Abandon)[-1].worker == "p0.1", "the larger file is preempted"
    assert b.last(ac.SendPrepare).job.id == "clip"
    assert (b.state("longp0"), b.jobs["longp0"].losses) == (JobState.QUEUED, 0)
    assert b.broker.live_jobs.queued_bytes == before
    b.read(0, job="clip")
    order = b.last(ac.SendPrepare)
    assert (order.job.id, order.message.plans) == ("longp0", None)
    assert len(order.message.done) >= 4, "segments that were read are not sent again"
    leases = len(b.all(ac.SendLease))
    while b.segments[SegmentKey("clip", 0)].state is not SegmentState.DONE:
        b.reply(b.last(ac.SendLease))
    assert len(b.all(ac.SendLease)) - leases <= 3


def test_file_of_about_the_same_size_preempts_none() -> None:
    """Else a thousand long files would all be started, and none finished."""
    b = held_up(1000, 1000)
    b.submit("another", size=501)
    assert not b.sent(pr.Abandon)
    assert b.state("another") is JobState.QUEUED


def test_file_that_is_read_is_not_preempted() -> None:
    b = bench("p0", "gpu0")
    b.submit("long", size=1000)
    b.submit("clip", size=1)
    assert not b.sent(pr.Abandon)


def test_more_urgent_file_of_any_size_preempts_one_that_waits_for_credit() -> None:
    b = held_up(1000, 1000)
    b.submit("urgent", size=10_000, priority=5)
    assert b.last(ac.SendPrepare).job.id == "urgent"


def test_small_file_does_not_preempt_a_more_urgent_one() -> None:
    b = held_up(1000, 1000, priority=5)
    b.submit("clip", size=1)
    assert not b.sent(pr.Abandon)


def test_preempted_file_preempts_no_other() -> None:
    """Two files that preempt each other would read their beginnings without end."""
    b = held_up(4000, 1000)
    b.submit("clip", size=10)
    assert b.state("longp0") is JobState.QUEUED
    b.submit("clip2", size=10)
    assert b.state("longp1") is JobState.QUEUED
    assert len(b.sent(pr.Abandon)) == 2
    assert len(b.all(ac.SendPrepare)) == 4


def test_clip_that_arrives_during_a_long_job_is_done_within_three_leases() -> None:
    """Counted from its speech being there: the lease that runs, the one that is ready behind it, its own."""
    b = bench("p0", "p1", batch_size=4)
    b.worker("gpu0", credit=2)
    b.submit("long")
    for index in range(40):
        b.prepared(index, job="long", samples=WINDOW)
    for _ in range(5):
        b.reply(b.lease(min(b.broker.lease_dispatch.leases)))
    sent = len(b.all(ac.SendLease))
    b.submit("clip")
    b.read(0, job="clip", samples=10 * SECOND)
    answered = 0
    while b.state("clip") is not JobState.WRITING:
        b.reply(b.lease(min(b.broker.lease_dispatch.leases)))
        answered += 1
    assert answered <= 3
    assert len(b.all(ac.SendLease)) - sent <= 3


def test_files_that_lost_their_decoder_do_not_hold_memory_that_another_needs() -> None:
    """Each loses it after three votes, and then waits behind a more urgent file; the next must still be read."""
    b = bench("gpu0", queue_bytes=16 * 2**20, batch_size=1, silence_s=1e6, crash_budget=100)
    b.handle(ev.SlotAdded("p0", Role.PREPARE))
    for number in range(12):
        name = f"file{number}"
        b.submit(name, language="auto", priority=number)
        b.wait(100)
        b.ready(f"p0.{number + 1}")
        for index in range(3):
            b.prepared(index, job=name, samples=WINDOW)
        b.reply_to_all()
        b.die(f"p0.{number + 1}")
        assert b.state(name) is JobState.QUEUED
    assert b.broker.live_jobs.queued_bytes == 0


# -- people --------------------------------------------------------------------------------------------------


def test_cancel_a_queued_job() -> None:
    b = bench("gpu0")
    b.submit()
    b.handle(ev.CancelRequested("a"))
    assert b.state("a") is JobState.CANCELLED
    b.worker("p0")
    assert not b.all(ac.SendPrepare)


def test_cancel_a_job_that_is_read() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.prepared(0)
    b.prepared(1)
    order = b.last(ac.SendPrepare)
    b.handle(ev.CancelRequested("a"))
    assert b.sent(pr.Abandon)[-1] == ac.SendMessage("p0.1", pr.Abandon(feed=order.message.feed))
    assert {b.stored(0).state, b.stored(1).state} == {SegmentState.DROPPED}
    assert b.broker.live_jobs.queued_bytes == 0
    b.handle(ev.MessageReceived("p0.1", pr.Prepared(feed=order.message.feed, plan=plan(2))))
    assert SegmentKey("a", 2) not in b.segments


def test_cancel_a_job_that_is_transcribed() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0)
    b.handle(ev.CancelRequested("a"))
    assert b.stored(0).state is SegmentState.DROPPED
    b.reply(b.last(ac.SendLease))
    assert b.stored(0).state is SegmentState.DROPPED
    assert b.slot("gpu0").state is WorkerState.IDLE
    b.submit("b")
    b.read(0, job="b")
    assert b.last(ac.SendLease).message.items[0].key.job == "b"


@pytest.mark.parametrize("is_failed", [False, True])
def test_cancel_of_a_job_that_is_written_is_illegal(is_failed: bool) -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read()
    if is_failed:
        b.handle(ev.WriteFailed("a", "read-only file system"))
    before = b.jobs["a"]
    with pytest.raises(IllegalTransition):
        b.handle(ev.CancelRequested("a"))
    assert b.broker.live_jobs.job("a") == before


def test_retry_decodes_missing_segments_only() -> None:
    b = bench("p0", "gpu0", attempts=1, batch_size=1)
    b.submit()
    b.read(0, 1, 2)
    b.reply(b.last(ac.SendLease))
    b.handle(ev.MessageReceived("gpu0.1", pr.LeaseRefused(lease=2, cause="out of memory")))
    b.reply(b.last(ac.SendLease))
    b.handle(ev.FailureWritten("a", b"failed/a"))
    leases = len(b.all(ac.SendLease))
    b.handle(ev.RetryRequested(b.jobs["a"], b.rows("a")))
    order = b.last(ac.SendPrepare)
    assert order.message.plans == (plan(1),)
    b.read(1)
    b.reply_to_all()
    assert [indices(sent) for sent in b.all(ac.SendLease)[leases:]] == [[1]]
    assert b.state("a") is JobState.WRITING
    assert (b.stored(1).losses, b.jobs["a"].cause, b.jobs["a"].is_closed) == (0, "", False)


def test_a_failure_is_dismissed_until_its_job_is_retried() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0)
    b.reply_to_all()
    b.handle(ev.WriteFailed("a", "no space left on device"))
    b.handle(ev.FailureDismissed(b.jobs["a"]))
    dismissed = [b.jobs["a"].is_dismissed]  # its files are still written
    b.handle(ev.FailureWritten("a", b"a"))
    dismissed.append(b.jobs["a"].is_dismissed)
    b.handle(ev.RetryRequested(b.jobs["a"], b.rows("a")))
    dismissed.append(b.jobs["a"].is_dismissed)
    assert dismissed == [True, True, False]
    b.handle(ev.WriteFailed("a", "no space left on device"))
    b.handle(ev.FailureWritten("a", b"a"))
    b.handle(ev.FailureDismissed(b.jobs["a"]))
    assert (b.state("a"), b.jobs["a"].is_dismissed, b.jobs["a"].is_closed) == (JobState.FAILED, True, True)


def test_retry_resets_the_losses_of_every_segment() -> None:
    """The cause was repaired: a segment that was lost once must not fail at the next loss."""
    b = bench("p0", "gpu0", attempts=2)
    b.submit()
    b.prepared(0)
    b.die("gpu0.1")
    b.refuse("damaged after 1 s")
    assert (b.stored(0).state, b.stored(0).losses) == (SegmentState.PENDING, 1)
    b.handle(ev.FailureWritten("a", b"failed/a"))
    b.handle(ev.RetryRequested(b.jobs["a"], b.rows("a")))
    assert (b.stored(0).state, b.stored(0).losses, b.stored(0).cause) == (SegmentState.PENDING, 0, "")


def test_retry_of_a_failed_write_reads_and_decodes_nothing() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0)
    b.reply_to_all()
    b.handle(ev.WriteFailed("a", "no space left on device"))
    assert b.jobs["a"].cause == "no space left on device"
    b.handle(ev.FailureWritten("a", b"a"))
    asked = len(b.all(ac.SendPrepare))
    b.handle(ev.RetryRequested(b.jobs["a"], b.rows("a")))
    assert b.state("a") is JobState.WRITING
    assert len(b.all(ac.SendPrepare)) == asked
    assert len(b.all(ac.WriteOutputs)) == 2


# -- the daemon's end and start ------------------------------------------------------------------------------


def test_restore_a_queued_job() -> None:
    b = bench("gpu0")
    b.submit()
    b.restart()
    b.worker("gpu0")
    b.worker("p0")
    assert b.state("a") is JobState.PREPARING


def test_restore_a_job_that_was_read() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.prepared(0)
    b.prepared(1)
    b.reply(b.last(ac.SendLease))
    b.restart()
    assert b.state("a") is JobState.QUEUED
    assert [b.stored(index).state for index in (0, 1)] == [SegmentState.DONE, SegmentState.PENDING]
    b.worker("gpu0")
    b.worker("p0")
    order = b.last(ac.SendPrepare)
    assert order.message.plans is None
    assert (order.message.done, order.job.plan_settings) == (
        frozenset({0}),
        replace(PLAN_SETTINGS, window_samples=WINDOW),
    )
    b.read(1, 2)
    b.reply_to_all()
    assert b.state("a") is JobState.WRITING


def test_restore_a_job_that_was_transcribed() -> None:
    b = bench("p0", "gpu0", batch_size=1)
    b.submit()
    b.read(0, 1, 2)
    b.reply(b.last(ac.SendLease))
    b.restart()
    b.worker("gpu0")
    b.worker("p0")
    assert b.last(ac.SendPrepare).message.plans == (plan(1), plan(2))
    assert b.stored(1).losses == 0, "the restart is not blamed on the segment"
    b.read(1, 2)
    b.reply_to_all()
    assert sorted(key.index for sent in b.all(ac.SendLease) for key in sent.lease.keys) == [1, 2]
    assert b.state("a") is JobState.WRITING


def test_restore_a_job_killed_after_its_last_result_was_saved() -> None:
    """The vote, then the end, are made up for: all segments have ended, in two languages."""
    b = bench("p0", "gpu0", batch_size=1)
    b.submit(language="auto")
    b.read(0, 1)
    b.reply(b.last(ac.SendLease), language="la", probability=0.3)
    last = b.last(ac.SendLease)
    key = last.message.items[0].key
    b.segments[key] = replace(
        b.segments[key], state=SegmentState.DONE, language="de", language_probability=0.9
    )
    b.restart()
    assert b.jobs["a"].language == "de"
    assert b.stored(0).state is SegmentState.PENDING
    b.worker("gpu0")
    b.worker("p0")
    assert b.last(ac.SendPrepare).message.plans == (plan(0),)


def test_restore_a_job_that_was_written() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.read()
    b.restart()
    assert [write.job.id for write in b.all(ac.WriteOutputs)] == ["a"]


def test_restore_a_failed_job_whose_files_are_missing() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.refuse("no audio")
    b.restart()
    assert [write.job.cause for write in b.all(ac.WriteFailure)] == ["no audio"]


def test_file_read_again_for_its_pcm_is_abandoned_when_no_segment_needs_it() -> None:
    """Later messages about it, and the end of its worker, change nothing."""
    b = bench("p0", "gpu0")
    b.submit()
    b.read(0)
    b.restart()
    b.worker("gpu0")
    b.worker("p0")
    order = b.last(ac.SendPrepare)
    b.prepared(0)
    b.reply_to_all()
    assert b.state("a") is JobState.WRITING
    assert b.sent(pr.Abandon)[-1].message == pr.Abandon(feed=order.message.feed)
    b.handle(ev.OutputsWritten("a", b"done/a"))
    b.handle(ev.MessageReceived("p0.1", pr.PlanComplete(feed=order.message.feed, media=b"")))
    b.die("p0.1")
    assert b.state("a") is JobState.DONE


def test_drain_finishes_running_leases_and_starts_none() -> None:
    b = bench("p0", "gpu0", batch_size=1)
    b.submit()
    b.submit("b")
    b.prepared(0)
    b.prepared(1)
    b.handle(ev.DrainRequested())
    assert {drain.worker for drain in b.sent(pr.Drain)} == {"p0.1", "gpu0.1"}
    assert b.state("a") is JobState.QUEUED
    assert b.jobs["a"].losses == 0
    leases = len(b.all(ac.SendLease))
    b.reply(b.last(ac.SendLease))
    assert b.stored(0).state is SegmentState.DONE
    assert len(b.all(ac.SendLease)) == leases
    b.die("p0.1", cause="exited")
    assert not b.is_idle()
    b.die("gpu0.1", cause="exited")
    assert b.is_idle()
    assert not b.wait(3600)


def test_drain_kills_starting_workers() -> None:
    b = Bench()
    b.handle(ev.SlotAdded("gpu0", Role.TRANSCRIBE))
    b.handle(ev.DrainRequested())
    assert b.last(ac.KillWorker).worker == "gpu0.1"
    b.die("gpu0.1")
    assert b.is_idle()


def test_drain_ends_for_slots_without_a_process_at_once() -> None:
    b = bench("gpu0", "gpu1")
    b.die("gpu0.1")
    b.die("gpu1.1", is_fatal=True)
    b.handle(ev.DrainRequested())
    assert b.is_idle()


@pytest.mark.parametrize("is_fatal", [False, True])
@pytest.mark.parametrize("is_draining", [False, True])
def test_second_report_of_the_end_of_a_worker_changes_nothing(is_fatal: bool, is_draining: bool) -> None:
    """A killed process that hangs is reported as ended, and once more when it has ended."""
    b = bench("gpu0")
    if is_draining:
        b.handle(ev.DrainRequested())
    b.die("gpu0.1", is_fatal=is_fatal, cause="killed, but still running after 5 s")
    ended = b.slot("gpu0")
    assert not b.die("gpu0.1")
    assert b.slot("gpu0") == ended


def test_draining_daemon_adds_no_slot() -> None:
    b = bench("gpu0")
    b.handle(ev.DrainRequested())
    b.handle(ev.SlotAdded("gpu1", Role.TRANSCRIBE))
    b.die("gpu0.1")
    assert b.is_idle()


def test_drained_worker_that_does_not_exit_is_killed() -> None:
    """A decoder that hangs in native code still sends heartbeats, and has no time limit of its own."""
    b = bench("p0", "gpu0", silence_s=30)
    b.submit()
    b.handle(ev.SlotRemoved("p0"))
    for _ in range(3):
        b.wait(10)
        b.handle(ev.MessageReceived("p0.1", pr.Heartbeat()))
        b.handle(ev.MessageReceived("gpu0.1", pr.Heartbeat()))
    assert [(kill.worker, kill.cause) for kill in b.all(ac.KillWorker)] == [
        ("p0.1", "still running after it was drained")
    ]
    b.die("p0.1")
    assert b.slot("p0").state is WorkerState.STOPPED


def test_drained_worker_keeps_the_time_limit_of_its_lease() -> None:
    b = bench("p0", "gpu0", silence_s=30, lease_min_s=100)
    b.submit()
    b.read(0)
    b.handle(ev.SlotRemoved("gpu0"))
    for _ in range(9):
        b.wait(10)
        b.handle(ev.MessageReceived("gpu0.1", pr.Heartbeat()))
        b.handle(ev.MessageReceived("p0.1", pr.Heartbeat()))
    assert not b.all(ac.KillWorker)
    b.reply(b.last(ac.SendLease))
    assert b.state("a") is JobState.WRITING


def test_removed_slot_stays_empty_after_its_worker_was_lost() -> None:
    b = bench("gpu0", silence_s=30)
    b.wait(30)
    assert b.slot("gpu0").state is WorkerState.LOST
    b.handle(ev.SlotRemoved("gpu0"))
    b.die("gpu0.1")
    assert b.slot("gpu0").state is WorkerState.STOPPED
    assert not b.wait(3600)


def test_removed_slot_stays_empty_after_its_worker_hung() -> None:
    b = bench("p0", "gpu0", lease_min_s=30, silence_s=1000)
    b.submit()
    b.read(0)
    b.handle(ev.SlotRemoved("gpu0"))
    b.wait(30)
    b.die("gpu0.1")
    assert b.slot("gpu0").state is WorkerState.STOPPED
    assert b.stored(0).state is SegmentState.PENDING


def test_removed_slot_can_be_added_again_with_a_new_identity() -> None:
    b = bench("gpu0")
    b.handle(ev.SlotRemoved("gpu0"))
    b.die("gpu0.1")
    b.handle(ev.SlotAdded("gpu0", Role.TRANSCRIBE))
    assert b.last(ac.SpawnWorker) == ac.SpawnWorker(slot="gpu0", incarnation=2)
    b.die("gpu0.2")
    assert b.slot("gpu0").state is WorkerState.BACKOFF


def test_loss_of_one_worker_frees_another_in_the_same_tick() -> None:
    """A lost lease ends its job; the decoder that reads on for that job stalls at the same moment."""
    b = bench("gpu0", attempts=1, lease_min_s=60, prepare_stall_s=60, silence_s=1000)
    b.worker("p0")
    b.submit()
    b.read(0)
    b.restart()
    b.worker("gpu0")
    b.worker("p0")
    b.prepared(0)
    b.wait(60)
    assert b.state("a") is JobState.FAILED
    assert [kill.worker for kill in b.all(ac.KillWorker)] == ["gpu0.1"]
    b.handle(ev.MessageReceived("p0.1", pr.FileAbandoned(feed=b.last(ac.SendPrepare).message.feed)))
    assert b.slot("p0").state is WorkerState.IDLE


# -- abandoned work ------------------------------------------------------------------------------------------


def test_a_cancelled_file_that_hangs_its_decoder_is_not_blamed_on_the_next_job() -> None:
    """The decoder gets no other file before it has stopped; if it does not stop, it is replaced."""
    b = bench("p0", "gpu0", prepare_attempts=1, abandon_s=5, silence_s=1e6)
    b.submit("hangs")
    b.submit("next")
    hung = b.last(ac.SendPrepare)
    assert hung.job.id == "hangs"
    b.handle(ev.CancelRequested("hangs"))
    assert b.sent(pr.Abandon)[-1] == ac.SendMessage("p0.1", pr.Abandon(feed=hung.message.feed))
    assert b.last(ac.SendPrepare) is hung, "the next file waits"
    b.wait(4)
    b.handle(ev.MessageReceived("p0.1", pr.Heartbeat(feed=hung.message.feed, decoded_samples=1)))
    assert not b.all(ac.KillWorker)
    b.wait(1)
    assert b.last(ac.KillWorker) == ac.KillWorker(
        worker="p0.1", cause="did not stop reading an abandoned file within 5 s"
    )
    b.die("p0.1")
    assert (b.state("next"), b.jobs["next"].losses) == (JobState.QUEUED, 0)
    b.wait(60)
    b.ready("p0.2")
    assert b.last(ac.SendPrepare).job.id == "next"
    b.read(0, job="next")
    b.reply_to_all()
    assert b.state("next") is JobState.WRITING


@pytest.mark.parametrize(
    "final",
    [
        lambda feed: pr.FileAbandoned(feed=feed),
        lambda feed: pr.PlanComplete(feed=feed, media=b"media"),
        lambda feed: pr.PrepareRefused(feed=feed, cause="no audio"),
        lambda feed: pr.FileUnavailable(feed=feed, cause="input/output error"),
        lambda feed: pr.AlreadySubtitled(feed=feed, cause="talk.srt"),
    ],
)
def test_a_decoder_that_has_stopped_gets_the_next_file(final: Any) -> None:
    """Any final message may be in flight when its file is cancelled."""
    b = bench("p0", "gpu0")
    b.submit("a")
    b.submit("b")
    feed = b.last(ac.SendPrepare).message.feed
    b.prepared(0, job="a")
    b.handle(ev.CancelRequested("a"))
    b.handle(ev.MessageReceived("p0.1", pr.Prepared(feed=feed, plan=plan(1))))
    assert len(b.all(ac.SendPrepare)) == 1
    b.handle(ev.MessageReceived("p0.1", final(feed)))
    assert b.last(ac.SendPrepare).job.id == "b"
    b.wait(6)
    assert "p0.1" not in {kill.worker for kill in b.all(ac.KillWorker)}


def test_a_lease_of_a_cancelled_job_is_abandoned_at_once() -> None:
    b = bench("p0", abandon_s=5)
    b.worker("gpu0", credit=2)
    b.submit("a")
    b.read(0, job="a")
    lease = b.last(ac.SendLease).lease.id
    b.handle(ev.CancelRequested("a"))
    assert b.sent(pr.AbandonLease) == [ac.SendMessage("gpu0.1", pr.AbandonLease(lease=lease))]
    b.submit("b")
    b.handle(ev.MessageReceived("gpu0.1", pr.LeaseAbandoned(lease=lease)))
    assert b.slot("gpu0").state is WorkerState.IDLE
    b.read(0, job="b")
    assert b.last(ac.SendLease).lease.worker == "gpu0.1"
    b.reply_to_all()
    assert b.state("b") is JobState.WRITING
    assert not b.all(ac.KillWorker)
    assert not b.slot("gpu0").failures


def test_a_lease_with_segments_of_another_job_is_not_abandoned() -> None:
    b = bench("p0", "gpu0", batch_size=4)
    for name in ("first", "a", "b"):
        b.submit(name)
        b.read(0, job=name)
    b.reply(b.last(ac.SendLease))
    assert len(b.last(ac.SendLease).lease.keys) == 2
    b.handle(ev.CancelRequested("a"))
    assert not b.sent(pr.AbandonLease)
    b.handle(ev.CancelRequested("b"))
    assert len(b.sent(pr.AbandonLease)) == 1


def test_a_worker_that_does_not_stop_an_abandoned_lease_is_replaced_and_blames_nothing() -> None:
    b = bench("p0", abandon_s=5, attempts=1)
    b.worker("gpu0", credit=3, streams=2)
    b.submit("a")
    b.read(0, job="a")
    b.submit("b")
    b.read(0, job="b")
    assert len(b.slot("gpu0").leases) == 2
    b.handle(ev.CancelRequested("a"))
    b.wait(5)
    assert b.last(ac.KillWorker) == ac.KillWorker(
        worker="gpu0.1", cause="did not stop an abandoned lease within 5 s"
    )
    b.die("gpu0.1")
    assert (b.stored(0, "b").state, b.stored(0, "b").losses) == (SegmentState.PENDING, 0)


def test_an_abandoned_lease_that_waits_behind_another_has_its_time_when_it_is_reached() -> None:
    b = bench("p0", abandon_s=5, batch_size=1)
    b.worker("gpu0", credit=2)
    b.submit("a")
    b.read(0, job="a")
    b.submit("b")
    b.read(0, 1, job="b")
    assert len(b.slot("gpu0").leases) == 2
    waiting = b.all(ac.SendLease)[1]
    b.handle(ev.CancelRequested(waiting.lease.keys[0].job))
    b.wait(20)
    assert not b.all(ac.KillWorker)
    b.reply(b.all(ac.SendLease)[0])
    b.wait(5)
    assert b.last(ac.KillWorker).cause == "did not stop an abandoned lease within 5 s"


# -- progress of leases --------------------------------------------------------------------------------------


def steps(b: Bench, worker: str, count: int) -> None:
    """Send a heartbeat that reports the steps of a worker's first lease."""
    lease = b.slot(worker.rpartition(".")[0]).leases[0]
    progress = (pr.LeaseProgress(lease=lease, steps=count),)
    b.handle(ev.MessageReceived(worker, pr.Heartbeat(leases=progress)))


def test_a_worker_that_reports_progress_is_not_hung() -> None:
    """Each step restarts the time limit, as temperature fallbacks on a loaded CPU need."""
    b = bench("p0", "gpu0", lease_min_s=30, silence_s=1e6)
    b.submit()
    b.read(0)
    for count in range(1, 7):
        b.wait(29)
        steps(b, "gpu0.1", count)
    b.wait(29)
    assert not b.all(ac.KillWorker)
    steps(b, "gpu0.1", 6)
    b.wait(1)
    assert b.last(ac.KillWorker).cause == "lease not done within its time limit", (
        "the same number is no progress"
    )


def test_progress_has_an_end() -> None:
    """A worker on another host may report steps without end."""
    b = bench("p0", "gpu0", lease_min_s=30, silence_s=1e6)
    b.submit()
    b.read(0)
    for count in range(1, 40):
        b.wait(10)
        if b.all(ac.KillWorker):
            break
        steps(b, "gpu0.1", count)
    assert b.last(ac.KillWorker).cause == "lease not done within its time limit"
    assert b.now == pytest.approx(300, abs=10)


def test_the_time_limit_follows_the_measured_speed() -> None:
    b = bench("p0", "gpu0", lease_min_s=30, silence_s=1e6)
    b.submit()
    b.read(0)
    b.wait(25)
    b.reply(b.last(ac.SendLease))
    b.submit("b")
    b.read(0, job="b")
    b.wait(60)
    assert not b.all(ac.KillWorker), "a lease of this worker takes 25 s"
    b.wait(20)
    assert b.all(ac.KillWorker)


def test_each_attempt_has_twice_the_time() -> None:
    """A machine that is too slow for the limit finishes at last."""
    b = bench("p0", "gpu0", lease_min_s=30, silence_s=1e6, attempts=3)
    b.submit()
    b.read(0)
    for attempt, limit_s in enumerate((30, 60, 120), 1):
        b.wait(limit_s - 1)
        assert len(b.all(ac.KillWorker)) == attempt - 1
        b.wait(1)
        assert len(b.all(ac.KillWorker)) == attempt
        b.die(f"gpu0.{attempt}")
        b.wait(60)
        b.ready(f"gpu0.{attempt + 1}")
    assert b.state("a") is JobState.FAILED
