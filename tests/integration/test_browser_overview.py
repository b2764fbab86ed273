"""The overview page in a real browser, with a real gateway and daemon."""

from __future__ import annotations

import re
import zipfile
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

import media
from accessibility import VIEWS, appearance, focusable, violations
from browser import Browser
from daemon import Daemon, eventually
from gateway_process import GatewayProcess
from subtitle import JobFacts
from webdriver import PHONE, Key, Size, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

SPOKEN_S = 8
WAIT_S = 120.0
HOSTILE = "<img src=x onerror=document.title='taken'><script>alert(1).wav"
LONG = f"{'A-name-without-a-space-in-it' * 6} 和一個很長的名字.wav"


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


def uploaded(gateway: GatewayProcess, content: bytes, name: str) -> str:
    """Upload a file under any name and return its job."""
    answer = httpx.post(f"{gateway.url}/api/jobs", params={"name": name}, content=content, timeout=WAIT_S)
    return str(answer.json()["id"])


def sent(daemon: Daemon, gateway: GatewayProcess, content: bytes, name: str) -> JobFacts:
    """Upload a file under any name; return its job when it has ended."""
    upload = uploaded(gateway, content, name)

    def ended() -> JobFacts | None:
        job = daemon.client.status(upload)
        return job if job.state == "done" or (job.state == "failed" and daemon.is_closed(job.id)) else None

    return eventually(ended, f"the job of {name} ended")


@pytest.fixture(scope="module")
def done(daemon: Daemon, gateway: GatewayProcess, talk: Path) -> JobFacts:
    """Return a finished job whose file name contains a script."""
    return sent(daemon, gateway, talk.read_bytes(), HOSTILE)


@pytest.fixture(scope="module")
def failed(daemon: Daemon, gateway: GatewayProcess) -> JobFacts:
    """Return a failed job whose file name is long."""
    return sent(daemon, gateway, b"not media", LONG)


