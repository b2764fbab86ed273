"""The last step of a job may be repeated after a kill, with the same result."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from hung_mount import ForbiddenError, HungMount
from subtitle.messages import EditedCue, Flag
from subtitled.core.actions import SaveJob, SaveNewJob
from subtitled.core.events import Event, OutputsWritten, TranslationsWritten
from subtitled.core.protocol import Media
from subtitled.core.records import Job, Options
from subtitled.core.states import JobEvent, JobState
from subtitled.cues.layout import Cue
from subtitled.cues.transcript import MissingSpan, Transcript
from subtitled.errors import FileWriteError
from subtitled.files import filesystem
from subtitled.files.filesystem import is_mount_error
from subtitled.observability.metrics import Metrics
from subtitled.observability.transition_log import TransitionLog
from subtitled.output import job_writer
from subtitled.output.job_writer import (
    JobWriter,
    OutputJob,
    error_folder,
    error_path,
    write_failure,
    write_outputs,
)
from subtitled.storage.rows import pack_cues
from subtitled.storage.store import Store

SRT = b"1\n00:00:01,000 --> 00:00:02,000\nHello.\n"
TRANSCRIPT = Transcript(
    source="talk.wav",
    duration_ms=3000,
    task="transcribe",
    model="demo",
    language="en",
    cues=(Cue(start_ms=1000, end_ms=2000, lines=("Hello.",)),),
)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    (folder / "sub").mkdir(parents=True)
    return folder


@pytest.fixture
def source(inbox: Path) -> Path:
    path = inbox / "sub" / "talk.wav"
    path.write_bytes(b"sound")
    return path


def job_of(source: Path, inbox: Path, after: str = "move", **more: object) -> Job:
    found = source.stat()
    job = Job(
        id="a1",
        state=JobState.WRITING,
        source=bytes(source),
        location=bytes(source),
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        options=Options(inbox=bytes(inbox), output=bytes(inbox.parent / "out"), after=after),
        order=1,
    )
    return replace(job, **more)


def work_of(job: Job, transcript: Transcript = TRANSCRIPT, **more: object) -> OutputJob:
    output = Path(os.fsdecode(job.options.output), "sub", "talk.en.srt")
    return replace(OutputJob(job=job, transcript=transcript, paths={"srt": output}), **more)


def test_outputs_are_written_and_the_source_is_moved(inbox: Path, source: Path) -> None:
    location = write_outputs(work_of(job_of(source, inbox)))
    assert location == bytes(inbox / "done" / "sub" / "talk.wav")
    assert Path(os.fsdecode(location)).read_bytes() == b"sound"
    assert (inbox.parent / "out" / "sub" / "talk.en.srt").read_bytes() == SRT
    assert not source.exists()


@contextlib.contextmanager
def writer_with_jobs(
    state: Path, jobs: Iterable[Job], ended: list[Event]
) -> Iterator[tuple[JobWriter, queue.SimpleQueue[Callable[[], None]]]]:
    """Yield a writer whose store has jobs that are `writing`, and the calls for its loop."""
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    with contextlib.closing(Store(str(state))) as store:
        for job in jobs:
            store.apply([SaveNewJob(queued := replace(job, state=JobState.QUEUED))])
            media = msgspec.msgpack.encode(Media(decoded_samples=16_000))
            for event, state_before, after in (
                (JobEvent.LEASED, JobState.QUEUED, JobState.PREPARING),
                (JobEvent.NO_SPEECH, JobState.PREPARING, JobState.WRITING),
            ):
                changed = replace(queued, state=after)
                store.apply([SaveJob(job=changed, before=state_before, event=event, media=media)])
        writer = JobWriter(
            store, TransitionLog(Metrics()), dispatch=ended.append, call_in_loop=calls.put, model="base"
        )
        yield writer, calls
        writer.close()


@pytest.mark.parametrize("is_beside", [False, True])
def test_job_of_an_unmounted_folder_below_an_inbox_holds_up_no_other_job_of_the_inbox(
    inbox: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_beside: bool
) -> None:
    mounted = {b""}
    for module in (filesystem, job_writer):
        monkeypatch.setattr(module, "is_mounted", lambda point: os.fsencode(point) in mounted)
    other = inbox / "other.wav"
    other.write_bytes(b"other sound")
    mount = bytes(inbox / "sub")
    waiting, free = job_of(source, inbox), replace(job_of(other, inbox), id="b1", order=2)
    output = b"beside" if is_beside else free.options.output
    waiting = replace(waiting, options=replace(waiting.options, output=output, mount=mount))
    free = replace(free, options=replace(free.options, output=output))
    ended: list[Event] = []
    with writer_with_jobs(tmp_path / "state.db", [waiting, free], ended) as (writer, calls):
        writer.finish(waiting, is_failure=False)
        while writer._waits.is_idle:
            calls.get(timeout=60)()
        writer.finish(free, is_failure=False)
        for job in ("b1", "a1"):
            while not ended:
                calls.get(timeout=60)()
            event = ended.pop()
            assert isinstance(event, OutputsWritten)
            assert event.job == job
            mounted.add(mount)
    assert not source.exists()
    assert not other.exists()


@pytest.mark.parametrize("after", ["move", "delete"])
def test_equal_file_is_not_taken_for_the_source_that_the_job_has_moved_or_deleted(
    inbox: Path, source: Path, tmp_path: Path, after: str
) -> None:
    """A copy keeps size and time, as a rename does. The write is repeated, as after a kill."""
    copy = inbox / "copy.wav"
    shutil.copy2(source, copy)
    ended: list[Event] = []
    job = job_of(source, inbox, after)
    with writer_with_jobs(tmp_path / "state.db", [job], ended) as (writer, calls):
        for count in (1, 2):
            writer.finish(job, is_failure=False)
            while len(ended) < count:
                calls.get(timeout=60)()
    assert [type(event) for event in ended] == [OutputsWritten, OutputsWritten]
    assert not source.exists()
    assert copy.read_bytes() == b"sound"


@pytest.mark.parametrize("is_deleted", [True, False])
def test_files_of_a_job_that_is_deleted_or_superseded_before_its_edit_is_laid_out_stay(
    inbox: Path, source: Path, tmp_path: Path, is_deleted: bool
) -> None:
    """They are the user's, or those of a newer job of the same source."""
    output = tmp_path / "out" / "talk.en.srt"
    output.parent.mkdir()
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    with contextlib.closing(Store(str(tmp_path / "state.db"))) as store:
        job = job_of(source, inbox, "keep", language="en")
        newer = replace(job, id="a2", order=2, repetition=1)
        store.apply([SaveNewJob(job), SaveNewJob(newer)])
        done = replace(job, state=JobState.DONE)
        media = msgspec.msgpack.encode(Media(decoded_samples=16_000))
        store.apply([SaveJob(job=done, before=job.state, event=JobEvent.WRITTEN, media=media)])
        store.claim_outputs(job, [bytes(output)])
        output.write_bytes(SRT)
        store.save_edit(done, "transcribe", base=0, data=pack_cues([]), cues=0, author="")
        writer = JobWriter(
            store, TransitionLog(Metrics()), dispatch=print, call_in_loop=calls.put, model="base"
        )
        release = threading.Event()
        writer._layouts.pool.submit(release.wait)
        writer.write_edited(job.id)
        if is_deleted:
            row = store.find_job(job.id)
            assert row is not None
            store.delete_job(row, is_noted=True)
        else:
            store.claim_outputs(newer, [bytes(output)])
        release.set()
        while not writer.is_idle:
            calls.get(timeout=60)()
        assert output.read_bytes() == SRT
        assert list(store.edits_to_write()) == []
        writer.close()


