"""The page, as people use it: in a real browser, before a real gateway and daemon."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

import media
from accessibility import appearance, faults, focusable
from browser import Browser
from daemon import Daemon, eventually
from gateway_process import GatewayProcess
from subtitle import JobFacts
from webdriver import PHONE, Key, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SPOKEN_S = 12
WAIT_S = 120.0
HOSTILE = "<img src=x onerror=document.title='taken'><script>alert(1).wav"
LONG = f"{'A-name-without-a-space-in-it' * 6} 和一個很長的名字.wav"
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running.start()


@pytest.fixture(scope="module")
def gateway(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(daemon, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media.write_sound(tmp_path_factory.mktemp("media") / "talk.wav", media.speech(SPOKEN_S))


def sent(daemon: Daemon, gateway: GatewayProcess, content: bytes, name: str) -> JobFacts:
    """Send a file under a name that a file system might not take; return its job when it has ended."""
    answer = httpx.post(
        f"{gateway.url}/api/jobs", params={"name": name}, content=content, timeout=WAIT_S
    ).json()

    def ended() -> JobFacts | None:
        job = daemon.client.status(answer["id"])
        return job if job.state == "done" or (job.state == "failed" and daemon.is_closed(job.id)) else None

    return eventually(ended, f"the job of {name} ended")


@pytest.fixture(scope="module")
def done(daemon: Daemon, gateway: GatewayProcess, talk: Path) -> JobFacts:
    """Return a job that is done, of a file with a name that would do harm."""
    return sent(daemon, gateway, talk.read_bytes(), HOSTILE)


@pytest.fixture(scope="module")
def failed(daemon: Daemon, gateway: GatewayProcess) -> JobFacts:
    """Return a job that has failed, of a file with a long name."""
    return sent(daemon, gateway, b"not media", LONG)


@pytest.fixture
def browse(gateway: GatewayProcess, tmp_path: Path) -> Any:
    """Give what opens a browser before the page."""

    def start(**how: Any) -> Browser:
        return Browser(gateway.url, tmp_path / "browser", **how)

    return start


# -- files -------------------------------------------------------------------------------------------------------


def test_a_file_that_is_dropped_becomes_subtitles_that_are_heard_and_taken_home(
    browse: Any, daemon: Daemon, tmp_path: Path, talk: Path
) -> None:
    file = tmp_path / "講座 one.wav"
    file.write_bytes(talk.read_bytes())
    with browse() as browser:
        browser.open()
        browser.script(WATCH, "#uploads-list .upload-status", "#uploads-list progress")
        browser.drop([file], "#health")
        browser.wait_for(".jobs .job", file.name)
        row = browser.wait_for("#jobs .job:has(.state.done)", file.name)
        told, bars = browser.script("return window.seen")
        assert any(re.match(r".+ of .+, .+/s", text) for text in told), told
        assert len(bars) > 1
        job = (row.attribute("id") or "").removeprefix("job-")
        browser.click(f"#job-{job} a", file.name)
        browser.wait_for("#list a.cue[tabindex='0']")
        cues = browser.find_all("#list a.cue")
        srt = daemon.client.fetch(job)[1].decode()
        assert len(cues) == srt.count("-->") > 1
        said = browser.script("return document.querySelectorAll('#list .text')[1].innerText")
        assert said.split() == srt.strip().split("\n\n")[1].split("\n", 2)[2].split()
        cues[1].click()
        browser.wait_for("#list a.cue[aria-current]", said.split()[0])
        browser.until(lambda: browser.script(HEARD), "it is heard from there on")
        browser.click("#downloads a", "VTT")
        assert browser.downloaded(".vtt").read_bytes() == daemon.client.fetch(job, "vtt")[1]


HEARD = """
const audio = document.getElementById('audio');
return audio.played.length > 0 && audio.played.start(0) > 1 && audio.currentTime > audio.played.start(0);
"""
WATCH = """
const [texts, bars] = arguments;
window.seen = [[], []];
const look = () => {
  for (const one of document.querySelectorAll(texts)) if (!seen[0].includes(one.textContent)) seen[0].push(one.textContent);
  for (const one of document.querySelectorAll(bars)) if (!seen[1].includes(one.value)) seen[1].push(one.value);
};
new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true, attributes: true});
"""
"""Keeps what is said of uploads, however short: texts of one selector, values of bars of another."""


def test_many_files_are_chosen_at_once(browse: Any, daemon: Daemon, tmp_path: Path, talk: Path) -> None:
    files = [tmp_path / f"chosen {number}.wav" for number in range(5)]
    for file in files:
        file.write_bytes(talk.read_bytes())
    with browse(size=PHONE) as browser:
        browser.open()
        chooser = browser.until(lambda: browser.find("#file[multiple]"), "several may be chosen")
        chooser.type("\n".join(map(str, files)))
        for file in files:
            browser.wait_for("#jobs .job:has(.state.done)", file.name)
    assert {file.name for file in files} <= {job.source.rpartition("/")[2] for job in daemon.jobs()}


def test_a_file_that_failed_shows_why_and_is_tried_again(browse: Any, daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "broken.mp3"
    file.write_bytes(b"not media")
    with browse() as browser:
        browser.open()
        browser.drop([file], "#health")
        row = browser.wait_for("#failures .job", file.name)
        assert "is not media that FFmpeg can read" in row.text
        job = (row.attribute("id") or "").removeprefix("failed-")
        eventually(lambda: daemon.is_closed(job), "its files are in place")
        browser.click(f"#failed-{job} button")
        eventually(
            lambda: any(step.event == "retry" for step in daemon.client.status(job).history),
            "it is tried again",
        )
        browser.wait_for(f"#failed-{job}", "is not media")
        assert browser.path == "/"
        browser.open(f"/jobs/{job}")
        browser.wait_for(".failed .cause", "is not media that FFmpeg can read")


def test_a_name_with_a_script_in_it_stays_text(browse: Any, done: JobFacts) -> None:
    with browse() as browser:
        for path in ("/", f"/jobs/{done.id}"):
            browser.open(path)
            browser.wait_for("h1, a.name", HOSTILE)
            assert "taken" not in str(browser.script("return document.title")).replace(HOSTILE, "")
            assert browser.script("return document.querySelectorAll('script:not([src]), img').length") == 0


def test_a_restart_of_the_daemon_heals_by_itself(tmp_path: Path, talk: Path) -> None:
    with (
        Daemon(tmp_path) as daemon,
        GatewayProcess(daemon.start(), tmp_path / "gateway") as gateway,
        Browser(gateway.url, tmp_path / "browser") as browser,
    ):
        browser.expect(r"Failed to load resource: .* 503")
        browser.open()
        browser.wait_for("#health.ok")
        browser.script("window.isTheSame = true")
        daemon.stop()
        browser.wait_for("#away", "does not respond")
        daemon.start()
        browser.wait_until_gone("#away", "does not respond")
        browser.drop([talk], "#health")
        browser.wait_for("#jobs .job:has(.state.done)", talk.name)
        assert browser.script("return window.isTheSame")


def test_a_page_that_was_opened_while_the_daemon_was_away_comes_by_itself(tmp_path: Path) -> None:
    with (
        Daemon(tmp_path) as daemon,
        GatewayProcess(daemon, tmp_path / "gateway") as gateway,
        Browser(gateway.url, tmp_path / "browser") as browser,
    ):
        browser.expect(r"Failed to load resource: .* 503")
        browser.open()
        browser.wait_for("h1", "does not respond")
        daemon.start()
        browser.wait_for("#health.ok")


# -- readers -----------------------------------------------------------------------------------------------------


def test_everything_is_reached_by_the_keyboard_and_seen_to_be(
    browse: Any, done: JobFacts, failed: JobFacts
) -> None:
    """Each control once a round, in the order of the page, with a mark on it that is not there otherwise."""
    with browse() as browser:
        for path in ("/", f"/jobs/{done.id}", f"/jobs/{failed.id}"):
            browser.open(path)
            browser.wait_for("h1")
            if path != "/":
                # The list takes its place when its cues have come.
                browser.until(
                    lambda: browser.find("#list a.cue[tabindex='0']") or browser.find(".failed"),
                    "the page is whole",
                )
            wanted = focusable(browser)
            plain = {name: appearance(browser, name) for name in wanted}
            met = []
            for _ in range(len(wanted)):
                browser.press(Key.TAB)
                name = browser.script("return document.activeElement.dataset.access")
                assert name in wanted, f"{path}: {browser.script('return document.activeElement.outerHTML')}"
                assert appearance(browser, name) != plain[name], f"{path}: nothing marks {wanted[name]}"
                met.append(name)
            assert met == list(wanted), f"{path}: {[wanted[name] for name in met]}"


def test_a_player_is_worked_by_the_keyboard_alone(browse: Any, done: JobFacts) -> None:
    with browse() as browser:
        browser.open(f"/jobs/{done.id}")
        browser.wait_for("#list a.cue[tabindex='0']")
        browser.press("j")
        browser.wait_for("#list li:first-child a.cue[aria-current]")
        browser.press("j")
        browser.wait_for("#list li:nth-child(2) a.cue[aria-current]")
        browser.press("/")
        assert browser.focused().attribute("id") == "search"
        browser.press("q", "q", "q")
        browser.wait_until_gone("#list a.cue")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_screen_readers_and_weak_eyes_are_thought_of(
    browse: Any, done: JobFacts, failed: JobFacts, scheme: str
) -> None:
    """Names, roles, headings, and contrast as WCAG 2.2 AA has it."""
    with browse(scheme=scheme) as browser:
        for path in ("/", f"/jobs/{done.id}", f"/jobs/{failed.id}", "/jobs/none"):
            browser.expect("none - Failed to load resource: .* 404")
            browser.open(path)
            browser.wait_for("h1")
            if path == f"/jobs/{done.id}":
                browser.wait_for("#list a.cue[tabindex='0']")
            browser.script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
            assert faults(browser) == [], path


def test_the_page_speaks_chinese_to_who_reads_it(browse: Any, done: JobFacts) -> None:
    with browse(language="zh-TW") as browser:
        browser.open()
        assert browser.script("return document.documentElement.lang") == "zh-Hant"
        browser.wait_for("h2", "檔案")
        browser.open(f"/jobs/{done.id}")
        browser.wait_for("h2", "下載")
        browser.click("nav.languages a", "English")
        browser.wait_for("h2", "Download")
        browser.open()
        browser.wait_for("h2", "Files")


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_a_phone_has_nothing_to_scroll_sideways(
    browse: Any, done: JobFacts, failed: JobFacts, language: str
) -> None:
    with browse(size=PHONE, language=language) as browser:
        for path in ("/", f"/jobs/{done.id}", f"/jobs/{failed.id}", "/jobs/none"):
            browser.expect("none - Failed to load resource: .* 404")
            browser.open(path)
            browser.wait_for("h1")
            if path == f"/jobs/{done.id}":
                browser.wait_for("#list a.cue")
            browser.script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
            width, shown = browser.script("return [document.documentElement.scrollWidth, innerWidth]")
            assert (width, shown) == (PHONE.width, PHONE.width), path


def test_without_scripts_the_page_is_read_and_a_file_is_sent(
    browse: Any, daemon: Daemon, done: JobFacts, tmp_path: Path, talk: Path
) -> None:
    file = tmp_path / "plain.wav"
    file.write_bytes(talk.read_bytes())
    with browse() as browser:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
        browser.open()
        browser.wait_for(f"#job-{done.id} a.name", HOSTILE)
        browser.wait_for("#file").type(str(file))
        browser.click("#upload-form button", "Upload")
        browser.wait_for("h1", file.name)
        job = browser.path.rpartition("/")[2]
        eventually(lambda: daemon.client.status(job).state == "done", "its job is done")
        browser.open(browser.path)
        srt = daemon.client.fetch(job)[1].decode()
        browser.wait_for("#list .cue", srt.split("\n")[2])


def test_a_first_view_is_small(browse: Any, done: JobFacts) -> None:
    """Under 100 kB with all that it needs, which the browser has counted."""
    with browse() as browser:
        for path in ("/", f"/jobs/{done.id}"):
            browser.open(path)
            browser.wait_for("h1")
            taken = browser.script(
                "return [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
                ".filter((one) => !one.name.includes('/api/') && !one.name.includes('/fragments/'))"
                ".map((one) => [one.name, one.encodedBodySize])"
            )
            assert sum(size for _, size in taken) < 100_000, taken
