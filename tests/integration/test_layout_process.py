"""The layout process returns the same transcripts as `compose`, also after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from daemon import eventually, is_running
from subtitle.messages import LayoutOptions
from subtitled.core.actions import StoredTranslation
from subtitled.core.plan import Plan, PlanPiece, Span
from subtitled.core.protocol import Media, SegmentResult
from subtitled.core.records import Job, Options, TextPlan
from subtitled.core.states import JobState, SegmentState
from subtitled.core.transcription import Phrase, Word
from subtitled.errors import LayoutError
from subtitled.output.layout_process import COMMAND, LayoutProcess, TranslationInput, compose, compose_all
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


def test_stored_translations_are_planned_again_only_for_another_model_or_term(
    layout_process: LayoutProcess,
) -> None:
    row, results = finished()

    def planned(row: JobRow = row, **fields: Any) -> tuple[TextPlan, ...]:
        order = TranslationInput(target="ja", **{"model": "m", **fields})
        return layout_process.plan_translations(row, results, (order,), model="whisper")[0].texts

    def stored(text: TextPlan, **fields: str) -> dict[str, StoredTranslation]:
        rows = zip(text.keys, text.request.sentences, strict=True)
        return {
            key: StoredTranslation(target="ja", key=key, source=source, text="x", **{"model": "m", **fields})
            for key, source in rows
        }

    (first,) = planned()
    good, failed = stored(first), stored(first, problem="no answer")
    assert not planned(stored=good)
    assert not planned(stored=good, model="n"), "the model was removed, another one covers the languages"
    assert not planned(stored=good, model="n", is_requested=True, problem="no such model")
    assert not planned(stored=failed)
    terms = (("word1", "語"),)
    for again in (
        planned(stored=good, model="n", is_requested=True),
        planned(stored=failed, model="n"),
        planned(stored=good, glossary=terms),
    ):
        assert [text.keys for text in again] == [first.keys], "its result replaces the stored one"
    assert not planned(stored=stored(first, terms="word1 = 語"), glossary=terms)


def test_killed_child_is_replaced(layout_process: LayoutProcess) -> None:
    row, results = finished()
    expected = layout_process.compose(row, results, model="demo")
    before = child(layout_process)
    os.kill(before, signal.SIGKILL)
    assert layout_process.compose(row, results, model="demo") == expected
    assert child(layout_process) != before


def test_stopped_child_is_replaced() -> None:
    row, results = finished()
    layout_process = LayoutProcess(stall_s=4.0)
    expected = layout_process.compose(row, results, model="demo")
    stopped = child(layout_process)
    os.kill(stopped, signal.SIGSTOP)
    with capture_logs() as logs:
        assert layout_process.compose(row, results, model="demo") == expected
    assert not is_running(stopped)
    assert [(line["event"], line["cause"]) for line in logs] == [("layout.lost", "no heartbeat for 4 s")]
    layout_process.close()


@pytest.mark.long
def test_stopped_child_that_does_not_read_a_large_request_is_replaced() -> None:
    """A pipe has room for 64 KiB: writing to it must not block."""
    row, results = finished()
    many = [msgspec.structs.replace(results[0], index=index) for index in range(2_000)]
    layout_process = LayoutProcess(stall_s=4.0)
    layout_process.compose(row, results, model="demo")
    os.kill(child(layout_process), signal.SIGSTOP)
    assert len(layout_process.compose(row, many, model="demo").segments) == 2_000
    layout_process.close()


OWNER = """
import sys, time
from subtitled.output.layout_process import LayoutProcess
owner = LayoutProcess()
print(owner._running_child(time.monotonic() + 60).pid, flush=True)
sys.stdin.read()
"""


def test_stopped_child_ends_with_its_daemon() -> None:
    with subprocess.Popen(
        (sys.executable, "-c", OWNER), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        stopped = int(owner.stdout.readline())
        os.kill(stopped, signal.SIGSTOP)
        owner.kill()
    eventually(lambda: not is_running(stopped), "the child ends")


SLEEPER = """
import sys, time, threading
from subtitled.runtime import pipes
pipes.write(sys.stdout.buffer, b"")
pipes.read(sys.stdin.buffer)
while True:
    time.sleep(0.1)
    pipes.write(sys.stdout.buffer, b"")
"""


def test_job_that_exceeds_the_deadline_fails_alone() -> None:
    row, results = finished()
    layout_process = LayoutProcess((sys.executable, "-c", SLEEPER), deadline_s=5.0)
    with pytest.raises(LayoutError, match="takes longer than 6 s"):
        layout_process.compose(row, results, model="demo")
    layout_process._command = COMMAND
    assert LayoutProcess.compose(layout_process, row, results, model="demo").cues
    layout_process.close()


def test_job_whose_layout_process_ends_twice_fails() -> None:
    row, results = finished()
    layout_process = LayoutProcess(command=(sys.executable, "-c", "print('no layout process')"))
    with pytest.raises(LayoutError, match="ended twice"):
        layout_process.compose(row, results, model="demo")
    layout_process.close()


def test_close_ends_a_request_in_progress() -> None:
    row, results = finished()
    layout_process = LayoutProcess((sys.executable, "-c", SLEEPER))
    errors: list[LayoutError] = []

    def request() -> None:
        try:
            layout_process.compose(row, results, model="demo")
        except LayoutError as error:
            errors.append(error)

    thread = threading.Thread(target=request)
    thread.start()
    eventually(lambda: layout_process._child is not None, "the child has started")
    layout_process.close()
    thread.join(10)
    assert [str(error) for error in errors] == ["the daemon stops"]
    with pytest.raises(LayoutError, match="the daemon stops"):
        layout_process.compose(row, results, model="demo")


def test_damaged_result_is_missing_speech_of_a_failed_job(layout_process: LayoutProcess) -> None:
    row, results = finished()
    broken = [msgspec.structs.replace(results[0], result=b"\xc1"), results[1]]
    found = layout_process.compose(row, broken, model="demo")
    assert "segment 0 is damaged" in found.missing[0].cause
    assert [segment.index for segment in found.segments] == []


def test_flipped_byte_never_ends_the_child(layout_process: LayoutProcess) -> None:
    row, results = finished()
    done = msgspec.structs.replace(row, job=msgspec.structs.replace(row.job, state=JobState.WRITING))
    stored = results[0].result or b""
    layout_process.compose(done, results, model="demo")
    process = child(layout_process)
    causes = []
    for at in range(0, len(stored), 7):
        flipped = stored[:at] + bytes([stored[at] ^ 0x55]) + stored[at + 1 :]
        broken = [msgspec.structs.replace(results[0], result=flipped), results[1]]
        try:
            layout_process.compose(done, broken, model="demo")  # a flip inside text changes the text
        except LayoutError as error:
            causes.append(str(error))
    assert child(layout_process) == process
    assert causes
    assert [cause for cause in causes if "segment 0 is damaged" not in cause] == []


def test_child_ends_on_close(layout_process: LayoutProcess) -> None:
    row, results = finished()
    layout_process.compose(row, results, model="demo")
    process = child(layout_process)
    layout_process.close()
    eventually(lambda: not is_running(process), "the child has ended")
    layout_process.close()
