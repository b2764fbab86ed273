"""Whatever a media file does to its decoder, who listens gets an answer, in time, and the next one hears the next file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

import media
from daemon import eventually, is_running
from subtitle import messages as ms
from subtitled.api.audio_preview import MAX_PENDING, MAX_PENDING_OF_ONE, AudioPreview
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.upload_store import UploadStore
from subtitled.config.schema import UploadsConfig
from subtitled.core.protocol import Media
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.errors import MediaError
from subtitled.media.preview_pool import IDLE_S, AudioRange, MediaGoneError, PreviewPool
from subtitled.network.auth import Principal
from subtitled.runtime.background import BackgroundPool
from subtitled.storage.rows import JobRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from subtitle.codec import Buffer

DEAF = (sys.executable, "-c", "import time; time.sleep(600)")
CRASHES = (sys.executable, "-c", "import os; os.read(0, 8); os.abort()")


@pytest.fixture
def ears() -> Iterator[PreviewPool]:
    made = PreviewPool()
    yield made
    made.close()


@pytest.fixture
def stretch(tmp_path: Path) -> AudioRange:
    path = media.write_sound(tmp_path / "talk.flac", media.speech(10))
    found = path.stat()
    return AudioRange(
        path=os.fsencode(path),
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        language=None,
        drift_ms=0,
        start=16_000,
        samples=32_000,
    )


def children(ears: PreviewPool) -> list[int]:
    return [ear._child.pid for ear in ears._all if ear._child is not None]


def test_a_stretch_is_heard_and_silence_where_the_audio_ends(ears: PreviewPool, stretch: AudioRange) -> None:
    pcm = media.speech(10)
    assert ears.hear(stretch) == pcm[16_000:48_000].tobytes()
    beyond = ears.hear(replace(stretch, start=9 * 16_000))
    assert beyond == pcm[9 * 16_000 :].tobytes() + bytes(32_000)
    assert ears.hear(replace(stretch, samples=0)) == b""
    assert len(children(ears)) == 1, "one after the other needs one process"


def test_a_child_that_was_killed_is_no_loss(ears: PreviewPool, stretch: AudioRange) -> None:
    meant = ears.hear(stretch)
    for pid in children(ears):
        os.kill(pid, signal.SIGKILL)
    assert ears.hear(stretch) == meant


def test_what_is_no_media_is_told_and_the_next_file_is_heard(
    ears: PreviewPool, stretch: AudioRange, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.flac"
    bad.write_bytes(b"x" * 1000)
    found = bad.stat()
    with pytest.raises(MediaError, match="not media"):
        ears.hear(replace(stretch, path=os.fsencode(bad), size=found.st_size, mtime_ns=found.st_mtime_ns))
    assert len(ears.hear(stretch)) == 64_000


def test_a_file_that_is_gone_or_another_is_told(ears: PreviewPool, stretch: AudioRange) -> None:
    ears.hear(stretch)
    with pytest.raises(MediaGoneError, match="has changed: 5 bytes"):
        ears.hear(replace(stretch, size=5))
    os.unlink(stretch.path)  # noqa: PTH108 - the path is bytes
    with pytest.raises(MediaGoneError, match="is gone"):
        ears.hear(stretch)


def test_a_decoder_that_hangs_is_killed(stretch: AudioRange) -> None:
    ears = PreviewPool(DEAF, count=1, limit_s=0.2)
    with pytest.raises(MediaError, match=r"could not be decoded within 0\.2 s"):
        ears.hear(stretch)
    assert children(ears) == []
    ears.close()


def test_a_decoder_that_crashes_is_told(stretch: AudioRange) -> None:
    ears = PreviewPool(CRASHES, count=1)
    with pytest.raises(MediaError, match="crashed the decoder"):
        ears.hear(stretch)
    ears.close()


def test_children_that_nobody_asks_are_let_go(ears: PreviewPool, stretch: AudioRange) -> None:
    ears.hear(stretch)
    [child] = children(ears)
    ears.let_go(time.monotonic())
    assert is_running(child)
    ears.let_go(time.monotonic() + IDLE_S)
    assert children(ears) == []
    assert not is_running(child)
    ears.hear(stretch)


def test_closing_does_not_wait_for_a_decoder_that_hangs(stretch: AudioRange) -> None:
    ears = PreviewPool(DEAF, count=1, limit_s=600)
    told: list[str] = []

    def ask() -> None:
        try:
            ears.hear(stretch)
        except MediaError as error:
            told.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: children(ears), "it is asked")
    ears.close()
    asking.join(60)
    assert told == ["the server is stopping"]


def test_children_die_with_the_daemon(stretch: AudioRange) -> None:
    """Also one that hangs in a decoder, and does not see the end of its pipe."""
    script = (
        "import sys, time, msgspec\n"
        "from subtitled.media.preview_pool import PreviewPool, AudioRange\n"
        "ears = PreviewPool()\n"
        "ears.hear(msgspec.json.decode(sys.argv[1], type=AudioRange))\n"
        "print(*(ear._child.pid for ear in ears._all if ear._child), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, msgspec.json.encode(stretch).decode()], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)
        parent.kill()
    eventually(lambda: not is_running(child), "it died with its parent")


def test_no_client_takes_all_that_can_be_heard_at_once(stretch: AudioRange, tmp_path: Path) -> None:
    coming: list[Callable[[], None]] = []
    answers: list[ms.ToClient] = []

    def send(message: ms.ToClient, _: Iterable[Buffer]) -> bool:
        answers.append(message)
        return True

    aside = BackgroundPool("test", coming.append)
    holdings = UploadStore(tmp_path / "uploads", UploadsConfig(), reserve_bytes=0, background=aside)
    listening = AudioPreview(holdings, coming.append, PreviewPool(DEAF, limit_s=600))
    job = Job(
        id="a" * 16,
        state=JobState.DONE,
        source=stretch.path,
        location=stretch.path,
        size=stretch.size,
        mtime_ns=stretch.mtime_ns,
        options=Options(),
        order=1,
    )
    media_bytes = msgspec.msgpack.encode(Media(decoded_samples=160_000))
    row = JobRow(job=job, media=media_bytes, created_ms=1, started_ms=1, ended_ms=1)

    def listen(name: str) -> None:
        message = ms.GetAudio(request=1, job=job.id, duration_ms=1000)
        listening.handle(message, row, Peer("keys", b"", Principal(name=name, role="user"), send))

    for _ in range(MAX_PENDING_OF_ONE):
        listen("ann")
    with pytest.raises(RefusedError, match=f"{MAX_PENDING_OF_ONE} of them for you"):
        listen("ann")
    for _ in range(MAX_PENDING - MAX_PENDING_OF_ONE):
        listen("ben")
    with pytest.raises(RefusedError, match=f"{MAX_PENDING} stretches of audio"):
        listen("cat")
    listening.close()
    aside.close()
    for come_back in coming:
        come_back()
    assert [type(answer) for answer in answers] == [ms.Error] * MAX_PENDING
