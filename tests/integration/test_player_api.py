"""What a player needs of a job, from a real daemon: for a client, and over HTTP by a real gateway."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import av
import httpx2 as httpx
import msgspec
import numpy as np
import pytest
import soundfile

import media
from daemon import Daemon, InboxFolder, eventually
from gateway_process import GatewayProcess
from subtitle import aio
from subtitle import messages as ms
from subtitle.client import Client
from subtitle.errors import ServerError
from subtitled.config import schema
from subtitled.config.load import to_toml
from subtitled.http.gateway import Gateway as Http
from subtitled.http.player import CuesResponse, wav_chunks
from subtitled.http.wav import ByteRange
from subtitled.media.waveform import WaveformBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SPOKEN_S = 20
WAIT_S = 120.0
NARROW = ms.LayoutOptions(max_chars=20, max_lines=1)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running.start()


@pytest.fixture(scope="module")
def http(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        GatewayProcess(daemon, tmp_path_factory.mktemp("gateway")) as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def talk(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a job that is done, with all its words timed."""
    path = media.write_sound(tmp_path_factory.mktemp("media") / "talk.flac", media.speech(SPOKEN_S))
    job = daemon.client.submit(path, word_timestamps=True)
    job.wait(WAIT_S)
    return job.id


def lines_of(srt: str) -> list[list[str]]:
    return [block.split("\n")[2:] for block in srt.strip().split("\n\n")]


def text_of(srt: str) -> str:
    return " ".join(line for lines in lines_of(srt) for line in lines)


# -- cues --------------------------------------------------------------------------------------------------------


def test_a_client_can_fetch_cues_with_other_limits(daemon: Daemon, talk: str) -> None:
    wide = daemon.client.fetch(talk)[1].decode()
    narrow = daemon.client.fetch(talk, layout=NARROW)[1].decode()
    assert all(len(lines) == 1 and len(lines[0]) <= 20 for lines in lines_of(narrow))
    assert any(len(lines) > 1 or len(lines[0]) > 20 for lines in lines_of(wide))
    assert text_of(narrow) == text_of(wide)
    assert daemon.client.fetch(talk)[1].decode() == wide


def test_contradictory_limits_are_rejected(daemon: Daemon, talk: str) -> None:
    for layout in (ms.LayoutOptions(min_ms=5000, max_ms=1000), ms.LayoutOptions(gap_ms=500, chain_ms=100)):
        with pytest.raises(ServerError, match="layout: ") as refused:
            daemon.client.fetch(talk, layout=layout)
        assert refused.value.code == "BAD_FORMAT"


def test_subtitle_fetch_accepts_layout_options(daemon: Daemon, talk: str) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        subtitle = str(Path(sys.executable).with_name("subtitle"))
        command = (subtitle, "fetch", talk, "-o", "-", "--server", daemon.endpoint, *words)
        return subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)

    done = run("--max-chars", "20", "--max-lines", "1")
    assert done.stdout == daemon.client.fetch(talk, layout=NARROW)[1], done.stderr
    done = run("--max-chars", "2")
    assert (done.returncode, b"layout.max_chars" in done.stderr) == (2, True)


def test_a_result_is_laid_out_with_the_limits_in_the_query(
    daemon: Daemon, http: httpx.Client, talk: str
) -> None:
    params = {"layout": msgspec.json.encode(NARROW).decode()}
    answer = http.get(f"/api/jobs/{talk}/result", params=params)
    assert answer.content == daemon.client.fetch(talk, layout=NARROW)[1]


@pytest.mark.parametrize(
    "layout", ["{", "[]", '{"width": 3}', '{"max_chars": 2}', '{"min_ms": 5000, "max_ms": 1000}']
)
def test_an_invalid_layout_is_rejected(http: httpx.Client, talk: str, layout: str) -> None:
    for what in ("result", "cues"):
        answer = http.get(f"/api/jobs/{talk}/{what}", params={"layout": layout})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_format")
        assert answer.json()["message"].startswith("layout: ")


