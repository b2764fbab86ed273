"""A browser for the tests, which fails them if a page contacts other servers, violates its policy or logs an error."""

from __future__ import annotations

import base64
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

from daemon import DEADLINE_S, eventually
from webdriver import DESKTOP, Driver, DriverError, Element, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from webdriver import Size

T = TypeVar("T")

_OWN_SCHEMES = ("about:", "blob:", "data:", "devtools:", "chrome:", "chrome-untrusted:")
"""Addresses without a server."""
_FLEETING = frozenset({"no such element", "stale element reference", "javascript error"})
"""Errors of an element that the page is replacing."""


class Browser(Driver):
    """A browser on the pages of one server; a context manager that raises AssertionError at its end if a page misbehaved."""

    def __init__(
        self, url: str, folder: Path, *, size: Size = DESKTOP, scheme: str = "light", language: str = "en-US"
    ) -> None:
        """`url`: the server's; `scheme`: "light" or "dark", the preferred colour scheme."""
        super().__init__(folder, language=language)
        self.url = url
        self.downloads = folder / "downloads"
        self.downloads.mkdir(exist_ok=True)
        self.requests: list[str] = []
        """Addresses requested so far, as recorded by `listen`."""
        self._size = size
        self._scheme = scheme
        self._faults: list[str] = []
        self._expected: list[re.Pattern[str]] = []

    def __enter__(self) -> Self:
        super().__enter__()
        self.log("performance")  # the browser's own start
        self.resize(self._size)
        self.prefer(self._scheme)
        self.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.check()
        finally:
            self.close()

    @contextmanager
    def reused(self, url: str = "", *, size: Size = DESKTOP, scheme: str = "light") -> Iterator[Self]:
        """Use the browser for one test, without the state of earlier ones; check at the end as at its exit.

        `url`: another server for this test. A browser of its own takes two seconds of processor time.
        """
        own_url, self.url = self.url, url or self.url
        self.log("performance")
        self.log("browser")
        self._faults.clear()
        self._expected.clear()
        for file in self.downloads.iterdir():
            file.unlink()
        self.devtools("Emulation.setScriptExecutionDisabled", value=False)
        self.devtools("Storage.clearDataForOrigin", origin=self.url, storageTypes="all")
        self.devtools("Network.clearBrowserCookies")
        self.resize(size)
        self.prefer(scheme)
        try:
            yield self
            self.check()
        finally:
            if self.url != own_url:
                # The page would request its updates from a server that ends with the test.
                self.command("POST", "/url", {"url": "about:blank"})
            self.url = own_url

    def check(self) -> None:
        """Raise AssertionError if a page did what it must not."""
        self.listen()
        faults, self._faults = self._faults, []
        assert not faults, "\n".join(faults)

    # -- its log --------------------------------------------------------------------------------------------

    def expect(self, fault: str) -> None:
        """Ignore console messages that match a regular expression: the test provokes them."""
        self._expected.append(re.compile(fault))

    def listen(self) -> None:
        """Record the requests and console messages since the last call."""
        for line in self.log("performance"):
            match entry(line):
                case "Network.requestWillBeSent", {"request": {"url": url}}:
                    self.requests.append(url)
                    if not url.startswith((f"{self.url}/", *_OWN_SCHEMES)):
                        self._faults.append(f"requested {url}, which is not on {self.url}")
                case "Network.webSocketCreated", {"url": url}:
                    self._faults.append(f"opened {url}")
        for line in self.log("browser"):
            said = f"console, {line['level']}: {line['message']}"
            # A violation of the policy is an error there too; our own pages log nothing else.
            if line["level"] in {"SEVERE", "WARNING"} and not any(ok.search(said) for ok in self._expected):
                self._faults.append(said)

    # -- user actions ---------------------------------------------------------------------------------------

    def open(self, path: str = "/") -> None:
        """Go to a page of the server, and wait until it has loaded."""
        self.command("POST", "/url", {"url": f"{self.url}{path}"})

    @property
    def path(self) -> str:
        """The current path, with the query."""
        return str(self.script("return location.pathname + location.search"))

    def drop(self, files: Sequence[Path], target: str) -> None:
        """Drop files on an element, as from a file manager."""
        x, y = self.wait_for(target).middle
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.devtools("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def click(self, css: str, text: str = "") -> None:
        """Click an element as soon as it is clickable; `text`: its content."""

        def clicked() -> bool:
            found = self._with_text(css, text)
            if found is not None:
                found.click()
            return found is not None

        eventually(lambda: self._soon(clicked), f"{css} {text!r} can be clicked")

    # -- waiting for the page --------------------------------------------------------------------------------

    def wait_for(self, css: str, text: str = "") -> Element:
        """Return the first visible element of a selector with this text, as soon as there is one."""
        return self.until(lambda: self._with_text(css, text), f"{css} {text!r} is there")

    def wait_until_gone(self, css: str, text: str = "") -> None:
        """Wait until no such element is visible."""
        self.until(lambda: self._with_text(css, text) is None, f"{css} {text!r} is gone")

    def until(self, probe: Callable[[], T | None], what: str, timeout_s: float = DEADLINE_S) -> T:
        """Return the first true answer of `probe`, whose page may change under it; AssertionError with the page's text."""
        try:
            return eventually(lambda: self._soon(probe), what, timeout_s, longest_pause_s=0.2)
        except AssertionError as error:
            shown = self.script("return document.body ? document.body.innerText : ''")
            raise AssertionError(f"{error}; the page at {self.path}:\n{shown[:4000]}") from None

    def downloaded(self, ending: str) -> Path:
        """Wait for a file whose name ends so to be saved; return it."""

        def whole() -> Path | None:
            found = [path for path in self.downloads.iterdir() if path.name.endswith(ending)]
            return found[0] if found else None

        return eventually(whole, f"a download *{ending}", DEADLINE_S)

    def screenshot(self, file: Path, *, is_whole: bool = False) -> Path:
        """Write a screenshot as PNG; `is_whole`: the whole page, not only the visible part."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        file.write_bytes(base64.b64decode(shot["data"]))
        return file

    def _with_text(self, css: str, text: str) -> Element | None:
        shown = (one for one in self.find_all(css) if one.is_shown)
        return next((one for one in shown if not text or text in one.text), None)

    def _soon(self, probe: Callable[[], T | None]) -> T | None:
        """Return the result of a probe; None if the page changed meanwhile."""
        try:
            return probe()
        except DriverError as error:
            if error.code in _FLEETING | {"element click intercepted", "element not interactable"}:
                return None
            raise
