"""Every pair of a state and an event, legal and illegal, of the three tables."""

from __future__ import annotations

from enum import Enum
from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from subtitled.core.actions import Action
from subtitled.core.live_jobs import LiveJob, LiveJobs
from subtitled.core.plan import Plan, PlanPiece, Span
from subtitled.core.policy import Policy
from subtitled.core.records import Job, Options, Role, Segment, SegmentKey, Worker
from subtitled.core.states import (
    JOB,
    JOB_LIVE,
    SEGMENT,
    SEGMENT_FINAL,
    WORKER,
    IllegalTransition,
    JobEvent,
    JobState,
    SegmentEvent,
    SegmentState,
    WorkerEvent,
    WorkerState,
    step,
)
from subtitled.core.worker_table import WorkerTable

# Written out a second time, from the design and not from the code: state, then each event with the state after it.
JOB_STEPS = """
receiving: uploaded queued, expired cancelled, download_failed failed, cancel cancelled
queued: leased preparing, resume transcribing, exhausted failed, rejected failed, cancel cancelled
preparing: planned transcribing, no_speech writing, already_subtitled writing, lost queued, rejected failed, exhausted failed, cancel cancelled
transcribing: all_done writing, segments_failed failed, rejected failed, exhausted failed, cancel cancelled
writing: written done, write_failed failed, translate translating
translating: translated done, cancel done
done: translate translating
failed: retry queued, download_again receiving
cancelled:
"""
SEGMENT_STEPS = """
pending: leased leased, exhausted failed, retried pending, dropped dropped
leased: done done, skipped skipped, transcribed pending, lost pending, exhausted failed, dropped dropped
done: language_changed pending
skipped:
failed: retried pending, dropped dropped
dropped:
"""
WORKER_STEPS = """
starting: ready idle, overdue lost, exited backoff, exited_fatal broken, exhausted broken, drain draining, replaced stopped
idle: assigned busy, overdue lost, exited backoff, exited_fatal broken, exhausted broken, drain draining, replaced stopped
busy: replied idle, overdue lost, exited backoff, exited_fatal broken, exhausted broken, drain draining, replaced stopped
draining: overdue lost, exited stopped, exited_fatal stopped, replaced stopped
lost: exited backoff, exited_fatal broken, exhausted broken, replaced stopped
backoff: elapsed starting, drain stopped
broken: elapsed starting, reset starting, drain stopped
stopped:
"""

PLAN = Plan(0, (PlanPiece(0, 16_000),), (Span(0, 16_000),))
JOB_RECORD = Job(
    id="a",
    state=JobState.QUEUED,
    source=b"/in/a.wav",
    location=b"/in/a.wav",
    size=1,
    mtime_ns=1,
    options=Options(),
    order=1,
)
SEGMENT_RECORD = Segment(key=SegmentKey("a", 0), state=SegmentState.PENDING, plan=PLAN)
WORKER_RECORD = Worker(slot="gpu0", role=Role.TRANSCRIBE, state=WorkerState.STARTING)


def steps(text: str) -> dict[tuple[str, str], str]:
    """Read a table of steps."""
    table = {}
    for line in text.strip().splitlines():
        state, _, rest = line.partition(":")
        for entry in filter(None, rest.split(",")):
            event, after = entry.split()
            table[state, event] = after
    return table


TABLES: list[tuple[dict[Any, Any], type[Enum], type[Enum], str]] = [
    (JOB, JobState, JobEvent, JOB_STEPS),
    (SEGMENT, SegmentState, SegmentEvent, SEGMENT_STEPS),
    (WORKER, WorkerState, WorkerEvent, WORKER_STEPS),
]


@pytest.mark.parametrize(
    ("table", "state", "event", "after"),
    [
        pytest.param(
            table,
            state,
            event,
            steps(text).get((state.value, event.value)),
            id=f"{states.__name__}-{state.value}-{event.value}",
        )
        for table, states, events, text in TABLES
        for state, event in product(states, events)
    ],
)
def test_event_leads_to_the_documented_state_or_is_illegal(
    table: dict[Any, Any], state: Enum, event: Enum, after: str | None
) -> None:
    if after is None:
        with pytest.raises(IllegalTransition, match=rf"{state.value}.*{event.value} is not allowed"):
            step(table, state, event)
    else:
        assert step(table, state, event).value == after


@pytest.mark.parametrize(
    ("state", "event"), [pair for pair in product(JobState, JobEvent) if pair not in JOB]
)
def test_an_illegal_job_event_changes_nothing(state: JobState, event: JobEvent) -> None:
    out: list[Action] = []
    live_jobs = LiveJobs(out)
    job = replace(JOB_RECORD, state=state)
    live_jobs.load_job(job, ())
    with pytest.raises(IllegalTransition):
        live_jobs.move_job(job, event, cause="changed")
    assert live_jobs.job("a") == job
    assert not out


@pytest.mark.parametrize(
    ("state", "event"), [pair for pair in product(SegmentState, SegmentEvent) if pair not in SEGMENT]
)
def test_an_illegal_segment_event_changes_nothing(state: SegmentState, event: SegmentEvent) -> None:
    out: list[Action] = []
    live_jobs = LiveJobs(out)
    live_jobs.load_job(JOB_RECORD, ())
    segment = replace(SEGMENT_RECORD, state=state, has_pcm=True)
    live_jobs.jobs["a"].segments[0] = segment
    with pytest.raises(IllegalTransition):
        live_jobs.move_segment(segment, event, cause="changed", has_pcm=False)
    assert live_jobs.jobs["a"] == LiveJob(JOB_RECORD, {0: segment})
    assert live_jobs.queued_bytes == 0
    assert not out


@pytest.mark.parametrize(
    ("state", "event"), [pair for pair in product(WorkerState, WorkerEvent) if pair not in WORKER]
)
def test_an_illegal_worker_event_changes_nothing(state: WorkerState, event: WorkerEvent) -> None:
    out: list[Action] = []
    roster = WorkerTable(Policy(), out)
    worker = roster.put(replace(WORKER_RECORD, state=state))
    idle = roster.idle(Role.TRANSCRIBE)
    with pytest.raises(IllegalTransition):
        roster.move(worker, event, cause="changed")
    assert roster.workers == {"gpu0": worker}
    assert roster.idle(Role.TRANSCRIBE) == idle
    assert not out


def test_final_states_are_left_only_by_a_retry_a_translation_or_the_language_vote() -> None:
    ways_on = {state: {event for before, event in SEGMENT if before is state} for state in SEGMENT_FINAL}
    assert ways_on == {
        SegmentState.DONE: {SegmentEvent.LANGUAGE_CHANGED},
        SegmentState.SKIPPED: set(),
        SegmentState.FAILED: {SegmentEvent.RETRIED, SegmentEvent.DROPPED},
        SegmentState.DROPPED: set(),
    }
    assert {event for state, event in JOB if state not in JOB_LIVE} == {
        JobEvent.RETRY,
        JobEvent.DOWNLOAD_AGAIN,
        JobEvent.TRANSLATE,
    }


def test_live_job_can_reach_a_final_state() -> None:
    reached = set(JobState) - JOB_LIVE
    while more := {before for (before, _), after in JOB.items() if after in reached} - reached:
        reached |= more
    assert reached == set(JobState)