def test_cues_contain_words_with_probabilities(daemon: Daemon, http: httpx.Client, talk: str) -> None:
    answer = http.get(f"/api/jobs/{talk}/cues")
    cues = msgspec.convert(answer.json(), CuesResponse)
    assert (cues.language, cues.duration_ms, cues.is_partial) == ("en", SPOKEN_S * 1000, False)
    assert [list(cue.lines) for cue in cues.cues] == lines_of(daemon.client.fetch(talk)[1].decode())
    words = [word for cue in cues.cues for word in cue.words]
    assert all(word.probability is not None and 0 < word.probability <= 1 for word in words)
    assert all(0 < cue.confidence <= 1 for cue in cues.cues)
    narrow = http.get(f"/api/jobs/{talk}/cues", params={"layout": '{"max_chars":20,"max_lines":1}'}).json()
    assert (narrow["limits"]["max_chars"], narrow["limits"]["max_lines"]) == (20, 1)
    assert len(narrow["cues"]) > len(cues.cues)


# -- waveform ----------------------------------------------------------------------------------------------------


def peaks_of(pcm: NDArray[np.int16]) -> tuple[int, bytes]:
    peaks = WaveformBuilder()
    peaks.feed(pcm)
    return peaks.finish()


def test_the_waveform_matches_the_audio(daemon: Daemon, http: httpx.Client, talk: str) -> None:
    interval_ms, peaks = peaks_of(media.speech(SPOKEN_S))
    answer, found = daemon.client.waveform(talk)
    assert (answer.interval_ms, answer.offset_ms, answer.audio_ms) == (interval_ms, 0, SPOKEN_S * 1000)
    assert found == peaks
    body = http.get(f"/api/jobs/{talk}/waveform").json()
    assert base64.b64decode(body.pop("peaks")) == peaks
    assert body == {"interval_ms": interval_ms, "offset_ms": 0, "audio_ms": SPOKEN_S * 1000}


