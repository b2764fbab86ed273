"""The player of a job in a real browser: display, pointer and keyboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

import media
from browser import Browser
from daemon import Daemon, InboxFolder, eventually
from gateway_process import GatewayProcess
from subtitle import JobOptions
from subtitled.config import schema
from webdriver import PHONE, Key, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from subtitle.messages import JobFacts

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

WAIT_S = 120.0
SOON_S = 1.5
"""Tolerance of a seek."""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    inbox = InboxFolder(options={"word_timestamps": True})
    models = (schema.NamedModelConfig(name="translation", source="demo-translation"),)
    with Daemon(tmp_path_factory.mktemp("daemon"), inboxes=(inbox,), models=models) as running:
        yield running.start()


@pytest.fixture(scope="module")
def gateway(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(daemon, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def talk(daemon: Daemon) -> JobFacts:
    """Return a finished job of more than a minute whose media is available; part of its speech is unclear."""
    pcm = np.concatenate([media.recording(), media.damaged("slow"), media.speech(15)])
    path = media.write_sound(daemon.folder / "talk.flac", pcm[: 73 * media.RATE])
    job = daemon.wait_for(daemon.drop(path, "<script>alert(1)<b>.flac"))
    assert job.state == "done"
    return job


@pytest.fixture(scope="module")
def shared(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(gateway.url, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def browser(shared: Browser, talk: JobFacts) -> Browser:
    """Return a browser with the player loaded and paused."""
    shared.open(f"/jobs/{talk.id}")
    return ready(shared)


def ready(browser: Browser) -> Browser:
    browser.wait_for("#list a.cue[tabindex='0']")  # rendered by the script, not by the server
    browser.wait_for("#controls")
    return browser


def at_s(browser: Browser) -> float:
    """Return the displayed position in seconds."""
    minutes, seconds = str(browser.script("return document.getElementById('position').textContent")).split(
        ":"
    )
    return int(minutes) * 60 + int(seconds)


def current(browser: Browser) -> int:
    """Return the index of the current cue, -1 for none."""
    return int(
        browser.script(
            "return [...document.querySelectorAll('#list a')].findIndex((cue) => cue.ariaCurrent === 'true')"
        )
    )


def cues(browser: Browser) -> list[str]:
    return list(
        browser.script("return [...document.querySelectorAll('#list .text')].map((cue) => cue.textContent)")
    )


def is_playing(browser: Browser) -> bool:
    return bool(browser.script("return !document.getElementById('audio').paused"))


def point(browser: Browser, css: str, fraction: float) -> None:
    """Click an element at a fraction of its width."""
    x, y = browser.wait_for(css).middle
    width = browser.script("return document.querySelector(arguments[0]).clientWidth", css)
    for kind in ("mousePressed", "mouseReleased"):
        place = {"x": x + (fraction - 0.5) * width, "y": y}
        browser.devtools("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)


# -- the audio -----------------------------------------------------------------------------------------------------


def test_cues_follow_playback(browser: Browser) -> None:
    browser.click("#play")
    browser.until(lambda: current(browser) >= 1, "a later cue is the current one")
    browser.click("#play")
    browser.until(lambda: not is_playing(browser), "playback is paused")
    at, begins, shown = browser.script(
        "return [document.getElementById('audio').currentTime,"
        " [...document.querySelectorAll('#list a')].map((cue) => Number(cue.hash.slice(3))),"
        " document.getElementById('screen').textContent]"
    )
    begun = max(index for index, second in enumerate(begins) if second <= at)
    assert current(browser) in {begun, -1}, "-1 between two cues"
    assert shown == (cues(browser)[begun] if current(browser) == begun else "")


def test_clicking_a_cue_plays_it(browser: Browser) -> None:
    browser.click("#list li:nth-child(6) a")
    browser.until(lambda: is_playing(browser) and current(browser) == 5, "the cue is current")
    begins = browser.script("return Number(document.querySelectorAll('#list a')[5].hash.slice(3))")
    heard = "return document.getElementById('audio').currentTime"
    browser.until(lambda: browser.script(heard) > begins, "playback is inside the cue")
    browser.press(Key.SPACE)
    browser.until(lambda: not is_playing(browser), "Space pauses while a cue has the focus")


def test_clicking_the_waveform_seeks(browser: Browser) -> None:
    point(browser, "#waveform-full", 0.5)
    browser.until(lambda: abs(at_s(browser) - 36) <= SOON_S, "the position is in the middle")
    before = current(browser)
    point(browser, "#waveform", 0.9)
    browser.until(lambda: at_s(browser) > 44, "the position is at the end of the window")
    assert current(browser) != before or before == -1
    assert not is_playing(browser)


def test_a_link_with_a_time_opens_at_that_time(browser: Browser, talk: JobFacts) -> None:
    browser.open("/")
    browser.open(f"/jobs/{talk.id}#t=42.5")
    ready(browser)
    browser.until(lambda: at_s(browser) == 42, "the position is 42 s")
    # As a click on a link of the page does.
    browser.script("location.hash = '#t=7.5'")
    browser.until(lambda: at_s(browser) == 7, "the position is 7 s")


def test_the_list_follows_playback_until_the_user_scrolls(browser: Browser) -> None:
    def is_seen() -> bool:
        return bool(
            browser.script(
                "const [one, all] = ['#list [aria-current]', '#scroll'].map((css) => document.querySelector(css)?.getBoundingClientRect());"
                "return !!one && one.top >= all.top && one.bottom <= all.bottom"
            )
        )

    browser.script("document.querySelector('#list li:nth-child(20) a').click()")
    browser.until(is_seen, "the cue is in view")
    browser.script("document.querySelector('audio').pause()")
    browser.script(
        "document.querySelector('#list li:nth-child(20) a').click()"
    )  # again, because playback may have moved on
    browser.script("document.querySelector('audio').pause()")
    browser.until(is_seen, "the cue stays current and in view")
    browser.script(
        "document.getElementById('scroll').dispatchEvent(new WheelEvent('wheel')); document.getElementById('scroll').scrollTop = 0"
    )
    browser.wait_for("#follow")
    assert not is_seen()
    browser.click("#follow")
    browser.until(is_seen, "the cue is in view again")
    browser.wait_until_gone("#follow")


# -- keys ------------------------------------------------------------------------------------------------------------


def test_keyboard_shortcuts_control_the_player(browser: Browser) -> None:
    browser.press("j", "j")
    browser.until(lambda: current(browser) == 1, "the second cue is current")
    browser.press("k")
    browser.until(lambda: current(browser) == 0, "the first cue is current")
    browser.press(Key.RIGHT, Key.RIGHT, Key.LEFT)
    browser.until(lambda: at_s(browser) == 5, "the position is 5 s")
    browser.press(Key.SPACE)
    browser.until(lambda: is_playing(browser), "the audio plays")
    browser.press(Key.SPACE)
    browser.until(lambda: not is_playing(browser), "the audio is paused")
    browser.press("?")
    browser.wait_for("#keys dl")
    browser.press("/")
    assert browser.focused().name == "Search"


def test_keyboard_shortcuts_are_inactive_while_typing(browser: Browser) -> None:
    browser.press("/", "j", " ", Key.LEFT, "u")
    assert browser.script("return document.getElementById('search').value") == "ju "
    assert (at_s(browser), is_playing(browser)) == (0, False)
    browser.script(
        "document.getElementById('search').blur(); document.getElementById('keys-enabled').click()"
    )
    browser.press("j")
    assert at_s(browser) == 0
    browser.script("document.getElementById('keys-enabled').click()")
    browser.press("j")
    assert current(browser) == 0


def test_the_cue_list_is_one_tab_stop_with_arrow_keys(browser: Browser) -> None:
    assert browser.script("return document.querySelectorAll('#list [tabindex=\"0\"]').length") == 1
    browser.script("document.querySelector('#list [tabindex=\"0\"]').focus()")
    browser.press(Key.DOWN, Key.DOWN, Key.DOWN, Key.UP)
    assert (
        browser.script("return [...document.querySelectorAll('#list a')].indexOf(document.activeElement)")
        == 2
    )
    browser.press(Key.ENTER)
    browser.until(lambda: is_playing(browser) and current(browser) == 2, "the third cue plays")


def test_controls_have_accessible_names_and_values(browser: Browser) -> None:
    named = {
        css: browser.wait_for(css)
        for css in ("#play", "#back", "#forward", "#rate", "#waveform", "#search", "#next-uncertain")
    }
    assert {css: element.name for css, element in named.items()} == {
        "#play": "Play",
        "#back": "Back 5 seconds",
        "#forward": "Forward 5 seconds",
        "#rate": "Speed",
        "#waveform": "Position",
        "#search": "Search",
        "#next-uncertain": "Next uncertain",
    }
    slider = named["#waveform"]
    assert slider.role == "slider"
    slider.click()
    assert browser.focused() == slider
    browser.press("\ue010")  # End
    browser.until(
        lambda: slider.attribute("aria-valuetext") == "1:13 of 1:13", "the slider has the end position"
    )
    browser.press("\ue011")  # Home
    browser.until(lambda: slider.attribute("aria-valuenow") == "0", "the slider has the start position")


# -- cues ------------------------------------------------------------------------------------------------------------


def test_uncertain_words_are_marked_and_can_be_visited(browser: Browser) -> None:
    def marks() -> list[Any]:
        return list(
            browser.script(
                "return [...document.querySelectorAll('#list mark')].map((word) => [word.textContent, word.title])"
            )
        )

    few = len(marks())
    browser.script(
        "const slider = document.getElementById('threshold'); slider.value = 95; slider.dispatchEvent(new Event('input'))"
    )
    many = marks()
    assert len(many) > few
    assert all(
        word and int(title.removeprefix("confidence ").removesuffix("%")) <= 95 for word, title in many
    )
    assert browser.wait_for("#uncertain").text.endswith("uncertain")
    browser.press("u")
    first = browser.until(lambda: at_s(browser) or None, "the first uncertain word")
    browser.click("#next-uncertain")
    browser.until(lambda: at_s(browser) >= first, "the next uncertain word")
    browser.script(
        "const slider = document.getElementById('threshold'); slider.value = 0; slider.dispatchEvent(new Event('input'))"
    )
    assert marks() == []
    assert browser.wait_for("#uncertain").text.endswith("none uncertain")


def test_cues_can_be_searched(browser: Browser) -> None:
    browser.wait_for("#search").type("WEATH")
    browser.wait_for("#count", "2 found")
    shown = [one.text for one in browser.find_all("#list li:not([hidden]) .text")]
    assert len(shown) == 2
    assert all("weather" in text for text in shown)


def test_names_and_cue_texts_are_escaped(browser: Browser) -> None:
    assert browser.wait_for("h1").text == "<script>alert(1)<b>.flac"
    text = "<img src=x onerror=alert(1)>"
    rendered = browser.script(
        "const place = document.createElement('p');"
        "const words = [{line: 0, text: arguments[0], probability: 0.1}];"
        "return import('/static/cue_list.js').then(({renderCue}) => {"
        " renderCue(place, {lines: [arguments[0]], words, confidence: 1}, () => false); const plain = place.textContent;"
        " renderCue(place, {lines: [arguments[0]], words, confidence: 1}, () => true);"
        " return [plain, place.textContent, place.querySelectorAll('img').length]; })",
        text,
    )
    assert rendered == [text, text, 0]


# -- layout and downloads ----------------------------------------------------------------------------------------------


def test_layout_limits_apply_immediately_and_to_downloads(browser: Browser, talk: JobFacts) -> None:
    before = cues(browser)
    browser.script("document.body.dataset.isSame = 'yes'")
    browser.wait_for("[name=max_chars]").type("20")
    browser.wait_for("[name=max_lines]").type("1")
    browser.until(lambda: len(cues(browser)) > len(before), "there are more cues")
    browser.until(lambda: all(len(text) <= 20 for text in cues(browser)), "the cues are narrow")
    assert browser.script("return document.body.dataset.isSame") == "yes", "the page was not reloaded"
    browser.wait_for("#result", f"originally {len(before)}")
    assert browser.path == f"/jobs/{talk.id}?max_chars=20&max_lines=1"
    narrow = cues(browser)
    browser.click("#downloads a", "SRT")
    file = browser.downloaded(".srt")
    assert [block.split("\n")[2:] for block in file.read_text("utf-8").strip().split("\n\n")] == [
        [text] for text in narrow
    ]
    assert file.name.endswith("alert(1)_b_.en.srt") or ".en.srt" in file.name
    browser.open(browser.path)
    ready(browser)
    browser.until(lambda: cues(browser) == narrow, "the address contains the limits")
    browser.click("#reset")
    browser.until(lambda: cues(browser) == before, "the original cues are shown")
    browser.wait_until_gone("#reset")


def test_all_cues_are_printed(browser: Browser) -> None:
    browser.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        browser.wait_until_gone("#media")
        height, shown = browser.script(
            "const list = document.getElementById('scroll'); return [list.scrollHeight, list.clientHeight]"
        )
        assert height == shown
        assert browser.find_all("#list a.cue")[-1].is_shown
    finally:
        browser.devtools("Emulation.setEmulatedMedia", media="")


def test_an_invalid_limit_is_reported(browser: Browser) -> None:
    before = cues(browser)
    browser.wait_for("[name=max_chars]").type("3")
    browser.wait_for("#result", "Maximum characters per line: Value must be")
    assert cues(browser) == before


# -- translations ------------------------------------------------------------------------------------------------------


def test_a_translation_is_shown_as_the_second_language_that_was_chosen_last(
    shared: Browser, daemon: Daemon, tmp_path: Path
) -> None:
    path = media.write_sound(tmp_path / "translated.flac", media.speech(8))
    job = daemon.client.submit(path, options=JobOptions(translate_to=("zh-CN",))).id
    eventually(lambda: daemon.client.status(job).state == "done", "the file is translated")

    def shown() -> str:
        return str(shared.script("return document.getElementById('screen-second').textContent"))

    shared.open(f"/jobs/{job}")
    ready(shared)
    shared.press("j")  # to the first cue
    shared.script(CHOOSE, "1")
    shared.until(lambda: CHINESE.search(shown()), "the translation of the cue is shown")
    assert not CHINESE.search(shared.wait_for("#screen").text)
    shared.script(CHOOSE, "")
    shared.until(lambda: not shown(), "no second language is shown")
    shared.script(DELAY_TRANSLATION)
    shared.script(CHOOSE, "1")
    shared.until(lambda: shared.script("return Boolean(window.respond)"), "the translation is requested")
    shared.script(CHOOSE, "0")
    shared.until(lambda: shown() == cues(shared)[0], "the transcript is shown twice")
    shared.script("window.respond()")
    shared.until(lambda: shared.script("return window.isRead"), "the late response is read")
    assert shown() == cues(shared)[0]


CHINESE = re.compile("[\u4e00-\u9fff]")
CHOOSE = """
const field = document.getElementById("second");
field.value = arguments[0];
field.dispatchEvent(new Event("change"));
"""
DELAY_TRANSLATION = """
const request = window.fetch;
window.fetch = async (address, options) => {
  if (!address.includes("language=")) return request(address, options);
  const body = await (await request(address)).json();
  await new Promise((resolve) => (window.respond = resolve));
  return { ok: true, json: async () => { setTimeout(() => (window.isRead = true)); return body; } };
};
"""
"""Keeps the response to a request for a translation until `window.respond` is called."""


# -- from its beginning to its end ---------------------------------------------------------------------------------------


def test_the_player_appears_when_the_job_is_done(shared: Browser, daemon: Daemon, tmp_path: Path) -> None:
    daemon.client.operate(is_paused=True)
    try:
        job = daemon.client.submit(media.write_sound(tmp_path / "late.flac", media.speech(8))).id
        shared.open(f"/jobs/{job}")
        shared.wait_for("#live")
    finally:
        daemon.client.operate(is_paused=False)
    shared.wait_for("#downloads a")
    ready(shared)
    assert daemon.client.status(job).state == "done"


def test_the_page_is_reloaded_if_its_job_is_deleted_when_it_ends(
    shared: Browser, daemon: Daemon, tmp_path: Path
) -> None:
    daemon.client.operate(is_paused=True)
    try:
        job = daemon.client.submit(media.write_sound(tmp_path / "deleted.flac", media.speech(3)))
        shared.open(f"/jobs/{job.id}")
        shared.wait_for("#live")
        shared.script(PAGE_NOT_FOUND)
        job.cancel()
        shared.until(lambda: not shared.script("return Boolean(window.isOld)"), "the page is reloaded")
    finally:
        daemon.client.operate(is_paused=False)


PAGE_NOT_FOUND = """
const request = window.fetch;
window.isOld = true;
window.fetch = (address, options) => (address === location.href ? Promise.resolve(new Response("", { status: 404 })) : request(address, options));
"""


BLOCK_STORAGE = """
Object.defineProperty(window, "localStorage", { get() { throw new DOMException("blocked", "SecurityError"); } });
"""


def test_cues_of_missing_media_remain_readable(shared: Browser, daemon: Daemon, tmp_path: Path) -> None:
    """The number of cues depends on the CPU's rounding: the last one is selected."""
    path = daemon.drop(media.write_sound(tmp_path / "gone.flac", media.speech(8)), "gone.flac")
    job = daemon.wait_for(path)
    eventually(lambda: daemon.is_closed(job.id), "the file is in done/")
    for place in daemon.inbox.rglob("gone.flac"):
        place.unlink()
    shared.expect(r"/audio - Failed to load resource: .* 404")
    shared.open(f"/jobs/{job.id}")
    ready(shared)
    shared.wait_for("#note", "no longer on the server")
    assert shared.script("return document.getElementById('play').disabled")
    last = len(cues(shared)) - 1
    shared.click("#list li:last-child a")
    shared.until(lambda: current(shared) == last, "the selected cue is the current one")
    assert shared.wait_for("#screen").text


