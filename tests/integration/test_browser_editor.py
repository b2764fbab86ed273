"""The editor of cues in a real browser: it saves itself, loses nothing, and overwrites nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import media
from accessibility import VIEWS, violations
from browser import Browser
from daemon import Daemon, InboxFolder
from gateway_process import GatewayProcess
from subtitle import EditedCue
from subtitle.subtitle_files import parse_subtitles
from webdriver import Key, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ALT, CONTROL = "\ue00a", "\ue009"


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
def talk(daemon: Daemon) -> str:
    """Return a job that is done, with timed words, some of them uncertain."""
    pcm = np.concatenate([media.speech(12), media.damaged("slow")])[: 30 * media.RATE]
    path = media.write_sound(daemon.folder / "talk.flac", pcm)
    return daemon.wait_for(daemon.drop(path, "talk.flac")).id


@pytest.fixture
def browser(shared: Browser, daemon: Daemon, talk: str) -> Iterator[Browser]:
    """Return a browser with the editor open on the model's cues."""
    versions = daemon.client.cue_versions(talk)
    if versions and versions[0].restored != 0:
        daemon.client.restore_cues(talk, 0, version=versions[0].version)
    with shared.reused() as running:
        running.open(f"/jobs/{talk}")
        running.wait_for("#list a.cue[tabindex='0']")
        running.click("#edit")
        running.wait_for("#edit-text")
        yield running


def texts(browser: Browser) -> list[str]:
    """Return the text of each cue, as the model of the editor has it."""
    return list(
        browser.script(
            "return [...document.querySelectorAll('#edit-list li')].map((row) =>"
            " [...row.querySelectorAll('.edit-row .line')].map((line) => line.textContent).join('|'))"
        )
    )


def saved(daemon: Daemon, job: str) -> list[tuple[int, int, str]]:
    cues = parse_subtitles(daemon.client.fetch(job)[1])
    return [(cue.start_ms, cue.end_ms, "|".join(cue.lines)) for cue in cues]


def wait_until_saved(browser: Browser) -> None:
    browser.wait_for("#edit-state[data-state=saved]")


def at_cursor(browser: Browser, offset: int) -> None:
    """Put the cursor into the text of the selected cue."""
    browser.script(
        "const field = document.getElementById('edit-text'); field.focus(); field.setSelectionRange(arguments[0], arguments[0])",
        offset,
    )


def choose(browser: Browser, index: int) -> None:
    browser.script("document.querySelectorAll('#edit-list .edit-row')[arguments[0]].click()", index)
    browser.until(
        lambda: browser.script(
            "return document.querySelectorAll('#edit-list li')[arguments[0]].classList.contains('selected')",
            index,
        ),
        "the cue is selected",
    )


def test_an_edit_saves_itself_and_is_undone_without_end(browser: Browser, daemon: Daemon, talk: str) -> None:
    before = saved(daemon, talk)
    first = texts(browser)
    assert first == [text for _, _, text in before]
    choose(browser, 0)
    at_cursor(browser, len(first[0]))
    browser.press(" ", "n", "o", "w")
    browser.until(lambda: texts(browser)[0] == f"{first[0]} now", "the text is in the list")
    wait_until_saved(browser)
    assert saved(daemon, talk)[0][2] == f"{first[0]} now"
    # Split at the cursor, merge, insert, delete; all by keys.
    at_cursor(browser, first[0].index(" "))
    browser.press_with(ALT, Key.ENTER)
    head, _, tail = f"{first[0]} now".partition(" ")
    browser.until(lambda: texts(browser)[:2] == [head, tail], "the cue is split")
    choose(browser, 0)
    browser.press_with(ALT, "m")
    browser.until(lambda: texts(browser)[0] == f"{head}|{tail}", "the cues are merged")
    browser.press_with(ALT, "i")
    browser.until(lambda: texts(browser)[1] == "", "an empty cue is inserted")
    browser.press("H", "i")
    browser.press_with(ALT, Key.DOWN)
    browser.press_with(ALT, "\ue017")  # Delete
    browser.until(lambda: len(texts(browser)) == len(first), "a cue is deleted")
    wait_until_saved(browser)
    assert [text for _, _, text in saved(daemon, talk)] == texts(browser)
    edited = texts(browser)
    # Back to the beginning, and forth again.
    for _ in range(20):
        browser.press_with(CONTROL, "z")
    browser.until(lambda: texts(browser) == first, "all is undone")
    assert not browser.script("return document.getElementById('edit-redo').disabled")
    wait_until_saved(browser)
    assert saved(daemon, talk) == before
    for _ in range(20):
        browser.press_with(CONTROL, "y")
    browser.until(lambda: texts(browser) == edited, "all is done again")
    # The player shows the edit when the editor is closed, and so does the download.
    browser.click("[data-command=done]")
    browser.wait_for("#list a.cue[tabindex='0']")
    browser.until(
        lambda: browser.wait_for("#list .text").text.split() == [head, *tail.split()], "the list has the edit"
    )
    browser.wait_for("#count", "edited by Anonymous")
    browser.click("#downloads a", "SRT")
    assert f"{head}\n{tail}" in browser.downloaded(".srt").read_text("utf-8")
    assert daemon.client.cue_versions(talk)[0].cues == len(edited)
    newest = "SELECT draft_session FROM edits WHERE job = ? ORDER BY version DESC LIMIT 1"
    assert daemon.query(newest, talk) == [("",)], "the edit is a version, which is translated"


