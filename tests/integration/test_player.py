"""What a player needs of a job, from a real daemon: for a client, and over HTTP by a real gateway."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2 as httpx
import msgspec
import numpy as np
import pytest

import media
from daemon import Daemon, eventually
from gateway import Gateway
from subtitle import messages as ms
from subtitle.errors import ServerError
from subtitled.http.player import Cues
from subtitled.reading.peaks import Peaks

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
        Gateway(daemon, tmp_path_factory.mktemp("gateway")) as gateway,
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


def test_a_client_gets_the_cues_within_other_limits(daemon: Daemon, talk: str) -> None:
    wide = daemon.client.fetch(talk)[1].decode()
    narrow = daemon.client.fetch(talk, layout=NARROW)[1].decode()
    assert all(len(lines) == 1 and len(lines[0]) <= 20 for lines in lines_of(narrow))
    assert any(len(lines) > 1 or len(lines[0]) > 20 for lines in lines_of(wide))
    assert text_of(narrow) == text_of(wide)
    assert daemon.client.fetch(talk)[1].decode() == wide


def test_limits_that_cannot_be_kept_to_are_refused(daemon: Daemon, talk: str) -> None:
    for layout in (ms.LayoutOptions(min_ms=5000, max_ms=1000), ms.LayoutOptions(gap_ms=500, chain_ms=100)):
        with pytest.raises(ServerError, match="layout: ") as refused:
            daemon.client.fetch(talk, layout=layout)
        assert refused.value.code == "BAD_FORMAT"


def test_the_command_gets_the_cues_within_other_limits(daemon: Daemon, talk: str) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        subtitle = str(Path(sys.executable).with_name("subtitle"))
        command = (subtitle, "fetch", talk, "-o", "-", "--server", daemon.endpoint, *words)
        return subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)

    done = run("--max-chars", "20", "--max-lines", "1")
    assert done.stdout == daemon.client.fetch(talk, layout=NARROW)[1], done.stderr
    done = run("--max-chars", "2")
    assert (done.returncode, b"layout.max_chars" in done.stderr) == (2, True)


def test_a_result_is_laid_out_as_the_query_says(daemon: Daemon, http: httpx.Client, talk: str) -> None:
    params = {"layout": msgspec.json.encode(NARROW).decode()}
    answer = http.get(f"/api/jobs/{talk}/result", params=params)
    assert answer.content == daemon.client.fetch(talk, layout=NARROW)[1]


@pytest.mark.parametrize(
    "layout", ["{", "[]", '{"width": 3}', '{"max_chars": 2}', '{"min_ms": 5000, "max_ms": 1000}']
)
def test_a_layout_that_is_none_is_refused(http: httpx.Client, talk: str, layout: str) -> None:
    for what in ("result", "cues"):
        answer = http.get(f"/api/jobs/{talk}/{what}", params={"layout": layout})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_format")
        assert answer.json()["message"].startswith("layout: ")


def test_cues_tell_what_was_heard_in_them(daemon: Daemon, http: httpx.Client, talk: str) -> None:
    answer = http.get(f"/api/jobs/{talk}/cues")
    cues = msgspec.convert(answer.json(), Cues)
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
    peaks = Peaks()
    peaks.feed(pcm)
    return peaks.finish()


def test_the_waveform_is_that_of_the_audio(daemon: Daemon, http: httpx.Client, talk: str) -> None:
    interval_ms, peaks = peaks_of(media.speech(SPOKEN_S))
    answer, found = daemon.client.waveform(talk)
    assert (answer.interval_ms, answer.offset_ms, answer.audio_ms) == (interval_ms, 0, SPOKEN_S * 1000)
    assert found == peaks
    told = http.get(f"/api/jobs/{talk}/waveform").json()
    assert base64.b64decode(told.pop("peaks")) == peaks
    assert told == {"interval_ms": interval_ms, "offset_ms": 0, "audio_ms": SPOKEN_S * 1000}


def test_what_was_not_read_has_no_waveform(daemon: Daemon, http: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp3"
    path.write_bytes(b"not media")
    job = daemon.client.submit(path).id
    eventually(lambda: daemon.client.status(job).state == "failed", "the job failed")
    with pytest.raises(ServerError, match="is failed; its file was not read to its end") as refused:
        daemon.client.waveform(job)
    assert refused.value.code == "WRONG_STATE"
    assert http.get(f"/api/jobs/{job}/waveform").status_code == 409
    assert http.get("/api/jobs/none/waveform").status_code == 404


def test_the_waveform_outlives_a_kill_while_the_file_is_read_and_after(tmp_path: Path) -> None:
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
