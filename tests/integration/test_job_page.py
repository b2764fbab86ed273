"""The job page of a real gateway and daemon; the browser tests cover its scripts."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import numpy as np
import pytest

import media
from daemon import Daemon, eventually
from faults.failing_model import mark
from faults.planned_faults import ModelFault, PlannedFaults
from gateway_process import GatewayProcess
from subtitled.config import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 120.0
SERVER = Path(__file__).parents[1] / "faults" / "daemon_main.py"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> PlannedFaults:
    return PlannedFaults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def daemon(plan: PlannedFaults, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return a daemon with planned GPU failures."""
    with Daemon(
        tmp_path_factory.mktemp("daemon"),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
        command=lambda config_file: (str(SERVER), str(config_file), str(plan.folder)),
    ) as running:
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
    """Return a finished job."""
    path = media.write_sound(tmp_path_factory.mktemp("media") / "talk.flac", media.recording())
    job = daemon.client.submit(path, word_timestamps=True, tag="mine")
    job.wait(WAIT_S)
    return job.id


def shown(page: str) -> list[list[str]]:
    """Return the lines of each cue that a page lists."""
    cues = re.findall(r'<div class="cue">(.*?)</div>', page, re.DOTALL)
    return [[html.unescape(line) for line in re.findall(r'class="line">(.*?)<', cue)] for cue in cues]


def written(srt: str) -> list[list[str]]:
    return [block.split("\n")[2:] for block in srt.strip().split("\n\n")]


def links(page: str) -> dict[str, str]:
    """Return the address of each download, by its format."""
    found = re.findall(r'href="([^"]*/result[^"]*)" data-format="(\w+)"', page)
    return {form: html.unescape(address) for address, form in found}


def test_a_finished_job_is_readable_and_downloadable_without_scripts(
    http: httpx.Client, daemon: Daemon, talk: str
) -> None:
    page = http.get(f"/jobs/{talk}").text
    assert shown(page) == written(daemon.client.fetch(talk)[1].decode())
    for fact in ("talk.flac", "English", "58 s", "mine", talk):
        assert fact in page
    found = links(page)
    assert tuple(found) == daemon.client.ping().formats
    for form, address in found.items():
        answer = http.get(address)
        assert answer.content == daemon.client.fetch(talk, form)[1]
        assert answer.headers["content-disposition"].endswith(f"talk.en.{form}")


def test_the_layout_form_changes_cues_and_downloads(http: httpx.Client, talk: str) -> None:
    page = http.get(f"/jobs/{talk}", params={"max_chars": "20", "max_lines": "1", "gap_ms": ""}).text
    assert all(len(lines) == 1 and len(lines[0]) <= 20 for lines in shown(page))
    assert 'name="max_chars" min="8" max="200" step="1" value="20"' in page
    address = links(page)["srt"]
    # Other limits are those of the job.
    layout = json.loads(parse_qs(urlsplit(address).query)["layout"][0])
    assert (layout["max_chars"], layout["max_lines"], layout["gap_ms"]) == (20, 1, 83)
    srt = written(http.get(address).text)
    assert srt[:100] == shown(page)
    strict = http.get(f"/jobs/{talk}", params={"profile": "strict"}).text
    assert json.loads(parse_qs(urlsplit(links(strict)["vtt"]).query)["layout"][0]) == {"profile": "strict"}


@pytest.mark.parametrize(
    "query",
    [{"max_chars": "2"}, {"max_lines": "many"}, {"profile": "x"}, {"min_ms": "5000", "max_ms": "1000"}],
)
def test_invalid_limits_get_an_error_page(http: httpx.Client, talk: str, query: dict[str, str]) -> None:
    answer = http.get(f"/jobs/{talk}", params=query)
    assert (answer.status_code, "The request failed" in answer.text) == (400, True)


def test_long_cue_lists_are_paged(http: httpx.Client, talk: str) -> None:
    narrow = {"max_chars": "8", "max_lines": "1", "min_ms": "0"}
    answer = http.get(f"/jobs/{talk}", params=narrow)
    address = links(answer.text)["srt"]
    read, path = shown(answer.text), re.search(r'href="([^"]+)" rel="next"', answer.text)
    assert len(read) == 100
    while path:
        answer = http.get(html.unescape(path[1]))
        read += shown(answer.text)
        path = re.search(r'href="([^"]+)" rel="next"', answer.text)
    assert read == written(http.get(address).text)
    assert shown(http.get(f"/jobs/{talk}", params={"from": "999999999"}).text), "the last cue"