def test_times_are_changed_by_numbers_keys_and_dragging(browser: Browser, daemon: Daemon, talk: str) -> None:
    choose(browser, 1)
    start, end = (
        browser.script("return document.getElementById(arguments[0]).value", f"edit-{name}")
        for name in ("start", "end")
    )
    (_, before_ms, _), (start_ms, end_ms, _) = saved(daemon, talk)[:2]
    assert start.endswith(f"{start_ms % 1000:03}")
    browser.script(
        "const field = document.getElementById('edit-end'); field.value = arguments[0]; field.dispatchEvent(new Event('change'))",
        f"{(end_ms - 200) / 1000}",
    )
    at_cursor(browser, 0)
    browser.press_with(ALT, Key.RIGHT)
    wait_until_saved(browser)
    assert saved(daemon, talk)[1][:2] == (start_ms + 100, end_ms - 200)
    assert end != browser.script("return document.getElementById('edit-end').value")
    # An impossible time is marked, and changes nothing.
    browser.script(
        "const field = document.getElementById('edit-end'); field.value = '0:00.1'; field.dispatchEvent(new Event('change'))"
    )
    assert browser.wait_for("#edit-end").attribute("aria-invalid") == "true"
    # Its start is dragged half a second to the left.
    x, y, width, length_ms = browser.script(
        "const canvas = document.getElementById('waveform'); canvas.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = canvas.getBoundingClientRect();"
        "return [box.x, box.y + 30, box.width, Number(document.getElementById('player').dataset.length)]"
    )
    scale = width / length_ms  # the waveform shows all of it
    edge = x + (start_ms + 100) * scale
    steps = (
        ("mousePressed", edge),
        ("mouseMoved", edge - 200 * scale),
        ("mouseMoved", edge - 500 * scale),
        ("mouseReleased", edge - 500 * scale),
    )
    for kind, at in steps:
        browser.devtools(
            "Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=1, clickCount=1
        )
    wait_until_saved(browser)
    dragged_ms = saved(daemon, talk)[1][0]
    assert abs(dragged_ms - (start_ms - 400)) <= 60
    at_cursor(browser, 0)
    browser.press_with(CONTROL, "z")
    wait_until_saved(browser)
    assert saved(daemon, talk)[1][0] == start_ms + 100, "dragging is one step of undo"
    assert before_ms <= start_ms


def test_find_replace_shift_and_limits(browser: Browser, daemon: Daemon, talk: str) -> None:
    before = saved(daemon, talk)
    browser.press_with(CONTROL, "f")
    browser.wait_for("#edit-search").type("THE")
    browser.wait_for("#edit-found", "found")
    count = sum(text.lower().count("the") for _, _, text in before)
    assert browser.wait_for("#edit-found").text == f"{count} found"
    browser.wait_for("#edit-replacement").type("ze")
    browser.click("#edit-find button", "Replace all")
    browser.wait_for("#edit-found", f"{count} replaced")
    assert not any("the" in text.lower() for text in texts(browser))
    browser.click("[data-command=shift]")
    browser.script("document.getElementById('edit-shift-by').value = '1.5'")
    browser.click("#edit-shift button", "Apply")
    wait_until_saved(browser)
    assert [start for start, *_ in saved(daemon, talk)] == [start + 1500 for start, *_ in before]
    browser.click("#edit-undo")
    browser.click("#edit-undo")
    browser.until(lambda: texts(browser) == [text for *_, text in before], "both are undone")
    # Limits are shown while one types.
    choose(browser, 0)
    browser.wait_for("#edit-text").type(" and so on" * 8)
    assert "Too fast: " in browser.wait_for("#edit-problems").text
    assert "Line too long: " in browser.wait_for("#edit-problems").text
    browser.until(lambda: browser.wait_for("#edit-next-problem").text == "1 beyond limits", "it is counted")
    wait_until_saved(browser)


