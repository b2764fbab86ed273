"""The picture with its subtitles in a real browser: original files, encoded segments, two languages, drawn waveform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import media
from accessibility import VIEWS, violations
from browser import Browser
from daemon import Daemon, InboxFolder
from gateway_process import GatewayProcess
from subtitle import JobOptions
from webdriver import PHONE, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ALT = "\ue00a"
WAIT_S = 120.0
FILM_S = 12


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    inbox = InboxFolder(options={"word_timestamps": True})
    with Daemon(tmp_path_factory.mktemp("daemon"), inboxes=(inbox,)) as running:
        yield running.start()


@pytest.fixture(scope="module")
def shared(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with (
        GatewayProcess(daemon, tmp_path_factory.mktemp("gateway")) as gateway,
        Browser(gateway.url, tmp_path_factory.mktemp("browser")) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def films(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the jobs of a film that browsers play, and of one that they do not, with two tasks."""
    folder = tmp_path_factory.mktemp("films")
    picture = media.Picture(seconds=FILM_S, width=320, height=180)
    jobs = {}
    for kind, pcm in (
        ("mp4", media.speech(FILM_S)),
        ("mkv", media.recording("demo-zh.flac")[: FILM_S * media.RATE]),
    ):
        options = (
            JobOptions(tasks=("transcribe", "translate"), word_timestamps=True) if kind == "mkv" else None
        )
        path = media.mux(folder / f"film.{kind}", media.Voice(pcm), picture=picture)
        jobs[kind] = daemon.client.submit(path, options=options)
    for job in jobs.values():
        job.wait(WAIT_S)
    return {kind: job.id for kind, job in jobs.items()}


@pytest.fixture
def browser(shared: Browser) -> Iterator[Browser]:
    with shared.reused() as running:
        yield running


def open_film(browser: Browser, job: str, query: str = "") -> None:
    browser.open(f"/jobs/{job}{query}")
    browser.wait_for("#list a.cue[tabindex='0']")
    browser.wait_for(".has-picture video")


def shown_second(browser: Browser) -> int:
    """Return the second that the picture shows, by its brightness; -1 while it is not loaded."""
    luma = browser.script(
        "const video = document.getElementById('video'); if (video.readyState < 2 || video.seeking) return -1;"
        "const canvas = Object.assign(document.createElement('canvas'), {width: 32, height: 18});"
        "const context = canvas.getContext('2d'); context.drawImage(video, 0, 0, 32, 18);"
        "return context.getImageData(24, 13, 1, 1).data[1]"
    )
    if luma < 0:
        return -1
    # A browser stretches 16..235 to 0..255.
    return min(range(8), key=lambda second: abs((media.luma_at(second) - 16) * 255 / 219 - luma))


def wait_for_second(browser: Browser, second: int) -> None:
    browser.until(lambda: shown_second(browser) == second, f"the picture of second {second} is shown")


def begins(browser: Browser) -> list[float]:
    """Return the start of each cue in seconds."""
    return list(
        browser.script(
            "return [...document.querySelectorAll('#list a')].map((cue) => Number(cue.hash.slice(3)))"
        )
    )


@pytest.mark.parametrize(("kind", "source"), [("mp4", "/video/original"), ("mkv", "blob:")])
def test_the_picture_follows_the_position(
    browser: Browser, films: dict[str, str], kind: str, source: str
) -> None:
    open_film(browser, films[kind])
    wait_for_second(browser, 0)
    address = str(browser.script("return document.getElementById('video').currentSrc"))
    assert source in address
    for second in (9, 5):
        browser.script("location.hash = `#t=${arguments[0] + 0.5}`", second)
        wait_for_second(browser, second % 8)
    browser.click("#play")
    browser.until(
        lambda: browser.script(
            "const [audio, video] = ['audio', 'video'].map((id) => document.getElementById(id));"
            "return audio.currentTime > 6.5 && !video.paused && Math.abs(audio.currentTime - video.currentTime) < 0.4"
        ),
        "the picture plays with the audio",
    )
    browser.click("#play")


def test_subtitles_on_the_picture_have_the_style_of_the_ass_file(
    browser: Browser, films: dict[str, str]
) -> None:
    open_film(browser, films["mkv"])
    browser.script("location.hash = `#t=${arguments[0] + 0.1}`", begins(browser)[0])
    cue = browser.wait_for("#screen")
    assert cue.text
    style: dict[str, Any] = browser.script(
        "const [picture, text] = ['picture', 'screen'].map((id) => document.getElementById(id));"
        "const [frame, box, css] = [picture.getBoundingClientRect(), text.getBoundingClientRect(), getComputedStyle(text)];"
        "return {size: parseFloat(css.fontSize) / frame.height, line: parseFloat(css.lineHeight) / frame.height,"
        " outline: parseFloat(css.webkitTextStrokeWidth) / frame.height, below: (frame.bottom - box.bottom) / frame.height,"
        " ratio: frame.width / frame.height, aside: Math.abs((box.left + box.right - frame.left - frame.right) / 2)}"
    )
    # Of PlayResY 1080: font size 60 (ascent and descent together), outline 3 on both sides, margin 54.
    assert style["line"] == pytest.approx(60 / 1080, rel=0.02)
    assert style["outline"] == pytest.approx(6 / 1080, rel=0.1)
    assert style["below"] == pytest.approx(54 / 1080, abs=0.01)
    assert style["ratio"] == pytest.approx(16 / 9, rel=0.01)
    assert style["aside"] < 2