@pytest.mark.parametrize(("flags", "end"), [((), ""), (("sdh",), ".sdh")])
def test_edit_of_a_silent_file_leaves_the_files_of_its_translations(
    inbox: Path, source: Path, tmp_path: Path, flags: tuple[Flag, ...], end: str
) -> None:
    """No language is known, so the name of the transcript has none."""
    names = ("talk", "talk.zh-TW", "talk.bilingual.zh-TW")
    outputs = [tmp_path / "out" / f"{name}{end}.srt" for name in names]
    outputs[0].parent.mkdir()
    calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    with contextlib.closing(Store(str(tmp_path / "state.db"))) as store:
        job = job_of(source, inbox, "keep")
        job = replace(job, options=replace(job.options, translate_to=("zh-TW",), flags=flags))
        done = replace(job, state=JobState.DONE)
        media = msgspec.msgpack.encode(Media(decoded_samples=16_000))
        saved = SaveJob(job=done, before=job.state, event=JobEvent.WRITTEN, media=media)
        store.apply([SaveNewJob(job), saved])
        store.claim_outputs(job, [bytes(output) for output in outputs])
        for output in outputs:
            output.write_bytes(b"")
        cues = pack_cues([EditedCue(start_ms=1000, end_ms=2000, lines=("Hello.",))])
        store.save_edit(done, "transcribe", base=0, data=cues, cues=1, author="")
        writer = JobWriter(
            store, TransitionLog(Metrics()), dispatch=print, call_in_loop=calls.put, model="base"
        )
        writer.write_edited(job.id)
        while not writer.is_idle:
            calls.get(timeout=60)()
        writer.close()
    assert [output.read_bytes() for output in outputs] == [SRT, b"", b""]