def test_uncertain_words_are_accepted_one_cue_after_the_other(browser: Browser) -> None:
    browser.script(
        "const slider = document.getElementById('threshold'); slider.value = 95; slider.dispatchEvent(new Event('input'))"
    )
    browser.wait_for("#edit-list mark")
    at_cursor(browser, 0)
    for _ in range(browser.script("return document.querySelectorAll('#edit-list li:has(mark)').length") + 1):
        browser.press_with(ALT, "a")
    browser.until(lambda: not browser.find("#edit-list mark"), "no word is marked any more")
    wait_until_saved(browser)
    browser.click("[data-command=done]")
    browser.wait_for("#list a.cue[tabindex='0']")
    browser.until(lambda: not browser.find("#list mark"), "the player marks none either")


def test_a_conflict_is_shown_and_nothing_is_overwritten(browser: Browser, daemon: Daemon, talk: str) -> None:
    version = max((one.version for one in daemon.client.cue_versions(talk)), default=0)
    theirs = [EditedCue(start_ms=0, end_ms=900, lines=("theirs",))]
    daemon.client.save_cues(talk, theirs, version=version, author="Bob")
    choose(browser, 0)
    browser.wait_for("#edit-text").type(" mine")
    browser.expect("409")
    browser.wait_for("#edit-conflict", "Bob")
    browser.wait_for("#edit-state", "another user has saved")
    assert saved(daemon, talk) == [(0, 900, "theirs")]
    browser.wait_for("#edit-text").type(" more")
    browser.click("#edit-conflict button", "Show their changes")
    browser.wait_for("#edit-diff .change ins", "theirs")
    browser.click("#edit-versions form button")
    # Reloaded, the page still has the edit and the conflict.
    browser.open(browser.path)
    browser.wait_for("#edit-conflict", "Bob")
    assert any(text.endswith(" mine more") for text in texts(browser))
    browser.click("#edit-conflict button", "Save mine as the newest version")
    wait_until_saved(browser)
    assert any(text.endswith(" mine more") for *_, text in saved(daemon, talk))
    mine, bobs = daemon.client.cue_versions(talk)[:2]
    assert (mine.author.startswith("Anonymous "), bobs.author) == (True, "Bob")
    # Their version can be restored.
    browser.click("[data-command=versions]")
    browser.wait_for("#edit-version-list li", f"Version {version + 1}")
    browser.script(
        "[...document.querySelectorAll('#edit-version-list li')].find((row) => row.textContent.includes(arguments[0]))"
        ".querySelectorAll('button')[1].click()",
        f"Version {version + 1}",
    )
    browser.until(lambda: texts(browser) == ["theirs"], "their version is shown")
    wait_until_saved(browser)
    assert saved(daemon, talk) == [(0, 900, "theirs")]


def test_an_edit_survives_a_restart_of_the_daemon_and_a_closed_tab(
    browser: Browser, daemon: Daemon, talk: str
) -> None:
    browser.expect("503")
    browser.expect("Failed to load resource")
    daemon.stop()
    choose(browser, 0)
    browser.wait_for("#edit-text").type(" while away")
    browser.wait_for("#edit-state[data-state=offline]")
    browser.devtools("Page.navigate", url="about:blank")  # the tab is closed before the server is back
    daemon.start()
    browser.open(f"/jobs/{talk}")
    browser.wait_for("#edit-text")
    wait_until_saved(browser)
    assert saved(daemon, talk)[0][2].endswith(" while away")
    assert browser.script("return localStorage.getItem(arguments[0])", f"subtitled.edit.{talk}") is None


def keep_unsaved(browser: Browser, job: str, version: int, cues: list[tuple[int, int, str]]) -> None:
    """Leave the page, with an edit in the browser that was made from `version`."""
    browser.open("/")
    stored = [
        {"start_ms": start, "end_ms": end, "lines": [text], "channel": "", "is_accepted": False}
        for start, end, text in cues
    ]
    browser.script(
        "localStorage.setItem(arguments[0], JSON.stringify({version: arguments[1], cues: arguments[2]}))",
        f"subtitled.edit.{job}",
        version,
        stored,
    )