def test_the_job_page_loads_less_than_100_kb(http: httpx.Client, talk: str) -> None:
    page = http.get(f"/jobs/{talk}")
    waiting = [address.removeprefix("/static/") for address in re.findall(r'"(/static/[^"]+)"', page.text)]
    sizes = {"": len(page.content)}
    while waiting:
        name = waiting.pop()
        content = http.get(f"/static/{name}")
        # As sent: compressed.
        sizes[name.partition("?")[0]] = content.num_bytes_downloaded
        waiting += [other for other in re.findall(r'from "\./([\w.]+)"', content.text) if other not in sizes]
    assert len(sizes) > 10
    assert sum(sizes.values()) < 100_000, sizes


def test_the_page_reports_missing_media(http: httpx.Client, daemon: Daemon) -> None:
    job = daemon.wait_for(daemon.drop(media.clip(), "gone.flac"))
    assert "data-media-missing" not in http.get(f"/jobs/{job.id}").text
    for path in daemon.inbox.rglob("gone.flac"):
        path.unlink()

    def marked() -> str | None:
        # The page waits a second for the answer; without one the player asks again.
        text = http.get(f"/jobs/{job.id}").text
        return text if "data-media-missing" in text else None

    page = eventually(marked, "the page knows that the media is gone")
    assert "The media file is no longer on the server" in page
    assert (bool(shown(page)), len(links(page)) > 5) == (True, True)


def test_a_file_without_speech_has_a_player_and_no_cues(
    http: httpx.Client, daemon: Daemon, tmp_path: Path
) -> None:
    job = daemon.client.submit(media.write_sound(tmp_path / "silence.wav", media.silence(2)))
    job.wait(WAIT_S)
    page = http.get(f"/jobs/{job.id}").text
    assert "No speech was detected in this file" in page
    assert 'id="player"' in page


def test_a_job_shows_the_track_and_the_channels_that_were_transcribed(
    http: httpx.Client, daemon: Daemon, tmp_path: Path
) -> None:
    voices = media.Voice(media.silence(2)), media.Voice(media.speech(2), language="eng", title="Main")
    handle = daemon.client.submit(media.mux(tmp_path / "two.mkv", *voices))
    handle.wait(WAIT_S)
    page = html.unescape(re.sub("<[^>]+>", " ", http.get(f"/jobs/{handle.id}").text))
    assert re.search(r"Channels +left and right\s", page)
    assert re.search(r"Audio track +2 \(English, “Main”, 2 channels\)", page)
    assert re.search(r"Tracks not used +1 \(no language, 2 channels\)", page)


def test_a_running_job_shows_its_progress(http: httpx.Client, daemon: Daemon, tmp_path: Path) -> None:
    long = media.write_sound(tmp_path / "long.flac", np.tile(media.recording(), 8))
    job = http.post("/api/jobs", files={"file": ("long.flac", long.read_bytes())}).json()["id"]
    page = http.get(f"/jobs/{job}").text
    assert f'data-live="/fragments/jobs/{job}"' in page
    assert "<progress" in page
    eventually(
        lambda: "segments" in http.get(f"/fragments/jobs/{job}").text, "the number of segments is shown"
    )
    part = http.get(f"/fragments/jobs/{job}")
    assert ("<html" in part.text, "/cancel" in part.text) == (False, True)
    assert http.post(f"/jobs/{job}/cancel").status_code == 303
    page = http.get(f"/jobs/{job}").text
    assert ('data-state="cancelled"' in page, "data-live" in page) == (True, False)
    assert http.get("/fragments/jobs/nosuch").status_code == 404
    assert daemon.client.status(job).state == "cancelled"


def test_a_failed_job_shows_its_reason_and_the_finished_part(
    http: httpx.Client, daemon: Daemon, plan: PlannedFaults, tmp_path: Path
) -> None:
    pcm = media.speech(30)
    first, last = 10 * media.RATE, 12 * media.RATE
    pcm = np.concatenate([pcm[:first], mark(pcm[first:last]), pcm[last:]])
    path = media.write_sound(tmp_path / "holed.flac", pcm)
    plan.set(ModelFault(kind="memory", is_marked=True))
    job = daemon.client.submit(path).id
    eventually(
        lambda: daemon.client.status(job).state == "failed" and daemon.is_closed(job), "the job failed"
    )
    page = http.get(f"/jobs/{job}").text
    assert "1 of" in page
    assert "out of memory with a single segment" in page
    assert shown(page) == written(daemon.client.fetch(job)[1].decode())
    assert http.get(links(page)["srt"]).headers["content-disposition"].endswith(".partial.srt")
    plan.set()
    assert http.post(f"/jobs/{job}/retry").headers["location"] == f"/jobs/{job}"
    daemon.client.job(job).wait(WAIT_S)
    assert "could not be transcribed" not in http.get(f"/jobs/{job}").text.partition("<details")[0]


