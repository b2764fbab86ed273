"""Audio requests are answered in time whatever a media file does to its decoder."""

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
from subtitled.api import media_preview
from subtitled.api.media_preview import MAX_PENDING, MAX_PENDING_OF_ONE, MediaPreview
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.upload_store import UploadStore
from subtitled.config.schema import UploadsConfig
from subtitled.core.plan import AudioSource
from subtitled.core.protocol import Media
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.errors import MediaError
from subtitled.media.preview_pool import IDLE_S, AudioRange, MediaGoneError, PreviewPool, VideoPart
from subtitled.network.auth import Principal
from subtitled.runtime.background import BackgroundPool
from subtitled.storage.rows import JobRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from subtitle.codec import Buffer

DEAF = (sys.executable, "-c", "import time; time.sleep(600)")
CRASHES = (sys.executable, "-c", "import os; os.read(0, 8); os.abort()")


ANSWERS = """
import sys
from subtitled.runtime import pipes
while pipes.read(sys.stdin.buffer) is not None:
    pipes.write(sys.stdout.buffer, open(sys.argv[1], "rb").read())
"""


def answering(response: Path) -> PreviewPool:
    """Return a pool whose child answers each request with the content of a file."""
    return PreviewPool((sys.executable, "-c", ANSWERS, str(response)), count=1)


@pytest.fixture
def pool() -> Iterator[PreviewPool]:
    made = PreviewPool()
    yield made
    made.close()


@pytest.fixture
def audio_range(tmp_path: Path) -> AudioRange:
    path = media.write_sound(tmp_path / "talk.flac", media.speech(10))
    found = path.stat()
    return AudioRange(
        path=os.fsencode(path),
        root=os.fsencode(tmp_path),
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        source=AudioSource(),
        language=None,
        drift_ms=0,
        start=16_000,
        samples=32_000,
    )


def children(pool: PreviewPool) -> list[int]:
    return [slot._child.pid for slot in pool._all if slot._child is not None]


def test_range_is_decoded_and_shorter_at_the_end_of_the_audio(
    pool: PreviewPool, audio_range: AudioRange
) -> None:
    pcm = media.speech(10)
    assert pool.decode(audio_range) == pcm[16_000:48_000].tobytes()
    beyond = pool.decode(replace(audio_range, start=9 * 16_000))
    assert beyond == pcm[9 * 16_000 :].tobytes() + bytes(32_000)
    assert pool.decode(replace(audio_range, samples=0)) == b""
    assert len(children(pool)) == 1, "one after the other needs one process"


def test_killed_decoder_process_is_replaced(pool: PreviewPool, audio_range: AudioRange) -> None:
    meant = pool.decode(audio_range)
    for pid in children(pool):
        os.kill(pid, signal.SIGKILL)
    assert pool.decode(audio_range) == meant