def fail_requests(browser: Browser, path: str) -> None:
    """Let requests fail whose address ends with `path`, until the page is left."""
    browser.script(
        "const send = window.fetch; window.fetch = (address, ...more) =>"
        " String(address).endsWith(arguments[0]) ? Promise.reject(new Error('planted')) : send(address, ...more)",
        path,
    )


def test_an_unsaved_edit_of_an_old_version_overwrites_nothing_without_the_list_of_versions(
    browser: Browser, daemon: Daemon, talk: str
) -> None:
    version = max((one.version for one in daemon.client.cue_versions(talk)), default=0)
    theirs = [EditedCue(start_ms=0, end_ms=900, lines=("theirs",))]
    keep_unsaved(browser, talk, version, [(0, 900, "mine")])
    daemon.client.save_cues(talk, theirs, version=version, author="Bob")
    # The player without the editor, which opens after the fault is planted.
    stored = browser.script("return localStorage.getItem(arguments[0])", f"subtitled.edit.{talk}")
    browser.script("localStorage.clear()")
    browser.open(f"/jobs/{talk}")
    browser.wait_for("#list a.cue[tabindex='0']")
    browser.script("localStorage.setItem(arguments[0], arguments[1])", f"subtitled.edit.{talk}", stored)
    fail_requests(browser, "/versions")
    browser.click("#edit")
    browser.wait_for("#edit-conflict", "Bob")
    browser.wait_for("#edit-text").type(" more")
    browser.press_with(CONTROL, "s")
    assert saved(daemon, talk) == [(0, 900, "theirs")]
    # Without an answer of the server, nothing is discarded.
    fail_requests(browser, "/cues")
    browser.click("#edit-conflict button", "Discard mine")
    browser.wait_for("#edit-state", "not available right now: planted")
    assert texts(browser) == ["mine more"]
    browser.open(browser.path)
    browser.wait_for("#edit-conflict", "Bob")
    assert texts(browser) == ["mine more"]
    browser.click("#edit-conflict button", "Discard mine")
    browser.until(lambda: texts(browser) == ["theirs"], "their version is shown")
    wait_until_saved(browser)
    assert browser.script("return localStorage.getItem(arguments[0])", f"subtitled.edit.{talk}") is None


def test_an_edit_that_was_saved_while_its_page_closed_is_no_conflict(
    browser: Browser, daemon: Daemon, talk: str
) -> None:
    version = max((one.version for one in daemon.client.cue_versions(talk)), default=0)
    mine = [EditedCue(start_ms=0, end_ms=900, lines=("mine",))]
    keep_unsaved(browser, talk, version, [(0, 900, "mine ")])
    versions = daemon.client.save_cues(talk, mine, version=version)
    browser.open(f"/jobs/{talk}")
    browser.wait_for("#edit-text")
    wait_until_saved(browser)
    assert browser.script("return localStorage.getItem(arguments[0])", f"subtitled.edit.{talk}") is None
    assert daemon.client.cue_versions(talk) == versions


def test_the_editor_is_accessible_and_its_keys_are_listed(browser: Browser) -> None:
    assert browser.wait_for("#edit-text").name == "Text"
    assert browser.wait_for("#edit-text").attribute("spellcheck") == "true"
    browser.script("document.querySelector('#edit-list .edit-row').focus()")
    browser.press(Key.DOWN)
    assert browser.script(
        "return document.querySelectorAll('#edit-list li')[1].classList.contains('selected')"
    )
    browser.press("?")
    browser.wait_for("#edit-keys dl")
    assert not browser.script("return document.getElementById('keys').open"), "the editor's list only"
    browser.press(Key.ESCAPE)
    browser.wait_until_gone("#edit-keys dl")
    assert violations(browser, VIEWS["en"]) == []