def test_repeated_write_after_a_kill_gives_the_same_result(inbox: Path, source: Path) -> None:
    """Killed after the move, before it was recorded: the source is not at its recorded location."""
    finish = work_of(job_of(source, inbox))
    write_outputs(finish)
    location = write_outputs(finish)
    assert location == bytes(source)
    assert (inbox.parent / "out" / "sub" / "talk.en.srt").read_bytes() == SRT
    assert [path.name for path in (inbox / "done" / "sub").iterdir()] == ["talk.wav"]


def test_source_is_kept_or_deleted_as_configured(inbox: Path, source: Path) -> None:
    assert write_outputs(work_of(job_of(source, inbox, "keep"))) == bytes(source)
    assert source.exists()
    write_outputs(work_of(job_of(source, inbox, "delete")))
    assert not source.exists()
    assert not (inbox / "done").exists()


def test_error_for_a_source_that_cannot_be_deleted_names_its_path(inbox: Path, source: Path) -> None:
    """The error does not end the daemon."""
    job = job_of(source, inbox, "delete")
    source.unlink()
    source.mkdir()
    info = source.stat()
    with pytest.raises(FileWriteError, match=r"talk\.wav cannot be removed: Is a directory"):
        write_outputs(work_of(replace(job, size=info.st_size, mtime_ns=info.st_mtime_ns)))


@pytest.mark.parametrize("after", ["move", "delete"])
def test_file_that_replaced_the_source_is_not_moved(inbox: Path, source: Path, after: str) -> None:
    job = job_of(source, inbox, after)
    source.write_bytes(b"another, newer sound")
    assert write_outputs(work_of(job)) == bytes(source)
    assert source.read_bytes() == b"another, newer sound"


@pytest.mark.parametrize("after", ["move", "delete"])
def test_source_that_is_open_for_writing_stays_where_it_is(inbox: Path, source: Path, after: str) -> None:
    job = job_of(source, inbox, after)
    with source.open("ab"):
        assert write_outputs(work_of(job)) == bytes(source)
    assert source.is_file()


def test_source_in_its_archive_is_not_moved_again(inbox: Path, source: Path) -> None:
    """It was done, then grew, and was transcribed again."""
    done = inbox / "done" / "sub" / "talk.wav"
    done.parent.mkdir(parents=True)
    source.rename(done)
    job = replace(job_of(done, inbox), source=bytes(source))
    assert write_outputs(work_of(job)) == bytes(done)


def test_folder_of_a_source_that_is_gone_is_not_created_again(inbox: Path, source: Path) -> None:
    job = job_of(source, inbox)
    job = replace(job, options=replace(job.options, output=b"beside", after="keep"))
    work = replace(work_of(job), paths={"srt": source.with_suffix(".en.srt")})
    source.unlink()
    source.parent.rmdir()
    with pytest.raises(FileWriteError, match="its folder is gone"):
        write_outputs(work)
    with pytest.raises(FileWriteError, match="its folder is gone"):
        write_failure(work, source.parent)
    assert not source.parent.exists()


