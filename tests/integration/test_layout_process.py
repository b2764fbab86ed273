"""The layout process returns the same transcripts as `compose`, also after a crash."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from daemon import eventually, is_running
from subtitle.messages import LayoutOptions
from subtitled.core.plan import Plan, PlanPiece, Span
from subtitled.core.protocol import Media, SegmentResult
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState, SegmentState
from subtitled.core.transcription import Phrase, Word
from subtitled.output.layout_process import LayoutProcess, compose, compose_all
from subtitled.storage.rows import JobRow, ResultRow

if TYPE_CHECKING:
    from collections.abc import Iterator

SECOND = 16_000


@pytest.fixture
def layout_process() -> Iterator[LayoutProcess]:
    made = LayoutProcess()
    yield made
    made.close()


def finished(**options: object) -> tuple[JobRow, list[ResultRow]]:
    """Return a job with a finished and an unfinished segment."""
    words = tuple(Word(f" word{n}", n * 300, n * 300 + 250, 0.9) for n in range(20))
    phrase = Phrase(
        text="".join(word.text for word in words), start_ms=0, end_ms=6000, words=words, avg_logprob=-0.1
    )
    result = SegmentResult(phrases=(phrase,), translation=(phrase,), language="de", language_probability=0.9)
    plans = [
        Plan(n, (PlanPiece(n * 10 * SECOND, 8 * SECOND),), (Span(n * 10 * SECOND, (n * 10 + 8) * SECOND),))
        for n in range(2)
    ]
    job = Job(
        id="a" * 16,
        state=JobState.FAILED,
        source=b"/in/t\xffalk.wav",
        location=b"/in/t\xffalk.wav",
        size=1,
        mtime_ns=1,
        options=Options(**options),  # type: ignore[arg-type]
        order=1,
        language="de",
    )
    media = msgspec.msgpack.encode(Media(decoded_samples=20 * SECOND))
    row = JobRow(job=job, media=media, created_ms=1, started_ms=2, ended_ms=3)
    states = (SegmentState.DONE, SegmentState.FAILED)
    return row, [
        ResultRow(
            index=plan.index,
            state=state,
            plan=plan,
            losses=0,
            cause="" if state is SegmentState.DONE else "lost",
            worker="gpu0.1",
            result=msgspec.msgpack.encode(result) if state is SegmentState.DONE else None,
        )
        for plan, state in zip(plans, states, strict=True)
    ]


def child(layout_process: LayoutProcess) -> int:
    assert layout_process._child is not None
    return layout_process._child.pid


def test_child_returns_the_same_as_compose(layout_process: LayoutProcess) -> None:
    row, results = finished(is_translated_too=True)
    assert layout_process.compose(row, results, model="demo") == compose(row, results, model="demo")
    raw = layout_process.compose(row, results, model="demo", layout=LayoutOptions(profile="raw"))
    assert raw == compose(row, results, model="demo", layout=LayoutOptions(profile="raw"))
    both = layout_process.compose_all(row, results, model="demo")
    assert both == compose_all(row, results, model="demo")
    assert len(both) == 2
    assert both[0].cues
    assert both[0].missing


def test_killed_child_is_replaced(layout_process: LayoutProcess) -> None:
    row, results = finished()
    expected = layout_process.compose(row, results, model="demo")
    before = child(layout_process)
    os.kill(before, signal.SIGKILL)
    assert layout_process.compose(row, results, model="demo") == expected
    assert child(layout_process) != before


def test_transcript_is_composed_in_the_daemon_without_a_child() -> None:
    row, results = finished()
    layout_process = LayoutProcess(command=(sys.executable, "-c", "print('no layout_process')"))
    assert layout_process.compose(row, results, model="demo") == compose(row, results, model="demo")
    layout_process.close()


def test_error_in_the_child_is_raised_with_the_job(layout_process: LayoutProcess) -> None:
    row, results = finished()
    broken = [msgspec.structs.replace(results[0], result=b"\xc1"), results[1]]
    with pytest.raises(RuntimeError, match=f"job {'a' * 16} cannot be composed: .*"):
        layout_process.compose(row, broken, model="demo")
    assert layout_process.compose(row, results, model="demo").cues


def test_child_ends_on_close(layout_process: LayoutProcess) -> None:
    row, results = finished()
    layout_process.compose(row, results, model="demo")
    process = child(layout_process)
    layout_process.close()
    eventually(lambda: not is_running(process), "the child has ended")
    layout_process.close()
