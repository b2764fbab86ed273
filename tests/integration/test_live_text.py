"""The text of a job while it is in progress: event stream, OpenAI's stream, command line, page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

import media
from accessibility import VIEWS, violations
from browser import Browser
from chat_endpoint import ChatEndpoint
from daemon import Daemon, eventually
from faults.failing_model import mark
from faults.planned_faults import ModelFault, PlannedFaults
from gateway_process import GatewayProcess
from lazy_import import lazy_import
from subtitle import JobOptions
from subtitled.config import schema
from webdriver import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openai

    from subtitle.messages import JobFacts
else:
    openai = lazy_import("openai")

SUBTITLE = Path(sys.executable).with_name("subtitle")
SERVER = Path(__file__).parents[1] / "faults" / "daemon_main.py"
WAIT_S = 120.0
UNFINISHED = ModelFault(kind="wait", is_marked=True)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> PlannedFaults:
    """Return faults that keep a file whose last segment is marked from being finished."""
    faults = PlannedFaults(tmp_path_factory.mktemp("faults"))
    faults.set(UNFINISHED)
    return faults


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ChatEndpoint]:
    """Return an endpoint that translates nothing until it is released."""
    running = ChatEndpoint()
    running.faults.extend(["slow"] * 10)
    yield running
    running.close()


@pytest.fixture(scope="module")
def daemon(
    plan: PlannedFaults, endpoint: ChatEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("daemon")
    model = schema.NamedModelConfig(
        name="endpoint", engine="openai", endpoint=endpoint.url, endpoint_model="any"
    )
    with Daemon(
        folder,
        models=(model,),
        model=schema.ModelConfig(name="demo", cpu_threads=1, beam_size=1, batch_size=1),
        command=lambda config_file: (str(SERVER), str(config_file), str(plan.folder)),
    ) as running:
        yield running.start()


@pytest.fixture(scope="module")
def gateway(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(daemon, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of several segments of which all but the last are transcribed."""
    pcm = media.speech(40)
    pcm[-8 * media.RATE :] = mark(pcm[-8 * media.RATE :])
    return media.write_sound(tmp_path_factory.mktemp("media") / "endless.wav", pcm)


@pytest.fixture
def job(daemon: Daemon, endless: Path) -> Iterator[JobFacts]:
    """Return a job in progress that does not end before the test."""
    handle = daemon.client.submit(endless, language="en", allow_duplicate=True)
    yield handle.facts()
    if handle.facts().state not in {"done", "failed", "cancelled"}:
        handle.cancel()