def test_folder_of_a_source_that_cannot_be_reached_fails_the_job_only(inbox: Path, source: Path) -> None:
    job = job_of(source, inbox)
    job = replace(job, options=replace(job.options, output=b"beside", after="keep"))
    work = replace(work_of(job), paths={"srt": source.with_suffix(".en.srt")})
    source.unlink()
    source.parent.rmdir()
    source.parent.symlink_to(source.parent)
    with pytest.raises(FileWriteError, match="symbolic link") as raised:
        write_outputs(work)
    assert isinstance(raised.value.__cause__, OSError)


def test_files_of_an_earlier_attempt_are_removed(inbox: Path, source: Path) -> None:
    old = inbox.parent / "talk.en.partial.srt"
    old.write_bytes(b"old")
    write_outputs(work_of(job_of(source, inbox), obsolete=(old, inbox.parent / "gone")))
    assert not old.exists()


def test_source_stays_in_place_if_an_output_cannot_be_written(inbox: Path, source: Path) -> None:
    (inbox.parent / "out").write_bytes(b"a file where the folder should be")
    with pytest.raises(FileWriteError, match="out"):
        write_outputs(work_of(job_of(source, inbox)))
    assert source.exists()


@pytest.mark.parametrize("after", ["move", "delete"])
def test_job_is_not_complete_while_the_mount_of_its_inbox_has_gone(
    inbox: Path, source: Path, after: str
) -> None:
    """Its source can be neither moved nor deleted."""
    job = job_of(source, inbox, after)
    try:
        mount = HungMount(inbox)
    except ForbiddenError as error:
        pytest.skip(str(error))
    with mount:
        mount.lose_server()
        with pytest.raises(FileWriteError, match="not connected") as raised:
            write_outputs(work_of(job))
        assert is_mount_error(raised.value)
    assert source.exists()
    write_outputs(work_of(job))
    assert not source.exists()