def test_the_player_and_the_editor_work_where_storage_is_blocked(shared: Browser, talk: JobFacts) -> None:
    blocked = shared.devtools("Page.addScriptToEvaluateOnNewDocument", source=BLOCK_STORAGE)
    try:
        shared.open(f"/jobs/{talk.id}")
        ready(shared)
        shared.click("#edit")
        shared.wait_for("#edit-text")
        shared.click("[data-command=done]")
        shared.wait_for("#list a.cue[tabindex='0']")
        shared.open("/")
        shared.wait_for("#jobs")
    finally:
        shared.devtools("Page.removeScriptToEvaluateOnNewDocument", **blocked)
    shared.check()


@pytest.mark.parametrize("language", ["en", "zh-Hant"])
def test_the_player_fits_a_phone(shared: Browser, talk: JobFacts, language: str) -> None:
    shared.resize(PHONE)
    try:
        shared.open(f"/jobs/{talk.id}?lang={language}")
        ready(shared)
        assert shared.script("return document.documentElement.scrollWidth") <= PHONE.width
        small = shared.script(
            "return [...document.querySelectorAll('main button, main .button, main select, main input, main summary, main a.cue')]"
            ".filter((one) => one.checkVisibility() && one.type !== 'checkbox' && one.getBoundingClientRect().height < 43.5)"
            ".map((one) => one.outerHTML)"
        )
        assert small == []
        shared.resize(replace(PHONE, width=320))
        assert shared.script("return document.documentElement.scrollWidth") <= 320
    finally:
        shared.open("/?lang=en")
        shared.devtools("Emulation.setTouchEmulationEnabled", enabled=False)
        shared.devtools("Emulation.clearDeviceMetricsOverride")