def texts_of(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the data of the `text` events of a stream."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data" and name == "text":
            yield json.loads(value)
        elif not line:
            name = ""


def test_event_stream_contains_provisional_cues_of_a_job_in_progress(
    daemon: Daemon, gateway: GatewayProcess, job: JobFacts
) -> None:
    cues: dict[int, list[dict[str, Any]]] = {}
    address = f"{gateway.url}/api/jobs/{job.id}/events?text=true"
    with httpx.stream("GET", address, timeout=WAIT_S) as answer:
        for text in texts_of(answer.iter_lines()):
            cues |= {segment: [] for segment in text["segments"]}
            for cue in text["cues"]:
                cues[cue["segment"]] = [*cues[cue["segment"]], cue]
            if len(cues) >= 3:
                break
    assert daemon.client.status(job.id).state == "transcribing"
    shown = [cue for segment in sorted(cues) for cue in cues[segment]]
    assert shown == sorted(shown, key=lambda cue: cue["start_ms"])
    assert all(cue["lines"] for cue in shown)
    with httpx.stream("GET", address, timeout=WAIT_S, headers={"Last-Event-ID": str(2**40)}) as again:
        repeated = next(texts_of(again.iter_lines()))
    assert repeated["cues"]


def test_openai_stream_sends_text_before_the_end_and_stops_its_job_with_the_client(
    daemon: Daemon, gateway: GatewayProcess, endless: Path
) -> None:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", timeout=WAIT_S, max_retries=0) as ai:
        stream = ai.audio.transcriptions.create(
            file=("streamed.wav", endless.read_bytes()), model="whisper-1", language="en", stream=True
        )
        event = next(iter(stream))
        assert event.type == "transcript.text.delta"
        assert event.delta.strip()
        [job] = [one for one in daemon.client.list(tag="openai") if one.source == "streamed.wav"]
        assert job.state in {"preparing", "transcribing"}
        stream.close()
    assert eventually(lambda: daemon.client.status(job.id).ended_ms, "the job ended")
    assert daemon.client.status(job.id).state == "cancelled"


@pytest.fixture(scope="module")
def shared(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(gateway.url, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_page_of_a_job_in_progress_shows_its_provisional_text(shared: Browser, job: JobFacts) -> None:
    """Also after the server refused the first request."""
    with shared.reused() as browser:
        browser.expect(r"/api/jobs/none/events.* 404")
        planted = browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=FAIL_ONCE)
        browser.open(f"/jobs/{job.id}")
        browser.devtools("Page.removeScriptToEvaluateOnNewDocument", **planted)
        browser.until(
            lambda: browser.script("return window.failed.readyState === 2"), "the first request fails"
        )
        browser.wait_for("[data-provisional] #list a.cue .line")
        starts = browser.script(
            "return [...document.querySelectorAll('#list a')].map((cue) => Number(cue.hash.slice(3)))"
        )
        assert starts == sorted(starts)
        assert "Provisional" in browser.wait_for("#cues-head").text
        assert violations(browser, VIEWS["en"]) == []
        browser.open("/?lang=zh-Hant")
        browser.wait_for("#running-jobs .job")
        assert violations(browser, VIEWS["zh-Hant"]) == []


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_final_cues_replace_provisional_ones_while_a_job_is_played_and_can_be_edited(
    daemon: Daemon,
    shared: Browser,
    plan: PlannedFaults,
    endpoint: ChatEndpoint,
    endless: Path,
) -> None:
    """On the open page and on the command line, and before the job is translated: its transcript is final."""
    with shared.reused() as browser:
        daemon.client.operate(is_paused=True)
        job = daemon.client.submit(
            endless,
            options=JobOptions(tasks=("transcribe", "translate"), translate_to=("ja",)),
            allow_duplicate=True,
        ).id
        browser.open(f"/jobs/{job}")
        options = "return document.querySelectorAll('#track option').length"
        assert browser.script(options) == 3
        browser.script("window.isSame = true")
        command = (SUBTITLE, "watch", job, "--text", "--server", daemon.endpoint)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            daemon.client.operate(is_paused=False)
            browser.wait_for("#play")  # the file is read
            browser.click("#list li:nth-child(2) a.cue")
            started = "return document.getElementById('audio').currentTime"
            browser.until(lambda: browser.script(started) > 0, "the provisional cue is played")
            browser.script(
                "document.getElementById('rate').value = '0.25'; document.getElementById('rate').dispatchEvent(new Event('change'))"
            )
            position = browser.script(started)
            assert not browser.find("#downloads")
            try:
                plan.set()
                browser.wait_for(".headline .state", "translating")
            finally:
                plan.set(UNFINISHED)
            browser.wait_until_gone("[data-provisional]")
            browser.wait_for("#tools")
            cues = daemon.client.fetch(job)[1].decode().count("-->")
            browser.until(lambda: len(browser.find_all("#list a.cue")) == cues, "all cues are shown")
            assert browser.script(options) == 2, "the translation of English is the transcript"
            browser.click("#downloads a", "SRT")
            assert browser.downloaded(".srt").read_bytes() == daemon.client.fetch(job)[1]
            assert watch.stdout is not None
            assert all(watch.stdout.readline() for _ in range(cues)), "all cues are printed"
            assert daemon.client.status(job).state == "translating"
            is_played = "const audio = document.getElementById('audio'); return window.isSame && (!audio.paused || audio.ended)"
            assert browser.script(is_played)
            assert browser.script(started) >= position
            browser.click("#edit")
            browser.wait_for("#edit-text").type("Edited ")
            endpoint.release()
            browser.wait_for(".headline .state.done")
            browser.wait_for("#edit-text")  # the editor stays open
            browser.click("#editor [data-command=done]")
            browser.wait_for("#edit")
            assert b"Edited" in daemon.client.fetch(job)[1]
            browser.script(CHOOSE_TRACK)
            browser.wait_until_gone("#edit")  # a translation is not edited
            assert watch.stdout.read() == ""
        assert watch.returncode == 0
        assert browser.script("return window.isSame")


CHOOSE_TRACK = """
const field = document.getElementById("track");
field.value = "1";
field.dispatchEvent(new Event("change"));
"""
FAIL_ONCE = """
(() => {
  const original = window.EventSource;
  window.EventSource = function () {
    window.EventSource = original;
    return (window.failed = new original("/api/jobs/none/events"));
  };
  window.EventSource.CLOSED = original.CLOSED;
})();
"""
"""Requests the events of a job that does not exist the first time."""


def test_command_line_prints_the_provisional_text_of_a_job_in_progress(daemon: Daemon, job: JobFacts) -> None:
    command = (SUBTITLE, "watch", job.id, "--text", "--server", daemon.endpoint)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        daemon.client.cancel(job.id)
        _, complaint = process.communicate(timeout=WAIT_S)
    assert re.fullmatch(r"0:0\d  \w.*\n", first)
    assert complaint == f"subtitle: job {job.id}: cancelled\n"
    assert process.returncode == 1