def test_an_edit_is_on_the_picture_while_it_is_typed(browser: Browser, films: dict[str, str]) -> None:
    open_film(browser, films["mp4"])
    browser.click("#edit")
    browser.wait_for("#edit-text")
    browser.script("document.querySelector('#edit-list .edit-row').click()")
    browser.wait_for("#screen")
    browser.script(
        "const field = document.getElementById('edit-text'); field.value = 'One line\\nand another';"
        "field.dispatchEvent(new InputEvent('input', {bubbles: true}))"
    )
    lines = "return [...document.querySelectorAll('#screen .line')].map((line) => line.textContent)"
    browser.until(
        lambda: browser.script(lines) == ["One line", "and another"], "both lines are on the picture"
    )
    assert "8 + 11 characters" in browser.wait_for("#edit-length").text
    # Drag the whole cue in the waveform: its length stays.
    times = "return ['edit-start', 'edit-end'].map((id) => document.getElementById(id).value)"
    before = browser.script(times)
    x, y, moved = browser.script(
        "const box = document.getElementById('waveform').getBoundingClientRect();"
        "const seconds = ['edit-start', 'edit-end'].map((id) => Number(document.getElementById(id).value.split(':')[1]));"
        "const scale = box.width / arguments[0];"
        "return [box.left + (seconds[0] + seconds[1]) / 2 * scale, box.top + 20, 0.3 * scale]",
        FILM_S,
    )
    for kind, at in (
        ("mousePressed", x),
        ("mouseMoved", x + moved / 2),
        ("mouseMoved", x + moved),
        ("mouseReleased", x + moved),
    ):
        browser.devtools(
            "Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=1, clickCount=1
        )

    def start_s() -> float:
        return float(browser.script(times)[0].split(":")[1])

    begun = float(before[0].split(":")[1])
    browser.until(lambda: abs(start_s() - begun - 0.3) < 0.05, "the cue has moved")
    lengths = [[float(text.split(":")[1]) for text in pair] for pair in (before, browser.script(times))]
    assert lengths[1][1] - lengths[1][0] == pytest.approx(lengths[0][1] - lengths[0][0], abs=0.002)
    browser.press_with(ALT, ".")
    browser.until(lambda: start_s() > lengths[1][0] + 0.09, "a key moves it")
    browser.wait_for("#edit-state[data-state=saved]")


def test_two_languages_are_shown_at_once_and_each_can_be_edited(
    browser: Browser, daemon: Daemon, films: dict[str, str]
) -> None:
    open_film(browser, films["mkv"])
    browser.script(
        "const second = document.getElementById('second'); second.value = '1'; second.dispatchEvent(new Event('change'))"
    )
    browser.wait_for("#list .second")
    browser.script("location.hash = `#t=${arguments[0] + 0.1}`", begins(browser)[0])
    above, below = browser.wait_for("#screen-second"), browser.wait_for("#screen")
    assert above.middle[1] < below.middle[1]
    # The translation is edited apart from the transcript.
    browser.script(
        "const track = document.getElementById('track'); track.value = '1'; track.dispatchEvent(new Event('change'))"
    )
    browser.click("#edit")
    browser.wait_for("#edit-text")
    assert browser.wait_for("#edit-second").text, "the second language is beside the text"
    browser.press_with(ALT, "l")
    assert browser.wait_for("#loop").attribute("aria-pressed") == "true"
    browser.script(
        "const field = document.getElementById('edit-text'); field.value = 'Translated by hand';"
        "field.dispatchEvent(new InputEvent('input', {bubbles: true}))"
    )
    browser.wait_for("#edit-state[data-state=saved]", "1")
    job = films["mkv"]
    assert "Translated by hand" in daemon.client.fetch(job, "txt", task="translate")[1].decode()
    assert "Translated by hand" not in daemon.client.fetch(job, "txt", task="transcribe")[1].decode()


def test_a_cue_is_repeated_until_that_is_switched_off(browser: Browser, films: dict[str, str]) -> None:
    open_film(browser, films["mp4"])
    begin, following = begins(browser)[:2]
    browser.script(
        "location.hash = `#t=${arguments[0]}`; document.getElementById('rate').value = '2';"
        "document.getElementById('rate').dispatchEvent(new Event('change'))",
        begin + 0.05,
    )
    browser.press("l")
    assert browser.wait_for("#loop").attribute("aria-pressed") == "true"
    browser.script(
        "window.returns = 0; let last = 0; const audio = document.getElementById('audio');"
        "audio.addEventListener('seeked', () => (window.returns += audio.currentTime < arguments[0]));",
        begin + 0.2,
    )
    browser.click("#play")
    browser.until(lambda: browser.script("return window.returns") >= 2, "it was repeated twice")
    browser.press("l")
    browser.until(
        lambda: browser.script("return document.getElementById('audio').currentTime") > following,
        "playback continues",
    )
    browser.click("#play")


@pytest.mark.parametrize("language", ["en", "zh-Hant"])
def test_the_picture_fits_a_phone_and_is_accessible(
    browser: Browser, films: dict[str, str], language: str
) -> None:
    open_film(browser, films["mkv"], f"?lang={language}")
    assert violations(browser, VIEWS[language]) == []
    browser.resize(PHONE)
    try:
        open_film(browser, films["mkv"], f"?lang={language}")
        wait_for_second(browser, 0)
        wide = browser.script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]
    finally:
        browser.open("/?lang=en")
        browser.devtools("Emulation.setTouchEmulationEnabled", enabled=False)
        browser.devtools("Emulation.clearDeviceMetricsOverride")