@pytest.fixture(scope="module")
def shared(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(gateway.url, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def chinese(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(gateway.url, tmp_path_factory.mktemp("browser"), language="zh-TW") as running:
        yield running


@pytest.fixture
def browse(shared: Browser, request: pytest.FixtureRequest) -> Any:
    """Return a function that opens a browser of a language, and shares it with other tests."""

    def start(url: str = "", language: str = "en", **how: Any) -> AbstractContextManager[Browser]:
        browser = shared if language == "en" else request.getfixturevalue("chinese")
        return browser.reused(url, **how)

    return start


# -- files -------------------------------------------------------------------------------------------------------


def test_a_dropped_file_is_transcribed_played_and_downloaded(
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
        statuses, bars = browser.script("return window.seen")
        assert any(re.match(r".+ of .+, .+/s", text) for text in statuses), statuses
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
        browser.until(lambda: browser.script(HEARD), "playback starts at the cue")
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
"""Records every text of one selector and every value of the bars of another, however short they are shown."""


def test_several_files_can_be_chosen_at_once(browse: Any, daemon: Daemon, tmp_path: Path, talk: Path) -> None:
    files = [tmp_path / f"chosen {number}.wav" for number in range(5)]
    for file in files:
        file.write_bytes(talk.read_bytes())
    with browse(size=PHONE) as browser:
        browser.open()
        chooser = browser.until(lambda: browser.find("#file[multiple]"), "the chooser accepts several files")
        chooser.type("\n".join(map(str, files)))
        for file in files:
            browser.wait_for("#jobs .job:has(.state.done)", file.name)
    assert {file.name for file in files} <= {job.source.rpartition("/")[2] for job in daemon.jobs()}


def test_a_failed_file_shows_its_reason_and_can_be_retried_and_dismissed(
    browse: Any, daemon: Daemon, tmp_path: Path
) -> None:
    file = tmp_path / "broken.mp3"
    file.write_bytes(b"not media")
    with browse() as browser:
        browser.open()
        browser.drop([file], "#health")
        row = browser.wait_for("#failures .job", file.name)
        assert "is not media that FFmpeg can read" in row.text
        heights = (
            "return [...document.querySelectorAll('#failures .job button')].map((one) => one.offsetHeight)"
        )
        assert max(browser.script(heights)) < 40, "no word is broken"
        job = (row.attribute("id") or "").removeprefix("failed-")
        eventually(lambda: daemon.is_closed(job), "the failed job is closed")
        browser.click(f"#failed-{job} form[action$=retry] button")
        eventually(
            lambda: any(step.event == "retry" for step in daemon.client.status(job).history),
            "the job is retried",
        )
        browser.wait_for(f"#failed-{job}", "is not media")
        assert browser.path == "/"
        browser.open(f"/jobs/{job}")
        browser.wait_for(".failed .cause", "is not media that FFmpeg can read")
        browser.open()
        browser.wait_for(f"#failed-{job}", "is not media")
        browser.click("#failures form[action$=dismiss-failed] button")
        browser.wait_until_gone(f"#failed-{job}")
        assert daemon.client.status(job).is_dismissed


def test_several_files_are_selected_downloaded_and_deleted(
    browse: Any, daemon: Daemon, gateway: GatewayProcess, talk: Path
) -> None:
    names = [f"selected-{number}.wav" for number in range(4)]
    jobs = [sent(daemon, gateway, talk.read_bytes(), name) for name in names[:2]]
    assert [(job.state, job.cause) for job in jobs] == [("done", "")] * 2
    jobs += [sent(daemon, gateway, b"not media", name) for name in names[2:]]
    with browse() as browser:
        browser.open("/?name=selected-")
        box = "#job-{} input"
        browser.click(box.format(jobs[0].id))
        browser.wait_for("#bulk-status", "1 selected")
        browser.script(SHIFT_CLICK, box.format(jobs[3].id))
        browser.wait_for("#bulk-status", "4 selected")
        for job in jobs[2:]:
            browser.click(box.format(job.id))
        browser.wait_for("#bulk-status", "2 selected")
        browser.click("#bulk-download")
        with zipfile.ZipFile(browser.downloaded(".zip")) as archive:
            assert sorted(archive.namelist()) == ["selected-0.en.srt", "selected-1.en.srt"]
        browser.click("#select-matching")
        browser.wait_for("#bulk-status", "4 selected")
        browser.script("window.confirm = (text) => { window.asked = text; return true; }")
        browser.click("#bulk [value=delete]")
        browser.wait_for("#bulk-status", "4 of 4 done")
        browser.wait_until_gone("#jobs .job")
        asked = browser.script("return window.asked")
        assert "Delete the selected jobs (4)" in asked
        assert "All · selected-" in asked
    assert daemon.client.list(name="selected-") == ()


def test_selection_ends_when_another_filter_is_chosen(
    browse: Any, daemon: Daemon, gateway: GatewayProcess
) -> None:
    """All matching jobs of one filter are never replaced by those of another one."""
    jobs = [
        sent(daemon, gateway, f"not media {number}".encode(), f"kept-{number}.wav") for number in range(3)
    ]
    with browse() as browser:
        browser.open("/?name=kept-2&state=failed")
        browser.click("#select-matching")
        browser.wait_for("#bulk-status", "1 selected")
        browser.script(SET_FIELD, "#name", "kept-")
        browser.click("form.search button")
        browser.wait_for(f"#job-{jobs[0].id}")
        browser.script("window.confirm = () => true")
        browser.expect(r"/bulk - Failed to load resource: .* 400")
        # Without a selection there are no buttons: the message of the server is what is tested.
        browser.wait_until_gone("#bulk [value=delete]")
        browser.script("document.querySelector('#bulk [value=delete]').click()")
        browser.wait_for("#bulk-status", "no file is selected")
        checked = "return document.querySelectorAll('#jobs input:checked').length"
        assert browser.script(checked) == 0
        browser.click("#select-matching")
        browser.wait_for("#bulk-status", "3 selected")
        late = sent(daemon, gateway, b"not media at all", "kept-3.wav")
        browser.wait_for(f"#job-{late.id}")
        assert browser.script(checked) == 3, "a job that is added later is not selected"
        browser.click("#bulk [value=delete]")
        browser.wait_for("#bulk-status", "3 of 3 done")
    assert [job.id for job in daemon.client.list(name="kept-")] == [late.id]


def test_older_jobs_are_added_while_scrolling_and_stay_up_to_date(
    browse: Any, daemon: Daemon, gateway: GatewayProcess
) -> None:
    """Of the list without a filter, of a filter, and of another filter after it."""
    daemon.client.operate(is_paused=True)
    jobs: list[str] = []

    def add(number: int) -> None:
        with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http:
            for _ in range(number):
                name = f"many-{len(jobs)}.wav"
                answer = http.post("/api/jobs", params={"name": name}, content=name.encode())
                jobs.append(answer.json()["id"])

    try:
        add(90)
        with browse() as browser:

            def rows(css: str = "#jobs, #more-jobs") -> list[str]:
                found = browser.script(
                    "return [...document.querySelectorAll(`:is(${arguments[0]}) li`)].map((row) => row.id)",
                    css,
                )
                return [str(row).removeprefix("job-") for row in found]

            def scroll_to(expected: list[str]) -> None:
                def is_shown() -> bool:
                    browser.script("scrollTo(0, document.documentElement.scrollHeight)")
                    return [row for row in rows() if row in jobs] == expected

                browser.until(is_shown, "the older jobs are shown")

            browser.open("/")
            browser.wait_for("#running-jobs .job")
            running = rows("#running-jobs")
            # A row is moved only where its neighbours are those of the queue.
            handles = "return ['#running-jobs', '#jobs'].map((css) => document.querySelectorAll(`${css} [draggable], ${css} .move`).length)"
            assert browser.script(handles) == [12, 0]
            scroll_to([job for job in reversed(jobs) if job not in running])
            browser.open("/?name=many-")
            scroll_to(jobs[::-1])
            # Jobs in sight are updated, also those that were added.
            cancelled = jobs[:3]
            for job in cancelled:
                daemon.client.cancel(job)
                browser.wait_for(f"#more-jobs #job-{job} .state.off")
            # Jobs that newer ones push off the first page stay in the list, and selected.
            browser.script("scrollTo(0, 1)")
            browser.click(f"#job-{jobs[-40]} input")
            add(3)
            browser.script("document.getElementById('more-jobs').scrollIntoView()")
            browser.until(lambda: rows()[:80] == jobs[:-81:-1], "no job in sight is missing")
            scroll_to(jobs[::-1])
            browser.wait_for("#bulk-status", "1 selected")
            assert browser.script(f"return document.querySelector('#job-{jobs[-43]} input').checked")
            # The older jobs of a filter are not added to the list of another one.
            browser.script(
                "document.querySelector('.tabs a[href*=running]').click();"
                "scrollTo(0, document.documentElement.scrollHeight); dispatchEvent(new Event('scroll'))"
            )
            browser.wait_for(f"#jobs #job-{jobs[3]}")
            scroll_to(jobs[3:])
            browser.script("history.back()")
            browser.wait_for(f"#jobs #job-{jobs[-1]}")
            scroll_to(jobs[::-1])
    finally:
        for action in ("cancel", "delete"):
            httpx.post(f"{gateway.url}/bulk", data={"action": action, "job": jobs}, timeout=WAIT_S)
        daemon.client.operate(is_paused=False)


SHIFT_CLICK = """
document.querySelector(arguments[0]).dispatchEvent(new MouseEvent('click', {shiftKey: true, bubbles: true, cancelable: true}));
"""


def test_the_queue_is_reordered_by_keyboard_and_by_dragging_and_upload_options_are_remembered(
    browse: Any, daemon: Daemon, gateway: GatewayProcess
) -> None:
    daemon.client.operate(is_paused=True)
    try:
        with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http:
            names = [f"queued-{number}.wav" for number in range(3)]
            jobs = [
                http.post("/api/jobs", params={"name": name}, content=name.encode()).json()["id"]
                for name in names
            ]
        first, second, third = jobs

        def order() -> list[str]:
            return [job.id for job in daemon.client.list(("queued",), name="queued-", sort="queue")]

        with browse() as browser:
            browser.open("/?state=running&name=queued-")
            browser.wait_for(f"#job-{first}", "waiting (1st)")
            browser.script(f"document.querySelector('#job-{third} .move').focus()")
            browser.press(Key.UP)
            eventually(lambda: order() == [first, third, second], "the last file is moved up")
            browser.wait_for(f"#job-{third}", "waiting (2nd)")
            browser.script(DRAG, f"#job-{first}", f"#job-{second}")
            eventually(lambda: order() == [third, second, first], "the first file is dragged to the end")
            browser.wait_for(f"#job-{first}", "waiting (3rd)")
            browser.script(OPEN_OPTIONS)
            browser.script(SET_FIELD, "#upload-form [name=language]", "ja")
            browser.script("window.prompt = () => 'Anime'")
            browser.click("#preset-save")
            browser.script(SET_FIELD, "#upload-form [name=language]", "en")
            browser.open("/")
            browser.until(
                lambda: browser.script(VALUE, "#upload-form [name=language]") == "en", "the last option"
            )
            browser.script(SET_FIELD, "#preset", "Anime")
            assert browser.script(VALUE, "#upload-form [name=language]") == "ja"
    finally:
        daemon.client.operate(is_paused=False)
    eventually(lambda: not daemon.client.list(("queued", "preparing")), "the queue is empty")


DRAG = """
const [row, target] = [...arguments].map((css) => document.querySelector(css));
const dataTransfer = new DataTransfer();
const { bottom } = target.getBoundingClientRect();
const fire = (one, type) => one.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer, clientY: bottom - 1 }));
fire(row, "dragstart");
fire(target, "dragover");
fire(target, "drop");
fire(row, "dragend");
"""
OPEN_OPTIONS = "document.querySelector('#upload details').open = true"
SET_FIELD = """
const field = document.querySelector(arguments[0]);
field.value = arguments[1];
field.dispatchEvent(new Event("change", { bubbles: true }));
"""
VALUE = "return document.querySelector(arguments[0]).value"


def test_a_file_name_with_a_script_is_shown_as_text(browse: Any, done: JobFacts) -> None:
    with browse() as browser:
        for path in ("/", f"/jobs/{done.id}"):
            browser.open(path)
            browser.wait_for("h1, a.name", HOSTILE)
            assert "taken" not in str(browser.script("return document.title")).replace(HOSTILE, "")
            assert browser.script("return document.querySelectorAll('script:not([src]), img').length") == 0


def test_an_open_page_recovers_after_a_restart_of_the_daemon(browse: Any, tmp_path: Path, talk: Path) -> None:
    with (
        Daemon(tmp_path) as daemon,
        GatewayProcess(daemon.start(), tmp_path / "gateway") as gateway,
        browse(gateway.url) as browser,
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


def test_an_error_page_reloads_when_the_daemon_is_back(browse: Any, tmp_path: Path) -> None:
    with (
        Daemon(tmp_path) as daemon,
        GatewayProcess(daemon, tmp_path / "gateway") as gateway,
        browse(gateway.url) as browser,
    ):
        browser.expect(r"Failed to load resource: .* 503")
        browser.open()
        browser.wait_for("h1", "does not respond")
        daemon.start()
        browser.wait_for("#health.ok")


# -- readers -----------------------------------------------------------------------------------------------------


def test_every_control_is_reachable_by_keyboard_with_visible_focus(
    browse: Any, done: JobFacts, failed: JobFacts
) -> None:
    """Tab reaches each control once, in the order of the page, with a visible focus."""
    with browse() as browser:
        for path in ("/", f"/jobs/{done.id}", f"/jobs/{failed.id}"):
            browser.open(path)
            browser.wait_for("h1")
            if path != "/":
                # The list appears with its cues.
                browser.until(
                    lambda: browser.find("#list a.cue[tabindex='0']") or browser.find(".failed"),
                    "the page is complete",
                )
            expected = focusable(browser)
            unfocused = {name: appearance(browser, name) for name in expected}
            reached = []
            for _ in range(len(expected)):
                browser.press(Key.TAB)
                name = browser.script(
                    "return String(window.focusableElements.indexOf(document.activeElement))"
                )
                assert name in expected, (
                    f"{path}: {browser.script('return document.activeElement.outerHTML')}"
                )
                assert appearance(browser, name) != unfocused[name], (
                    f"{path}: the focus is invisible on {expected[name]}"
                )
                reached.append(name)
            assert reached == list(expected), f"{path}: {[expected[name] for name in reached]}"


def test_the_player_works_with_the_keyboard_alone(browse: Any, done: JobFacts) -> None:
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


@pytest.mark.parametrize("language", VIEWS)
def test_axe_core_finds_nothing_on_any_page(
    browse: Any, daemon: Daemon, gateway: GatewayProcess, done: JobFacts, failed: JobFacts, language: str
) -> None:
    """Also of jobs that wait and that were cancelled; the editor, the picture and provisional text have tests of their own."""
    daemon.client.operate(is_paused=True)
    queued, cancelled = (uploaded(gateway, b"waiting", f"waiting-{number}.wav") for number in range(2))
    daemon.client.cancel(cancelled)
    try:
        with browse() as browser:
            browser.expect(r"/none\S* - Failed to load resource: .* 404")
            jobs = [f"/jobs/{job}" for job in (done.id, failed.id, queued, cancelled, "none")]
            for path in ("/", *jobs, "/operate", *(["/docs"] if language == "en" else [])):
                browser.open(f"{path}?lang={language}")
                browser.wait_for("h1")
                if done.id in path:
                    browser.wait_for("#list a.cue[tabindex='0']")
                # A view takes a second of processor time, that of a long page three.
                views = VIEWS[language] if path in {"/", f"/jobs/{done.id}"} else VIEWS[language][:1]
                assert violations(browser, views) == []
    finally:
        daemon.client.cancel(queued)
        daemon.client.operate(is_paused=False)


def test_axe_core_finds_nothing_on_the_sign_in_form(browse: Any, daemon: Daemon, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("correct-horse-battery\n", "utf-8")
    tokens.chmod(0o600)
    with (
        GatewayProcess(daemon, tmp_path / "gateway", token_file=str(tokens)) as gateway,
        browse(gateway.url) as browser,
    ):
        browser.expect("Failed to load resource: .* 401")
        for language, views in VIEWS.items():
            browser.open(f"/?lang={language}")
            field = browser.wait_for("[name=token]")
            field.type("not a token\n")
            browser.wait_for("#wrong")
            assert violations(browser, views) == []
        browser.wait_for("[name=token]").type("correct-horse-battery\n")
        browser.wait_for("form[action='/sign-out']")


def test_a_chinese_browser_gets_the_page_in_chinese(browse: Any, done: JobFacts) -> None:
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
def test_pages_fit_a_phone_without_horizontal_scrolling(
    browse: Any, done: JobFacts, failed: JobFacts, language: str
) -> None:
    with browse(size=PHONE, language=language) as browser:
        for path in ("/", f"/jobs/{done.id}", f"/jobs/{failed.id}", "/jobs/none", "/docs"):
            browser.expect("none - Failed to load resource: .* 404")
            browser.open(path)
            browser.wait_for("h1")
            if path == f"/jobs/{done.id}":
                browser.wait_for("#list a.cue")
            browser.script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
            # WCAG 2.2, 1.4.10: 1280 pixels at 400 %.
            for size in (PHONE, Size(320, 256)):
                browser.resize(size)
                width, shown = browser.script("return [document.documentElement.scrollWidth, innerWidth]")
                assert (width, shown) == (size.width, size.width), path


def test_without_scripts_the_page_is_readable_and_uploads_a_file(
    browse: Any, daemon: Daemon, done: JobFacts, tmp_path: Path, talk: Path
) -> None:
    file = tmp_path / "unfocused.wav"
    file.write_bytes(talk.read_bytes())
    with browse() as browser:
        browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
        browser.open()
        browser.wait_for(f"#job-{done.id} a.name", HOSTILE)
        browser.wait_for("#file").type(str(file))
        browser.click("#upload-form button", "Upload")
        browser.wait_for("h1", file.name)
        job = browser.path.rpartition("/")[2]
        eventually(lambda: daemon.client.status(job).state == "done", "the job is done")
        browser.open(browser.path)
        srt = daemon.client.fetch(job)[1].decode()
        browser.wait_for("#list .cue", srt.split("\n")[2])


def test_a_browser_loads_less_than_100_kb(browse: Any, done: JobFacts) -> None:
    """With all resources, as measured by the browser."""
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
