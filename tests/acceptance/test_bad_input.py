"""Whatever is dropped, it gets an answer that a person understands, and the next good file is subtitled."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

import media
from daemon import Daemon, eventually
from subtitled.config import schema
from subtitled.cues.render import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from subtitle import JobFacts

SILENCE_H = 1
RATE = media.RATE


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sentence."""
    return media.write_sound(tmp_path_factory.mktemp("clip") / "clip.flac", media.speech(4))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon that may not read all files even as root."""
    folder = tmp_path_factory.mktemp("daemon")
    recovery = schema.RecoveryConfig(heartbeat_s=0.2)
    with Daemon(folder, is_bound_by_modes=True, recovery=recovery) as running:
        yield running.start()
        running.stop()


@pytest.fixture
def good(daemon: Daemon, clip: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """See that a good file is subtitled after whatever the test does."""
    yield
    stem = "after-" + re.sub(r"\W+", "-", request.node.name)
    assert daemon.wait_for(daemon.drop(clip, f"{stem}.flac")).state == "done"
    assert "morning and welcome." in (daemon.outbox / f"{stem}.en.srt").read_text("utf-8")


def silent_file(path: Path, seconds: float) -> Path:
    """Write digital silence as FLAC, in bounded memory."""
    block = np.zeros(600 * RATE, np.int16)
    fast = {"compression_level": 0.0} if path.suffix == ".flac" else {}
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16", **fast) as file:
        for _ in range(int(seconds) // 600):
            file.write(block)
        file.write(block[: int(seconds % 600 * RATE)])
    return path


def no_moov(folder: Path) -> bytes:
    """Return the start of an MP4 file, whose index would stand at its end."""
    whole = media.mux(folder / "whole.mp4", media.Voice(media.speech(8)), picture_s=8).read_bytes()
    return whole[: len(whole) // 2]


def no_audio(folder: Path) -> bytes:
    return media.mux(folder / "mute.mp4", picture_s=3).read_bytes()


def header_only(folder: Path) -> bytes:
    return media.write_sound(folder / "header.wav", media.silence(0)).read_bytes()


def concat_script(folder: Path) -> bytes:
    secret = media.write_sound(folder / "secret.wav", media.speech(4))
    return f"ffconcat version 1.0\nfile '{secret}'\n".encode()


def playlist(folder: Path) -> bytes:
    secret = media.write_sound(folder / "secret.wav", media.speech(4))
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{secret}\n#EXT-X-ENDLIST\n".encode()


REJECTED: dict[str, Callable[[Path], bytes]] = {
    "empty.mp3": lambda _: b"",
    "empty.wav": lambda _: b"",
    "text.mp4": lambda _: b"Dear diary, today nothing happened.\n" * 50,
    "no moov.mp4": no_moov,
    "mute.mp4": no_audio,
    "script.wav": concat_script,
    "playlist.wav": playlist,
    "zeros.mkv": lambda _: bytes(100_000),
    "junk.mp3": lambda _: media.noise(50_000, 32_000).tobytes(),
}


def error_text(daemon: Daemon, name: str, job: JobFacts) -> str:
    """Return the error text of a file, which must be plain and name file, reason and remedy."""
    text = (daemon.inbox / "failed" / f"{name}.error.txt").read_text("utf-8")
    assert name in text
    assert job.cause in text
    assert "What to do: " in text
    assert not re.search(r"Traceback|Error\(|\[Errno|0x[0-9a-f]{6}|<class", text)
    return text


def is_empty(folder: Path, stem: str) -> bool:
    """Say whether a finished file has subtitles without a cue."""
    transcript = read_json((folder / f"{stem}.json").read_bytes())
    return (folder / f"{stem}.srt").read_bytes() == b"" and not transcript.cues and not transcript.missing


@pytest.mark.usefixtures("good")
def test_error_text_goes_when_a_file_of_the_same_name_succeeds(daemon: Daemon) -> None:
    failed = daemon.wait_for(daemon.drop(b"not audio", "again.flac"))
    assert failed.state == "failed"
    text = daemon.inbox / "failed" / "again.flac.error.txt"
    assert text.is_file()
    source = daemon.drop(media.clip(), "again.flac")
    eventually(
        lambda: (job := daemon.job_of(source)) is not None and job.state == "done", "the second is done"
    )
    assert not text.exists()


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize("name", REJECTED)
def test_what_is_no_media_fails_with_its_reason(daemon: Daemon, tmp_path: Path, name: str) -> None:
    source = daemon.drop(REJECTED[name](tmp_path), name)
    job = daemon.wait_for(source)
    assert job.state == "failed"
    assert len(job.cause) > 10
    error_text(daemon, name, job)
    assert (daemon.inbox / "failed" / name).is_file()
    assert not source.exists()
    assert not list(daemon.outbox.glob(f"{Path(name).stem}*"))
    line = daemon.wait_for_log("job.failed", job=job.id)
    assert line["cause"] == job.cause


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize("name", ["script.wav", "playlist.wav"])
def test_a_script_opens_no_other_file(daemon: Daemon, tmp_path: Path, name: str) -> None:
    """The words of the file that it names are nowhere, not even in a partial result."""
    source = daemon.drop(REJECTED[name](tmp_path), f"again {name}")
    job = daemon.wait_for(source)
    assert job.state == "failed"
    assert job.audio_ms == 0
    assert job.segments == {}


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize(
    ("name", "pcm"),
    [
        ("silence", media.silence(20)),
        ("noise", media.noise(10 * RATE)),
        ("beep", (np.sin(np.arange(RATE // 20) * 0.35) * 20_000).astype(np.int16)),
        ("tick", media.noise(1)),
    ],
)
def test_what_holds_no_speech_has_empty_subtitles(
    daemon: Daemon, tmp_path: Path, name: str, pcm: object
) -> None:
    source = daemon.drop(media.write_sound(tmp_path / "x.wav", pcm), f"{name}.wav")  # type: ignore[arg-type]
    job = daemon.wait_for(source)
    assert (job.state, job.cause) == ("done", "")
    assert is_empty(daemon.outbox, name)
    assert (daemon.inbox / "done" / f"{name}.wav").is_file()


@pytest.mark.usefixtures("good")
def test_a_header_without_sound_ends_one_way_or_the_other(daemon: Daemon, tmp_path: Path) -> None:
    """44 bytes of WAV: it holds no sound, which is either said, or shown by empty subtitles."""
    content = header_only(tmp_path)
    assert len(content) == 44
    job = daemon.wait_for(daemon.drop(content, "header.wav"))
    if job.state == "failed":
        error_text(daemon, "header.wav", job)
    else:
        assert job.state == "done"
        assert is_empty(daemon.outbox, "header")


@pytest.mark.long  # about 8 s of one core
@pytest.mark.usefixtures("good")
def test_an_hour_of_silence_has_empty_subtitles(daemon: Daemon, tmp_path: Path) -> None:
    night = daemon.drop(silent_file(tmp_path / "night.flac", SILENCE_H * 3600), "night.flac")
    job = daemon.wait_for(night, timeout_s=600)
    assert job.state == "done"
    assert job.audio_ms == SILENCE_H * 3_600_000
    assert is_empty(daemon.outbox, "night")
    assert daemon.log("worker.lost") == []


@pytest.mark.usefixtures("good")
def test_a_file_that_is_unreadable_fails_with_its_reason(daemon: Daemon, clip: Path) -> None:
    source = daemon.drop(clip, "locked/private.flac")
    # The name is a new one, so that the daemon cannot have read it before its mode was set.
    source.chmod(0)
    try:
        job = daemon.wait_for(source)
        if job.state == "done":
            pytest.skip("the rights of root could not be taken from the daemon")
        assert job.state == "failed"
        assert "ermission" in job.cause
        text = (daemon.inbox / "failed" / "locked" / "private.flac.error.txt").read_text("utf-8")
        assert job.cause in text
    finally:
        for path in daemon.inbox.rglob("private.flac"):
            path.chmod(0o600)
    # Once it may be read, nothing more is needed than to say so.
    daemon.client.retry(job.id)
    assert daemon.wait_for(source).state == "done"
    assert (daemon.outbox / "locked" / "private.en.srt").is_file()
    assert (daemon.inbox / "done" / "locked" / "private.flac").is_file()
    left = [path for path in (daemon.inbox / "failed" / "locked").rglob("*") if path.is_file()]
    assert left == []


def start_reading(daemon: Daemon, name: str) -> Path:
    """Drop a quarter of an hour of silence with a sentence at its start, and wait until it is being read."""
    path = silent_file(daemon.folder / "long.wav", 900)
    with soundfile.SoundFile(path, "r+") as file:
        file.write(media.speech(4))
    source = daemon.drop(path, name)
    path.unlink()

    def is_read() -> bool:
        job = daemon.job_of(source)
        return job is not None and job.state == "preparing" and job.decoded_ms > 10_000

    eventually(is_read, "the file is being read")
    return source


@pytest.mark.usefixtures("good")
def test_a_file_that_vanishes_while_it_is_read_fails_with_its_reason(daemon: Daemon) -> None:
    source = start_reading(daemon, "gone.wav")
    source.unlink()
    job = daemon.wait_for(source)
    assert job.state == "failed"
    assert "No such file" in job.cause
    error_text(daemon, "gone.wav", job)


@pytest.mark.usefixtures("good")
def test_a_file_that_is_cut_while_it_is_read_fails_and_is_accepted_again(daemon: Daemon) -> None:
    """The result of the old content is not used; the new content becomes a separate job."""
    source = start_reading(daemon, "cut.wav")
    first = daemon.job_of(source)
    assert first is not None
    os.truncate(source, 44 + 2 * 5 * RATE)

    def has_two() -> bool:
        jobs = [job for job in daemon.jobs() if job.source == str(source)]
        return len(jobs) == 2 and all(job.state in {"done", "failed"} for job in jobs)

    eventually(has_two, "both jobs ended")
    old = daemon.client.status(first.id)
    assert old.state == "failed"
    assert "changed" in old.cause
    new = daemon.job_of(source)
    assert new is not None
    assert new.state == "done"
    assert "morning and welcome." in (daemon.outbox / "cut.en.srt").read_text("utf-8")


@pytest.mark.usefixtures("good")
def test_a_file_that_is_gone_before_it_is_read_fails_with_its_reason(daemon: Daemon, clip: Path) -> None:
    for name in ("first.wav", "second.wav"):  # two decoders are busy when it comes and goes
        start_reading(daemon, name)
    source = daemon.drop(clip, "brief.flac")
    eventually(lambda: daemon.job_of(source), "it is accepted")
    source.unlink(missing_ok=True)
    job = daemon.wait_for(source)
    if job.state != "done":  # on a slow machine the first decoder may have been free again
        assert job.state == "failed"
        assert "No such file" in job.cause
        error_text(daemon, "brief.flac", job)


@pytest.mark.usefixtures("good")
def test_what_is_no_file_is_left_alone_with_a_line_in_the_log(
    daemon: Daemon, tmp_path: Path, clip: Path
) -> None:
    folder, dangling, out, pipe, text = (
        daemon.inbox / name for name in ("folder.wav", "dangling.wav", "out.wav", "pipe.wav", "list.m3u8")
    )
    folder.mkdir()
    dangling.symlink_to(tmp_path / "nothing.wav")
    out.symlink_to(clip)
    os.mkfifo(pipe)
    text.write_text("#EXTM3U\n", "utf-8")
    causes = {
        folder: "folder",
        dangling: "link to nothing",
        out: "out of the inbox",
        pipe: "named pipe",
        text: "not that of a media file",
    }
    for path, cause in causes.items():
        line = daemon.wait_for_log("inbox.ignored", path=str(path))
        assert cause in line["cause"]
        assert os.path.lexists(path)
        assert daemon.job_of(path) is None
    assert clip.is_file()


@pytest.mark.usefixtures("good")
def test_an_unfinished_file_is_left_alone_until_it_has_its_name(daemon: Daemon, clip: Path) -> None:
    partial = daemon.drop(clip, "film.flac.part")
    daemon.wait_for_log("inbox.ignored", path=str(partial))
    whole = partial.rename(partial.with_name("film.flac"))
    assert daemon.wait_for(whole).state == "done"


@pytest.mark.last
def test_no_worker_was_lost_over_any_of_it(daemon: Daemon) -> None:
    """A bad file is a reason given, not a process killed."""
    assert daemon.log("worker.lost") == []
    assert {worker.incarnation for worker in daemon.stats().workers} == {1}