def test_file_without_media_is_an_error_and_the_next_file_is_decoded(
    pool: PreviewPool, audio_range: AudioRange, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.flac"
    bad.write_bytes(b"x" * 1000)
    found = bad.stat()
    with pytest.raises(MediaError, match="not media"):
        pool.decode(
            replace(audio_range, path=os.fsencode(bad), size=found.st_size, mtime_ns=found.st_mtime_ns)
        )
    assert len(pool.decode(audio_range)) == 64_000


def test_missing_or_changed_file_is_an_error(pool: PreviewPool, audio_range: AudioRange) -> None:
    pool.decode(audio_range)
    with pytest.raises(MediaGoneError, match="has changed: 5 bytes"):
        pool.decode(replace(audio_range, size=5))
    os.unlink(audio_range.path)  # noqa: PTH108 - the path is bytes
    with pytest.raises(MediaGoneError, match="is gone"):
        pool.decode(audio_range)


def test_hanging_decoder_is_killed(audio_range: AudioRange) -> None:
    pool = PreviewPool(DEAF, count=1, limit_s=0.2)
    with pytest.raises(MediaError, match=r"could not be decoded within 0\.2 s"):
        pool.decode(audio_range)
    assert children(pool) == []
    pool.close()


def test_crash_of_a_decoder_is_an_error(audio_range: AudioRange) -> None:
    pool = PreviewPool(CRASHES, count=1)
    with pytest.raises(MediaError, match="crashed the decoder"):
        pool.decode(audio_range)
    pool.close()


def test_idle_decoder_processes_are_stopped(pool: PreviewPool, audio_range: AudioRange) -> None:
    pool.decode(audio_range)
    [child] = children(pool)
    pool.end_idle(time.monotonic())
    assert is_running(child)
    pool.end_idle(time.monotonic() + IDLE_S)
    assert children(pool) == []
    assert not is_running(child)
    pool.decode(audio_range)


def test_close_does_not_wait_for_a_hanging_decoder(audio_range: AudioRange) -> None:
    pool = PreviewPool(DEAF, count=1, limit_s=600)
    reported: list[str] = []

    def request() -> None:
        try:
            pool.decode(audio_range)
        except MediaError as error:
            reported.append(str(error))

    asking = threading.Thread(target=request)
    asking.start()
    eventually(lambda: children(pool), "it is asked")
    pool.close()
    asking.join(60)
    assert reported == ["the server is stopping"]


def test_decoder_processes_end_with_the_daemon(audio_range: AudioRange) -> None:
    """Also one that hangs in a decoder, and does not see the end of its pipe."""
    script = (
        "import sys, time, msgspec\n"
        "from subtitled.media.preview_pool import PreviewPool, AudioRange\n"
        "pool = PreviewPool()\n"
        "pool.decode(msgspec.json.decode(sys.argv[1], type=AudioRange))\n"
        "print(*(slot._child.pid for slot in pool._all if slot._child), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, msgspec.json.encode(audio_range).decode()], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)
        parent.kill()
    eventually(lambda: not is_running(child), "it died with its parent")


def test_one_client_cannot_use_all_pending_audio_requests(audio_range: AudioRange, tmp_path: Path) -> None:
    coming: list[Callable[[], None]] = []
    answers: list[ms.ToClient] = []

    def send(message: ms.ToClient, _: Iterable[Buffer]) -> bool:
        answers.append(message)
        return True

    aside = BackgroundPool("test", coming.append)
    store = UploadStore(tmp_path / "uploads", UploadsConfig(), reserve_bytes=0, background=aside)
    preview = MediaPreview(store, coming.append, PreviewPool(DEAF, limit_s=600))
    job = Job(
        id="a" * 16,
        state=JobState.DONE,
        source=audio_range.path,
        location=audio_range.path,
        size=audio_range.size,
        mtime_ns=audio_range.mtime_ns,
        options=Options(),
        order=1,
    )
    media_bytes = msgspec.msgpack.encode(Media(decoded_samples=160_000))
    row = JobRow(job=job, media=media_bytes, created_ms=1, started_ms=1, ended_ms=1)

    def request_audio(name: str) -> None:
        message = ms.GetAudio(request=1, job=job.id, duration_ms=1000)
        preview.audio(message, row, Peer("keys", b"", Principal(name=name, role="user"), send))

    for _ in range(MAX_PENDING_OF_ONE):
        request_audio("ann")
    with pytest.raises(RefusedError, match=f"{MAX_PENDING_OF_ONE} of them yours"):
        request_audio("ann")
    for _ in range(MAX_PENDING - MAX_PENDING_OF_ONE):
        request_audio("ben")
    with pytest.raises(RefusedError, match=f"{MAX_PENDING} audio requests"):
        request_audio("cat")
    preview.close()
    aside.close()
    for come_back in coming:
        come_back()
    assert [type(answer) for answer in answers] == [ms.Error] * MAX_PENDING


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"\xa0", "invalid facts"),
        (msgspec.msgpack.encode({"width": -1}), "invalid facts"),
        (msgspec.msgpack.encode({"height": 2**63}), "invalid facts"),
        (b"\x81\xa5cause\xa1\xff", "invalid facts"),
        (bytes(media_preview.MAX_CACHED_BYTES + 1), "the limit is"),
    ],
)
def test_invalid_facts_of_a_decoder_are_an_error(response: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "response").write_bytes(msgspec.msgpack.encode({"data": response}))
    pool = answering(tmp_path / "response")
    wanted = VideoPart(path=b"/film", root=b"", size=1, mtime_ns=1, form=None, start=0, length=0)
    with pytest.raises(MediaError, match=reason):
        media_preview._decode_checked(pool, wanted)
    pool.close()


def test_more_data_than_requested_is_an_error(audio_range: AudioRange, tmp_path: Path) -> None:
    (tmp_path / "response").write_bytes(msgspec.msgpack.encode({"data": bytes(100_000)}))
    pool = answering(tmp_path / "response")
    part = VideoPart(path=b"/film", root=b"", size=1, mtime_ns=1, form="original", start=0, length=9)
    for wanted in (audio_range, part):
        with pytest.raises(MediaError, match="returned 100000 bytes"):
            media_preview._decode_checked(pool, wanted)
    pool.close()


def test_response_that_is_not_utf_8_is_an_error(audio_range: AudioRange, tmp_path: Path) -> None:
    (tmp_path / "response").write_bytes(b"\x81\xa5fault\xa1\xff")
    pool = answering(tmp_path / "response")
    with pytest.raises(MediaError, match="crashed the decoder"):
        pool.decode(audio_range)
    pool.close()


def test_cached_segments_are_bounded_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = media_preview._PartCache(10_000)

    def part(number: int) -> VideoPart:
        return VideoPart(path=b"/film", root=b"", size=1, mtime_ns=1, form="h264", start=number, length=0)

    for number in range(4):
        cache.add(part(number), bytes(2_000))
        assert cache.get(part(0)) == bytes(2_000), "used again and again"
    assert [cache.get(part(number)) is not None for number in range(4)] == [True, False, True, True]
    monkeypatch.setattr(media_preview, "CACHED_S", 0.0)
    cache.expire(time.monotonic())
    assert [cache.get(part(number)) for number in range(4)] == [None] * 4