def test_the_model_of_an_edit(browser: Browser) -> None:
    """Pure functions of the script, in the page's engine."""

    def run(body: str) -> Any:
        return browser.script(
            "return import('/static/edit_model.js').then(({EditModel, problems, columns, searchPattern, snapped, withText}) => {"
            "const word = (text, start_ms, end_ms, probability = 0.3, line = 0) => ({line, text, start_ms, end_ms, probability});"
            "const cue = (start_ms, end_ms, text, words = []) =>"
            " ({start_ms, end_ms, lines: text.split('\\n'), words, confidence: 0.5, channel: '', is_accepted: false});"
            "const show = (cues) => cues.map((one) => [one.start_ms, one.end_ms, one.lines.join('|')]);"
            f"{body}}})"
        )

    # A cue is split between its words, where they are spoken; else in proportion.
    assert run(
        "const model = new EditModel([cue(0, 1000, 'one two', [word('one', 0, 700), word(' two', 800, 1000)]), cue(2000, 3000, 'ab cd')]);"
        "model.split(0, 3); model.split(2, 2); return show(model.cues)"
    ) == [[0, 800, "one"], [800, 1000, "two"], [2000, 2500, "ab"], [2500, 3000, "cd"]]
    # Words that did not change keep their confidence.
    assert run(
        "const old = cue(0, 1000, 'The wether is fine', [word('The', 0, 1), word(' wether', 1, 2), word(' is', 2, 3), word(' fine', 3, 4)]);"
        "return withText(old, 'The weather\\nis fine').words.map((one) => [one.line, one.text, one.probability, one.start_ms])"
    ) == [[0, "The", 0.3, 0], [0, " weather", 1, None], [1, "is", 0.3, 2], [1, " fine", 0.3, 3]]
    # Typing is one step of undo until the selection changes; a thousand steps are undone.
    assert run(
        "const model = new EditModel([cue(0, 9, 'x')]);"
        "model.setText(0, 'xa'); model.setText(0, 'xab'); model.endMerge(); model.setText(0, 'xabc'); model.undo();"
        "const first = model.cues[0].lines[0]; model.undo(); const second = model.cues[0].lines[0];"
        "for (let step = 0; step < 1000; step++) { model.setText(0, `t${step}`); model.endMerge(); }"
        "let steps = 0; while (model.undo() >= 0) steps++; const end = model.cues[0].lines[0];"
        "while (model.redo() >= 0); return [first, second, steps, end, model.cues[0].lines[0]]"
    ) == ["xab", "x", 1000, "x", "t999"]
    # The order follows the times; stretching and moving keep it.
    assert run(
        "const model = new EditModel([cue(0, 9, 'a'), cue(10, 19, 'b'), cue(20, 29, 'c')]);"
        "const at = model.setTimes(0, 25, 30); const moved = show(model.cues); model.undo();"
        "model.shift(1, 100, 2); const shifted = show(model.cues); model.undo(); model.shift(2, -15);"
        "return [at, moved, shifted, show(model.cues)]"
    ) == [
        2,
        [[10, 19, "b"], [20, 29, "c"], [25, 30, "a"]],
        [[0, 9, "a"], [110, 128, "b"], [130, 148, "c"]],
        [[0, 9, "a"], [5, 14, "c"], [10, 19, "b"]],
    ]
    # Text that looks like a pattern is found as it is, in any case.
    assert run(
        "const model = new EditModel([cue(0, 1, 'a.b A.B axb'), cue(1, 2, 'a.b')]);"
        "const count = model.replaceAll(searchPattern('a.b', false), '$&'); const all = show(model.cues); model.undo();"
        "return [count, all, show(model.cues)[0][2]]"
    ) == [3, [[0, 1, "$& $& axb"], [1, 2, "$&"]], "a.b A.B axb"]
    # Browsers without RegExp.escape find every character, too.
    assert run(
        "RegExp.escape = undefined; const text = 'a-b / c.d* [e] ^$ {f} (g) | \\\\ + ?';"
        "return [searchPattern(text, true).test(text), searchPattern('.', true).test('a')]"
    ) == [True, False]
    # Edges move to the sound: outward in it, inward in silence.
    assert run(
        "const peaks = Array.from({length: 100}, (_, at) => (at >= 20 && at < 60 ? 100 : 0));"
        "const sound = {peaks, interval_ms: 10, offset_ms: 0};"
        "return [snapped(cue(150, 700, ''), sound), snapped(cue(250, 500, ''), sound), snapped(cue(800, 900, ''), sound, {reach_ms: 50})]"
    ) == [
        {"start_ms": 200, "end_ms": 600},
        {"start_ms": 200, "end_ms": 600},
        {"start_ms": 800, "end_ms": 900},
    ]
    limits = "{max_chars: 16, max_lines: 2, max_chars_per_s: 9, min_ms: 833, max_ms: 7000}"
    assert run(
        f"const found = (one, next) => problems(one, next, {limits}, 2).map(([key]) => key);"
        "return [found(cue(0, 2000, '今天天氣很好')), found(cue(0, 500, '今天天氣很好')), found(cue(0, 9000, '一\\n二\\n三'), cue(8000, 9000, '')),"
        " columns('今a'), found(cue(0, 1000, ' '))]"
    ) == [[], ["too_fast", "too_short"], ["too_many_lines", "too_long", "overlap"], 3, ["empty"]]