def test_a_file_that_is_not_media_has_a_reason_and_no_player(
    http: httpx.Client, daemon: Daemon, tmp_path: Path
) -> None:
    path = tmp_path / "broken.mkv"
    path.write_bytes(b"not media")
    job = daemon.client.submit(path).id
    eventually(
        lambda: daemon.client.status(job).state == "failed" and daemon.is_closed(job), "the job failed"
    )
    page = http.get(f"/jobs/{job}").text
    assert "is not media that FFmpeg can read" in page
    assert (f'action="/jobs/{job}/retry"' in page, 'id="player"' in page) == (True, False)
    assert "File cannot be decoded" in page, "in the history"


@pytest.fixture(scope="module")
def unheard(daemon: Daemon, plan: PlannedFaults, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a finished job for whose last segment the model gave no text."""
    pcm = np.concatenate([media.speech(20), np.zeros(4 * media.RATE, np.int16), mark(media.speech(20))])
    path = media.write_sound(tmp_path_factory.mktemp("media") / "silent.flac", pcm)
    plan.set(ModelFault(kind="no_text", is_marked=True))
    job = daemon.wait_for(daemon.drop(path, "silent.flac"))
    plan.set()
    return job.id


def test_speech_without_text_is_explained_for_the_archived_file(daemon: Daemon, unheard: str) -> None:
    path = daemon.inbox / "done" / "silent.flac"
    command = (sys.executable, "-m", "subtitled", "explain", path, "--config", daemon.config_file)
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"job +{unheard} done", text)
    [start_ms, _, cause] = daemon.client.status(unheard).unheard[-1].split(" ", 2)
    assert re.search(rf"unheard +0:{int(start_ms) // 1000}\..*: {cause}", text)


def test_speech_without_text_is_in_the_status_of_its_job(
    http: httpx.Client, daemon: Daemon, unheard: str
) -> None:
    status = daemon.client.status(unheard)
    assert (status.state, status.missing) == ("done", ())
    spans = [span.split(" ", 2) for span in status.unheard]
    assert spans
    assert all(0 <= int(start) < int(end) <= 44_500 for start, end, _ in spans)
    assert int(spans[-1][1]) > 40_000
    assert http.get(f"/api/jobs/{unheard}").json()["unheard"] == list(status.unheard)
    found = [
        (span["start_ms"], span["end_ms"]) for span in http.get(f"/api/jobs/{unheard}/cues").json()["unheard"]
    ]
    assert found == [(int(start), int(end)) for start, end, _ in spans]
    assert not daemon.client.list()[0].unheard, "a list does not read the results"


def test_speech_without_text_is_logged_with_its_times(daemon: Daemon, unheard: str) -> None:
    line = daemon.wait_for_log("job.unheard", level="warning", job=unheard)
    [done] = [entry for entry in daemon.log("job.done") if entry["job"] == unheard]
    assert line["unheard_s"] == done["unheard_s"] > 1
    first = daemon.client.status(unheard).unheard[0].split(" ")
    assert line["times_s"][0] == f"{int(first[0]) / 1000:.1f}-{int(first[1]) / 1000:.1f}"


@pytest.mark.parametrize(
    ("language", "heading"), [("en", "Speech without text"), ("zh-TW", "沒有文字的語音")]
)
def test_speech_without_text_is_listed_with_links_to_its_position(
    http: httpx.Client, daemon: Daemon, unheard: str, language: str, heading: str
) -> None:
    page = http.get(f"/jobs/{unheard}", headers={"Accept-Language": language}).text
    assert heading in page
    start_ms = int(daemon.client.status(unheard).unheard[0].split(" ")[0])
    assert f'href="#t={start_ms / 1000}"' in page


def test_lost_audio_of_a_cut_file_is_listed_wherever_its_job_is_shown(
    http: httpx.Client, daemon: Daemon, tmp_path: Path
) -> None:
    path = media.write_sound(tmp_path / "cut.wav", media.speech(8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    job = daemon.client.submit(path, language="en")
    status = job.wait(WAIT_S)
    assert [round(second) for second in status.damaged[0]] == [4, 8]
    [[start_s, end_s]] = http.get(f"/api/jobs/{job.id}").json()["damaged"]
    assert (start_s, end_s) == status.damaged[0]
    assert http.get(f"/api/jobs/{job.id}/cues").json()["damaged"] == [[start_s, end_s]]
    for language, heading in (("en", "Lost audio"), ("zh-TW", "遺失的聲音")):
        page = http.get(f"/jobs/{job.id}", headers={"Accept-Language": language}).text
        assert heading in page
        assert f'href="#t={start_s}"' in page


def test_jobs_whose_speech_has_text_list_nothing(http: httpx.Client, daemon: Daemon, talk: str) -> None:
    assert daemon.client.status(talk).unheard == ()
    assert "Speech without text" not in http.get(f"/jobs/{talk}").text
    assert "Lost audio" not in http.get(f"/jobs/{talk}").text
    assert not [line for line in daemon.log("job.unheard") if line["job"] == talk]
