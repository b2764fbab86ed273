"""`subtitled explain` predicts what a daemon does."""

from __future__ import annotations

import io
import json
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest
from av.stream import Disposition

import media
from commands import run_command
from daemon import Daemon, InboxFolder
from subtitled.config import schema
from subtitled.core.actions import SaveNewJob
from subtitled.core.events import JobArrived
from subtitled.inboxes.arrivals import take
from subtitled.inboxes.explain import Explanation, as_text, explain
from subtitled.inboxes.watch import SettledFile
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

SRT = b"1\n00:00:00,100 --> 00:00:00,900\nHello.\n"


def film(path: Path, *subtitles: tuple[str, Disposition], voice: str | None = None) -> Path:
    """Write eight seconds of speech, in a language, with these subtitle tracks."""
    media.mux(
        path.with_suffix(".voice.mka"),
        media.Voice(media.speech(8), language=voice),
        codec="pcm_s16le",
        rate=16_000,
        layout="mono",
    )
    with av.open(path.with_suffix(".voice.mka")) as sound, av.open(path, "w") as out:
        inputs: list[Any] = [sound, *(av.open(io.BytesIO(SRT), "r", format="srt") for _ in subtitles)]
        tracks: list[Any] = [out.add_stream_from_template(one.streams[0]) for one in inputs]
        if voice:
            tracks[0].metadata["language"] = voice
        for track, (language, disposition) in zip(tracks[1:], subtitles, strict=True):
            track.metadata["language"] = language
            track.disposition = disposition
        for one, track in zip(inputs, tracks, strict=True):
            for packet in one.demux():
                if packet.dts is not None:
                    packet.stream = track
                    out.mux(packet)
    path.with_suffix(".voice.mka").unlink()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path


def explained(root: Path, name: str, **inbox: object) -> Explanation:
    inbox.setdefault("output", str(root / "out"))
    folder = schema.InboxConfig(path=str(root / "in"), **inbox)  # type: ignore[arg-type]
    state = schema.StateConfig(dir=str(root / "state"))
    return explain(str(root / "in" / name), schema.Config(inbox=(folder,), state=state))


def test_file_in_no_inbox_is_not_accepted(root: Path) -> None:
    found = explained(root, "../talk.mp4")
    assert not found.is_accepted
    assert str(root / "in") in found.cause


def test_outputs_that_would_be_written_are_named(root: Path) -> None:
    (root / "in" / "talk.mp4").touch()
    found = explained(root, "talk.mp4", formats=("srt", "ass"), flags=("forced", "sdh"), language="jw")
    assert found.is_accepted
    assert found.outputs == (
        str(root / "out/talk.jv.sdh.forced.srt"),
        str(root / "out/talk.jv.sdh.forced.ass"),
    )
    assert found.after == f"moved to {root}/in/done"
    assert explained(root, "talk.mp4").outputs == (str(root / "out/talk.LANGUAGE.srt"),)


def test_translations_are_named_with_their_model_or_why_there_is_none(root: Path) -> None:
    (root / "in" / "talk.mp4").touch()
    found = explained(root, "talk.mp4", language="en", translate_to=("ja",))
    assert [Path(path).name for path in found.outputs] == ["talk.en.srt", "talk.ja.srt"]
    assert found.translations[0].startswith('ja: no model translates to "ja"')
    assert found.translations[0] in as_text(found)


def test_name_of_another_file_is_not_used(root: Path) -> None:
    (root / "in" / "talk.mp4").touch()
    (root / "in" / "talk.en.srt").write_bytes(b"mine")
    found = explained(root, "talk.mp4", language="en", output="beside", after="keep")
    assert found.outputs == (str(root / "in/talk.mp4.en.srt"),)


def test_subtitle_files_and_tracks_are_found(root: Path) -> None:
    film(root / "in" / "talk.mkv", ("fre", Disposition(0)), ("eng", Disposition.forced), voice="ger")
    (root / "in" / "talk.es.srt").touch()
    found = explained(root, "talk.mkv", skip_existing="language")
    assert found.existing == ("talk.es.srt (es)", "track 1, fre (fr)")
    assert not found.skipped, "the audio is German"
    assert (
        'track 1, fre (skip_existing = "language")'
        in explained(root, "talk.mkv", skip_existing="language", language="fr").skipped
    )
    by_track = explained(root, "talk.mkv", skip_existing="language", audio_track="French")
    assert 'track 1, fre (skip_existing = "language")' in by_track.skipped
    anything = explained(root, "talk.mkv", skip_existing="any", after="delete")
    assert "talk.es.srt" in anything.skipped
    assert anything.outputs == ()
    assert anything.after == "kept"


def test_unreadable_media_file_is_explained(root: Path) -> None:
    (root / "in" / "talk.mp4").write_bytes(b"nothing")
    found = explained(root, "talk.mp4", skip_existing="any")
    assert "not media" in found.unreadable
    assert found.unreadable in as_text(found)


def test_missing_database_is_not_created(root: Path) -> None:
    (root / "in" / "talk.mp4").touch()
    explained(root, "talk.mp4")
    assert not (root / "state").exists()


