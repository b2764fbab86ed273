"""The browser for tests: actions, and detection of forbidden actions of a page."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from accessibility import violations
from browser import Browser
from webdriver import PHONE, Key, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

PAGE = """\
<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><title>A page</title>
<main><p id="drop" style="height: 5em">Drop here</p><input id="name" aria-label="Your name"><a href="/file.srt">Get it</a></main>
<script nonce="n">
const area = document.getElementById("drop");
area.addEventListener("dragover", (event) => event.preventDefault());
area.addEventListener("drop", async (event) => {
  event.preventDefault();
  for (const file of event.dataTransfer.files) area.textContent = file.name + ": " + await file.text();
});
</script>
"""
AMISS = {
    "/other": ("<img src='http://127.0.0.2:9/x.png'>", r"requested http://127\.0\.0\.2:9/x\.png"),
    "/name": ("<img src='http://elsewhere.example/x.png'>", "requested http://elsewhere.example/x.png"),
    "/inline": ("<script>document.title = 'x'</script>", "Content Security Policy"),
    "/style": ("<p style='color: red'>x</p>", "Content Security Policy"),
    "/throws": ("<script nonce=n>throw new Error('a fault')</script>", "a fault"),
    "/warns": ("<script nonce=n>console.warn('a warning')</script>", "a warning"),
    "/lacks": ("<script nonce=n src='/lacking.js'></script>", "404"),
}
POLICIES = {"/style": "style-src 'none'", "/inline": "script-src 'nonce-n'"}


class Handler(BaseHTTPRequestHandler):
    """Serves the page, the pages that do what they must not, and a file."""

    def do_GET(self) -> None:
        """Answer by the path."""
        kinds = {"/": "text/html", "/file.srt": "application/x-subrip"}
        body = {"/": PAGE, "/file.srt": "1\n"}.get(self.path) or AMISS.get(self.path, ("",))[0]
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", kinds.get(self.path, "text/html"))
        self.send_header("Content-Security-Policy", POLICIES.get(self.path, ""))
        if self.path.endswith(".srt"):
            self.send_header("Content-Disposition", "attachment")
        self.end_headers()
        self.wfile.write(b"<link rel=icon href=data:,>" * (self.path in AMISS) + body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def shared(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(url, tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def test_the_browser_reads_types_drops_and_downloads(url: str, tmp_path: Path) -> None:
    file = tmp_path / "名前 1.txt"
    file.write_text("what is in it", "utf-8")
    with Browser(url, tmp_path, size=PHONE, scheme="dark", language="zh-TW") as browser:
        browser.open("/")
        assert browser.script("return [innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [
            390,
            True,
        ]
        assert browser.script("return navigator.languages[0]") == "zh-TW"
        browser.press(Key.TAB)
        field = browser.focused()
        assert (field.name, field.role) == ("Your name", "textbox")
        field.type("Ada")
        assert browser.script("return arguments[0].value", field) == "Ada"
        browser.drop([file], "#drop")
        browser.wait_for("#drop", "名前 1.txt: what is in it")
        browser.click("a", "Get it")
        assert browser.downloaded(".srt").read_text("ascii") == "1\n"
        assert browser.screenshot(tmp_path / "shot.png").read_bytes().startswith(b"\x89PNG")
    assert set(browser.requests) >= {f"{url}/", f"{url}/file.srt"}


@pytest.mark.parametrize("path", AMISS)
def test_forbidden_actions_of_a_page_fail_the_test(shared: Browser, path: str) -> None:
    with pytest.raises(AssertionError, match=AMISS[path][1]), shared.reused() as browser:
        browser.open(path)


def test_axe_core_finds_violations(shared: Browser) -> None:
    with shared.reused() as browser:
        browser.open("/")
        browser.script(
            "document.querySelector('main').innerHTML = `<input><p style='color: #999'>pale</p><details><img></details>`"
        )
        found = [one.split(" (")[0] for one in violations(browser, [("light", PHONE)])]
        assert found == [
            f"/, light, 390 px: {rule}"
            for rule in ("color-contrast", "image-alt", "label", "page-has-heading-one")
        ]


def test_expected_console_errors_are_ignored(shared: Browser) -> None:
    with shared.reused() as browser:
        browser.expect("a fault")
        browser.open("/throws")


def test_a_timeout_reports_the_text_of_the_page(shared: Browser) -> None:
    with shared.reused() as browser:
        browser.open("/")
        with pytest.raises(AssertionError, match="Drop here"):
            browser.until(lambda: browser.find("#nothing"), "nothing", timeout_s=0.2)