def test_translations_are_written_once_their_folders_answer_again(
    inbox: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(source, inbox)
    job = replace(job, options=replace(job.options, translate_to=("ja",), language="en"))
    translating = replace(job, state=JobState.TRANSLATING)
    faults = [errno.EIO]
    write_files = job_writer._write_files

    def write(work: OutputJob) -> None:
        if faults:
            raise FileWriteError("out: input/output error") from OSError(faults.pop(), "input/output error")
        write_files(work)

    monkeypatch.setattr(job_writer, "_write_files", write)
    ended: list[Event] = []
    with writer_with_jobs(tmp_path / "state.db", [job], ended) as (writer, calls):
        writer._store.apply([SaveJob(job=translating, before=JobState.WRITING, event=JobEvent.TRANSLATE)])
        writer.write_translations(translating, 1)
        while not ended:
            calls.get(timeout=60)()
    assert ended == [TranslationsWritten(job="a1", number=1)]
    assert not faults
    assert (inbox.parent / "out" / "sub" / "talk.ja.srt").exists()


def test_transcript_does_not_wait_for_the_layout_of_translations(
    inbox: Path, source: Path, tmp_path: Path
) -> None:
    job = job_of(source, inbox)
    is_written = threading.Event()
    ended: list[Event] = []
    with writer_with_jobs(tmp_path / "state.db", [job], ended) as (writer, calls):
        writer._text_layouts.pool.submit(is_written.wait, 60)
        writer.plan_translations(job, 1)
        writer.finish(job, is_failure=False)
        while not ended:
            calls.get(timeout=60)()
        is_written.set()
        assert isinstance(ended[0], OutputsWritten)


def failed(job: Job, transcript: Transcript = TRANSCRIPT) -> tuple[bytes, str]:
    """Write a failure; return the location of the source and the error text."""
    folder = error_folder(job, Path(os.fsdecode(job.options.output), "sub"))
    location = write_failure(work_of(job, transcript), folder)
    return location, error_path(job, folder).read_text("utf-8")


def test_error_text_is_beside_the_archived_source(inbox: Path, source: Path) -> None:
    missing = MissingSpan(61_000, 3_723_004, "killed by SIGSEGV")
    job = job_of(source, inbox, cause="1 of 2 segments could not be transcribed")
    location, text = failed(job, replace(TRANSCRIPT, missing=(missing,)))
    assert location == bytes(inbox / "failed" / "sub" / "talk.wav")
    assert (inbox / "failed" / "sub" / "talk.wav.error.txt").read_text("utf-8") == text
    assert str(source) in text
    assert "1 of 2 segments could not be transcribed" in text
    assert "subtitle retry a1" in text
    assert "00:01:01.000 - 01:02:03.004  killed by SIGSEGV" in text
    assert (inbox.parent / "out" / "sub" / "talk.en.srt").read_bytes() == SRT


def test_failure_without_cues_writes_no_subtitles(inbox: Path, source: Path) -> None:
    failed(job_of(source, inbox, cause="no audio"), replace(TRANSCRIPT, cues=()))
    assert not (inbox.parent / "out" / "sub" / "talk.en.srt").exists()


def test_error_text_of_a_kept_source_is_beside_its_subtitles(inbox: Path, source: Path) -> None:
    location, _ = failed(job_of(source, inbox, "keep", cause="no audio"))
    assert location == bytes(source)
    assert (inbox.parent / "out" / "sub" / "talk.wav.error.txt").is_file()
    assert not (inbox / "failed").exists()


def test_error_text_is_written_for_a_deleted_source(inbox: Path, source: Path) -> None:
    job = job_of(source, inbox, cause="the file cannot be read: No such file or directory")
    source.unlink()
    location, text = failed(job)
    assert location == bytes(source)
    assert "No such file" in text


def test_retried_source_moves_from_failed_to_its_place_in_done(inbox: Path, source: Path) -> None:
    job = job_of(source, inbox, cause="no audio")
    location, _ = failed(job)
    again = replace(job, location=location)
    assert failed(again)[0] == location
    assert sorted(path.name for path in (inbox / "failed" / "sub").iterdir()) == [
        "talk.wav",
        "talk.wav.error.txt",
    ]
    assert write_outputs(work_of(again)) == bytes(inbox / "done" / "sub" / "talk.wav")
    assert not (inbox / "failed" / "sub" / "talk.wav").exists()


def test_archiving_never_overwrites_a_file(inbox: Path, source: Path) -> None:
    (inbox / "done" / "sub").mkdir(parents=True)
    (inbox / "done" / "sub" / "talk.wav").write_bytes(b"earlier")
    location = write_outputs(work_of(job_of(source, inbox)))
    assert (inbox / "done" / "sub" / "talk.wav").read_bytes() == b"earlier"
    assert Path(os.fsdecode(location)).read_bytes() == b"sound"


def test_names_that_are_not_utf_8_are_written_and_reported(inbox: Path) -> None:
    source = inbox / os.fsdecode(b"\xff talk\n.wav")
    source.write_bytes(b"sound")
    location, text = failed(job_of(source, inbox, cause="no audio"))
    assert Path(os.fsdecode(location)).read_bytes() == b"sound"
    assert "no audio" in text
    assert location == os.path.join(bytes(inbox), b"failed", b"\xff talk\n.wav")  # noqa: PTH118 - bytes


def test_archive_that_is_a_link_gets_no_file(inbox: Path, source: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("done", "failed"):
        (inbox / name).symlink_to(outside)
    with pytest.raises(FileWriteError, match="replace the symbolic link"):
        write_outputs(work_of(job_of(source, inbox)))
    with pytest.raises(FileWriteError, match="replace the symbolic link"):
        write_failure(work_of(job_of(source, inbox)), error_folder(job_of(source, inbox), inbox))
    assert list(outside.iterdir()) == []
    assert source.read_bytes() == b"sound"


@pytest.mark.parametrize("output", ["beside", "out"])
def test_folder_replaced_by_a_link_gets_no_subtitles(
    output: str, inbox: Path, source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    job = job_of(source, inbox, "keep")
    if output == "beside":
        job = replace(job, options=replace(job.options, output=b"beside"))
        (inbox / "sub").rename(tmp_path / "old")
        (inbox / "sub").symlink_to(outside)
        path = inbox / "sub" / "talk.en.srt"
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "sub").symlink_to(outside)
        path = tmp_path / "out" / "sub" / "talk.en.srt"
    with pytest.raises(FileWriteError, match="replace the symbolic link"):
        write_outputs(replace(work_of(job), paths={"srt": path}))
    assert list(outside.iterdir()) == []