def test_a_file_that_was_not_decoded_has_no_waveform(
    daemon: Daemon, http: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "broken.mp3"
    path.write_bytes(b"not media")
    job = daemon.client.submit(path).id
    eventually(lambda: daemon.client.status(job).state == "failed", "the job failed")
    with pytest.raises(ServerError, match="is failed; its file was not read to the end") as refused:
        daemon.client.waveform(job)
    assert refused.value.code == "WRONG_STATE"
    assert http.get(f"/api/jobs/{job}/waveform").status_code == 409
    assert http.get("/api/jobs/none/waveform").status_code == 404


@pytest.mark.long
def test_the_waveform_survives_kills_during_and_after_decoding(tmp_path: Path) -> None:
    pcm = np.concatenate([media.recording(), media.silence(600), media.recording()])
    path = media.write_sound(tmp_path / "long.flac", pcm)
    with Daemon(tmp_path) as daemon:
        daemon.start()
        job = daemon.client.submit(path).id
        eventually(lambda: daemon.client.status(job).segments.get("done"), "it is being transcribed")
        daemon.kill()
        daemon.start()
        daemon.client.job(job).wait(WAIT_S)
        daemon.kill()
        daemon.start()
        assert daemon.client.waveform(job)[1] == peaks_of(pcm)[1]


# -- audio -------------------------------------------------------------------------------------------------------


def heard(client: Client, job: str) -> NDArray[np.int16]:
    """Return all audio of a job, a minute at a time."""
    pieces, at_ms = [], 0
    while True:
        answer, samples = client.audio(job, at_ms)
        pieces.append(samples)
        at_ms += 60_000
        if at_ms * 16 >= answer.total_samples:
            return np.frombuffer(b"".join(pieces), "<i2")


def test_audio_ranges_match_the_times_of_the_cues(daemon: Daemon, tmp_path: Path) -> None:
    pcm = media.speech(SPOKEN_S)
    voice = media.Voice(pcm, start_s=1.5)
    late = media.mux(tmp_path / "late.mkv", voice, codec="flac", rate=16_000, layout="mono", picture_s=22.0)
    job = daemon.client.submit(late)
    job.wait(WAIT_S)
    whole = heard(daemon.client, job.id)
    assert len(whole) == 1.5 * 16_000 + len(pcm)
    assert not whole[:24_000].any()
    assert np.array_equal(whole[24_000:], pcm)
    for start_ms, duration_ms in (
        (0, 100),
        (1_400, 200),
        (1_500, 1),
        (20_000, 60_000),
        (21_500, 10),
        (99_999, 5),
    ):
        answer, samples = daemon.client.audio(job.id, start_ms, duration_ms)
        assert (answer.total_samples, answer.sample_rate) == (len(whole), 16_000)
        meant = whole[start_ms * 16 : (start_ms + duration_ms) * 16]
        assert samples == meant.tobytes()


def test_audio_comes_from_the_files_current_place_unless_missing_or_changed(tmp_path: Path) -> None:
    inbox = InboxFolder(options={"settle_s": 0.1, "after": "move"})
    with Daemon(tmp_path, inboxes=(inbox,)) as daemon:
        daemon.start()
        daemon.drop(media.clip(), "talk.flac")
        [job] = daemon.wait_for_jobs(1)
        assert np.array_equal(heard(daemon.client, job.id), media.speech(8))
        moved = daemon.inbox / "done" / "talk.flac"
        moved.write_bytes(b"another")
        with pytest.raises(ServerError, match=r"has changed.*restore") as refused:
            daemon.client.audio(job.id)
        assert refused.value.code == "NOT_FOUND"
        moved.unlink()
        with pytest.raises(ServerError, match=r"is gone.*restore"):
            daemon.client.audio(job.id)


def test_audio_of_an_upload_is_available_until_it_expires(tmp_path: Path) -> None:
    with Daemon(tmp_path, uploads=schema.UploadsConfig(keep_done_s=3600)) as daemon:
        daemon.start()
        job = daemon.client.submit(media.write_sound(tmp_path / "talk.flac", media.speech(8))).id
        daemon.client.job(job).wait(WAIT_S)
        daemon.stop()
        daemon.start()
        assert np.array_equal(heard(daemon.client, job), media.speech(8))
        briefly = msgspec.structs.replace(daemon.config, uploads=schema.UploadsConfig(keep_done_s=0))
        daemon.config_file.write_text(to_toml(briefly), "utf-8")
        os.kill(daemon.pid, signal.SIGHUP)
        eventually(lambda: daemon.client.stats().spool_bytes == 0, "it is kept no longer")

        def refusal() -> str:
            try:
                daemon.client.audio(job)
            except ServerError as error:
                return str(error)
            return ""

        assert "uploads.keep_done_s" in eventually(refusal, "it is gone")


def test_audio_is_served_whole_and_in_ranges(http: httpx.Client, talk: str) -> None:
    pcm = media.speech(SPOKEN_S)
    url = f"/api/jobs/{talk}/audio"
    whole = http.get(url)
    assert (whole.status_code, whole.headers["content-type"]) == (200, "audio/wav")
    assert whole.headers["accept-ranges"] == "bytes"
    samples, rate = soundfile.read(io.BytesIO(whole.content), dtype="int16")
    assert rate == 16_000
    assert np.array_equal(samples, pcm)
    size = len(whole.content)
    assert int(whole.headers["content-length"]) == size == 44 + 2 * len(pcm)
    for asked, start, end in (
        ("bytes=0-", 0, size),
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("bytes=44-", 44, size),
        ("bytes=300001-300011", 300_001, 300_012),
        ("bytes=-5", size - 5, size),
        (f"bytes=1000-{size + 1000}", 1000, size),
        (f"bytes=-{size + 1000}", 0, size),
    ):
        part = http.get(url, headers={"Range": asked})
        assert (part.status_code, part.headers["content-range"]) == (206, f"bytes {start}-{end - 1}/{size}")
        assert part.content == whole.content[start:end]
    for asked in (f"bytes={size}-", "bytes=-0"):
        none = http.get(url, headers={"Range": asked})
        assert (none.status_code, none.headers["content-range"]) == (416, f"bytes */{size}")
    for asked in ("bytes=5-4", "bytes=0-1,5-6", "samples=0-1", "bytes=-", "bytes=a-b"):
        assert http.get(url, headers={"Range": asked}).status_code == 200
    same, other = ({"Range": "bytes=0-9", "If-Range": tag} for tag in (whole.headers["etag"], '"other"'))
    assert (http.get(url, headers=same).status_code, http.get(url, headers=other).status_code) == (206, 200)
    head = http.head(url, headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.headers["content-length"], head.content) == (206, "10", b"")


def test_missing_audio_is_404(http: httpx.Client) -> None:
    answer = http.get("/api/jobs/none/audio")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_decoding_stops_when_the_client_stops_reading(
    daemon: Daemon, http: httpx.Client, tmp_path: Path
) -> None:
    """Ten minutes are 19 MB: who reads the first of them has the daemon decode no more."""
    path = media.write_sound(tmp_path / "long.flac", media.silence(600))
    job = daemon.client.submit(path)
    job.wait(WAIT_S)
    asked: list[int] = []

    class Counting(aio.AsyncClient):
        async def audio(
            self, job: str, start_ms: int = 0, duration_ms: int = 60_000
        ) -> tuple[ms.Audio, bytes]:
            asked.append(duration_ms)
            return await super().audio(job, start_ms, duration_ms)

    async def read_some() -> None:
        async with Counting(daemon.endpoint) as client:
            pieces = wav_chunks(Http(client, 1), job.id, ByteRange(0, 44 + 600 * 32_000), 600 * 32_000)
            async for piece in pieces:
                assert piece
                break
            await pieces.aclose()

    asyncio.run(read_some())
    assert asked == [2_000]
    with http.stream("GET", f"/api/jobs/{job.id}/audio") as answer:
        assert answer.status_code == 200
        next(answer.iter_raw())
    assert daemon.client.audio(job.id, 1000, 1)[1] == bytes(32)


@pytest.fixture(scope="module")
def films(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Return a film that browsers play and one that they do not, each with its job."""
    folder = tmp_path_factory.mktemp("films")
    paths = {
        kind: media.mux(
            folder / f"film.{kind}", media.Voice(media.speech(4)), picture=media.Picture(seconds=4)
        )
        for kind in ("mp4", "mkv")
    }
    jobs = {kind: daemon.client.submit(path) for kind, path in paths.items()}
    for job in jobs.values():
        job.wait(WAIT_S)
    return {kind: (path, jobs[kind].id) for kind, path in paths.items()}


def test_a_file_that_browsers_play_is_served_in_ranges(
    http: httpx.Client, films: dict[str, tuple[Path, str]]
) -> None:
    path, job = films["mp4"]
    facts = http.get(f"/api/jobs/{job}/video").json()
    assert (facts["width"], facts["height"], facts["cause"]) == (64, 36, "")
    assert facts["media_type"].startswith('video/mp4; codecs="avc1.')
    address = f"/api/jobs/{job}/video/original"
    whole = http.get(address)
    assert (whole.status_code, whole.content) == (200, path.read_bytes())
    assert whole.headers["content-type"] == "video/mp4"
    part = http.get(address, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, path.read_bytes()[100:200])
    size = path.stat().st_size
    assert part.headers["content-range"] == f"bytes 100-199/{size}"
    assert http.get(address, headers={"Range": f"bytes={size}-"}).status_code == 416


def test_any_other_file_is_served_in_encoded_segments(
    daemon: Daemon, http: httpx.Client, films: dict[str, tuple[Path, str]], talk: str
) -> None:
    _, job = films["mkv"]
    facts = http.get(f"/api/jobs/{job}/video").json()
    assert (facts["width"], facts["media_type"], facts["segment_ms"]) == (64, "", ms.VIDEO_SEGMENT_MS)
    refused = http.get(f"/api/jobs/{job}/video/original")
    assert (refused.status_code, refused.json()["code"]) == (415, "not_playable")
    address = f"/api/jobs/{job}/video/segments/0"
    for form, media_type in (("h264", "video/mp4"), ("vp8", "video/webm")):
        segment = http.get(address, params={"form": form})
        assert (segment.status_code, segment.headers["content-type"]) == (200, media_type)
        with av.open(io.BytesIO(segment.content), "r") as container:
            assert len(list(container.decode(video=0))) == 100
    assert http.get(address, params={"form": "gif"}).status_code == 400
    with pytest.raises(ServerError, match="BAD_FORMAT"):
        daemon.client.video(job, "original", 0, 100)
    # A file without a picture.
    assert http.get(f"/api/jobs/{talk}/video").json()["width"] == 0
    assert http.get(f"/api/jobs/{talk}/video/segments/0").status_code == 404