def test_file_that_a_process_keeps_open_for_writing_waits_for_it(root: Path) -> None:
    path = root / "in" / "talk.mp4"
    with path.open("wb"):
        explanation = explained(root, "talk.mp4")
        assert not explanation.is_accepted
        assert f"(pid {os.getpid()}); it waits until it is closed" in explanation.cause
    assert explained(root, "talk.mp4").is_accepted


def test_file_whose_job_was_deleted_is_not_accepted_again(root: Path) -> None:
    path = root / "in" / "talk.mp4"
    path.touch()
    (root / "state").mkdir()
    inbox = schema.InboxConfig(path=str(root / "in"), output=str(root / "out"))
    found = path.stat()
    file = SettledFile(0, str(path), found.st_size, found.st_mtime_ns)
    with closing(Store(str(root / "state" / "subtitled.sqlite"))) as store:
        arrived = take(file, inbox, store)
        assert isinstance(arrived, JobArrived)
        store.apply([SaveNewJob(arrived.job)])
        row = store.find_job(arrived.job.id)
        assert row is not None
        store.delete_job(row, is_noted=False)
        assert take(file, inbox, store) is None
        explanation = explained(root, "talk.mp4")
    assert not explanation.is_accepted
    assert "its job was deleted" in explanation.cause
    assert not explanation.job
    os.utime(path)
    assert explained(root, "talk.mp4").is_accepted


# With a daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon with inboxes that skip, and files with subtitles of all kinds."""
    folder = tmp_path_factory.mktemp("daemon")
    inboxes = (
        InboxFolder(options={"skip_existing": "any", "formats": ("srt",), "flags": ("sdh",)}),
        InboxFolder(
            name="same", options={"skip_existing": "language", "formats": ("srt",), "after": "delete"}
        ),
    )
    with Daemon(folder, inboxes=inboxes) as running:
        made = folder / "made.mkv"
        (running.inbox / "beside.fr.vtt").write_bytes(b"WEBVTT\n")
        (running.outbox / "elsewhere.en.srt").write_bytes(b"another file")
        for name in ("beside", "elsewhere", "bare"):
            running.drop(film(made, voice="eng"), f"{name}.mkv")
        running.drop(film(made, ("ger", Disposition(0)), voice="eng"), "inside.mkv")
        running.drop(film(made, ("ger", Disposition(0)), voice="eng"), "other.mkv", inbox=folder / "same")
        running.drop(film(made, ("eng", Disposition(0)), voice="eng"), "same.mkv", inbox=folder / "same")
        running.start()
        running.wait_for_jobs(6)
        yield running
        running.stop()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def cause(daemon: Daemon, path: Path) -> str:
    job = daemon.wait_for(path)
    assert job.state == "done"
    return job.cause


def test_files_with_subtitles_are_skipped(daemon: Daemon) -> None:
    assert "beside.fr.vtt" in cause(daemon, daemon.inbox / "beside.mkv")
    assert "elsewhere.en.srt" in cause(daemon, daemon.inbox / "elsewhere.mkv")
    assert "track 1, ger" in cause(daemon, daemon.inbox / "inside.mkv")
    assert "track 1, eng" in cause(daemon, daemon.folder / "same" / "same.mkv")
    assert {line["file"] for line in daemon.log("job.already_subtitled")} == {
        "beside.mkv",
        "elsewhere.mkv",
        "inside.mkv",
        "same.mkv",
    }
    assert daemon.scrape()['subtitled_jobs_total{event="already_subtitled"}'] == 4


def test_only_files_without_subtitles_are_transcribed(daemon: Daemon) -> None:
    assert names(daemon.outbox) == ["bare.en.sdh.srt", "elsewhere.en.srt"]
    assert (daemon.outbox / "elsewhere.en.srt").read_bytes() == b"another file"
    assert names(daemon.folder / "same-out") == ["other.en.srt"]


def test_skipped_source_is_moved_but_never_deleted(daemon: Daemon) -> None:
    assert (daemon.inbox / "done" / "inside.mkv").is_file()
    assert (daemon.folder / "same" / "same.mkv").is_file()
    assert not (daemon.folder / "same" / "other.mkv").exists()


def test_own_outputs_do_not_cause_a_skip(daemon: Daemon) -> None:
    """A touched file is processed again, although its own subtitles exist."""
    again = daemon.inbox / "bare.mkv"
    os.link(daemon.inbox / "done" / "bare.mkv", again)
    os.utime(again)
    daemon.wait_for_jobs(7)
    assert cause(daemon, again) == ""
    assert names(daemon.outbox) == ["bare.en.sdh.srt", "elsewhere.en.srt"]


def test_command_reports_earlier_jobs(daemon: Daemon) -> None:
    path = daemon.folder / "same" / "same.mkv"
    words = ("explain", path, "--config", daemon.config_file)
    found = json.loads(run_command("subtitled", *words, "--json").stdout)
    job = daemon.job_of(path)
    assert job is not None
    assert (found["is_accepted"], found["job"], found["job_state"]) == (False, job.id, "done")
    assert f"already job {job.id}" in found["cause"]
    text = run_command("subtitled", *words).stdout
    assert "skipped   it has subtitles in en already: track 1, eng" in text
