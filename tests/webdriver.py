"""A browser by the WebDriver protocol: Chromium and its driver, as processes of a test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any, Self

from httpx2 import Client, TransportError
from msgspec import Struct

from daemon import DEADLINE_S, eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # a container's root has none
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    # No host name is resolved: the page needs loopback only.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element's id (W3C WebDriver, 11.1)."""


def missing() -> str:
    """Return what is missing for browser tests; "" if they can run."""
    if not any(map(shutil.which, BROWSERS)):
        return "no Chromium: apt install chromium chromium-driver"
    return "" if shutil.which("chromedriver") else "no chromedriver: apt install chromium-driver"


class Key:
    """Keys that type no letter (W3C WebDriver, 17.4.2)."""

    TAB = "\ue004"
    ENTER = "\ue007"
    SHIFT = "\ue008"
    ESCAPE = "\ue00c"
    SPACE = " "
    LEFT = "\ue012"
    UP = "\ue013"
    RIGHT = "\ue014"
    DOWN = "\ue015"


class DriverError(Exception):
    """A command of the browser failed; `code` is WebDriver's ("no such element")."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Size(Struct, frozen=True):
    """The emulated device, in CSS pixels."""

    width: int
    height: int
    is_phone: bool = False


DESKTOP = Size(1280, 800)
PHONE = Size(390, 844, is_phone=True)


class Driver:
    """One browser with an empty profile; a context manager that ends its processes in any case.

    The protocol is JSON over HTTP (https://www.w3.org/TR/webdriver2/), of which the tests need a dozen commands: httpx2, which they
    have, says them. Selenium brings 13 MB in 15 packages to the lock for it, Playwright 54 MB.
    """

    def __init__(self, folder: Path, *, language: str = "en-US") -> None:
        """`folder`: for the profile and the driver's log; `language`: the preferred language sent to pages."""
        folder.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "chromedriver.log"
        self._folder = folder
        self._language = language
        self._process: subprocess.Popen[bytes] | None = None
        self._http = Client(timeout=DEADLINE_S, trust_env=False)
        self._session = ""

    def __enter__(self) -> Self:
        try:
            return self._start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and its driver, and remove the profile; may be repeated."""
        self._http.close()
        if self._process is not None and self._process.poll() is None:
            # The browser's processes belong to the driver's group, and outlive it.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder / "profile", ignore_errors=True)

    # -- the protocol ----------------------------------------------------------------------------------------

    def command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a command of the session and return its value; raises DriverError."""
        url = f"{self._url}/session/{self._session}{path}"
        answer = self._http.request(method, url, json=(body or {}) if method == "POST" else None)
        value = answer.json()["value"]
        if answer.status_code != 200:
            raise DriverError(value["error"], value["message"].partition("\n")[0])
        return value

    def devtools(self, command: str, **params: Any) -> Any:
        """Send a command of Chromium's own protocol (https://chromedevtools.github.io/devtools-protocol/)."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def script(self, body: str, *arguments: Any) -> Any:
        """Run the body of a function in the page, regardless of its policy, and return its result."""
        plain = [value.reference if isinstance(value, Element) else value for value in arguments]
        return self._adopt(self.command("POST", "/execute/sync", {"script": body, "args": plain}))

    def find(self, css: str) -> Element | None:
        """Return the first element of a selector, if there is one."""
        found = self.find_all(css)
        return found[0] if found else None

    def find_all(self, css: str) -> list[Element]:
        """Return all elements of a selector."""
        found = self.command("POST", "/elements", {"using": "css selector", "value": css})
        return [Element(self, one[_ELEMENT]) for one in found]

    def focused(self) -> Element:
        """Return the element that has the keyboard's focus."""
        return Element(self, self.command("GET", "/element/active")[_ELEMENT])

    def press(self, *keys: str) -> None:
        """Press and release keys, one after another."""
        self._move(*((kind, key) for key in keys for kind in ("keyDown", "keyUp")))

    def press_with(self, held: str, key: str) -> None:
        """Press a key while another is held."""
        self._move(("keyDown", held), ("keyDown", key), ("keyUp", key), ("keyUp", held))

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Return new entries of a log ("browser": the console; "performance": the network) since the last call."""
        found: list[dict[str, Any]] = self.command("POST", "/se/log", {"type": kind})
        return found

    # -- emulation ------------------------------------------------------------------------------------------

    def resize(self, size: Size) -> None:
        """Emulate a device of this size."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=size.width,
            height=size.height,
            deviceScaleFactor=1,
            mobile=size.is_phone,
        )
        self.devtools("Emulation.setTouchEmulationEnabled", enabled=size.is_phone)

    def prefer(self, scheme: str) -> None:
        """Emulate a preference for "dark" or "light"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def _move(self, *moves: tuple[str, str]) -> None:
        actions = [{"type": kind, "value": key} for kind, key in moves]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def _adopt(self, value: Any) -> Any:
        """Return a script's result, with elements as objects."""
        if isinstance(value, list):
            return [self._adopt(one) for one in value]
        return Element(self, value[_ELEMENT]) if isinstance(value, dict) and _ELEMENT in value else value

    # -- start -----------------------------------------------------------------------------------------------

    def _start(self) -> Self:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        # The browser stores files beside its profile below HOME.
        environ = {**os.environ, "HOME": str(self._folder), "LANGUAGE": self._language.replace("-", "_")}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                ("chromedriver", f"--port={port}"),
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._is_ready, "the driver answers")
        asked = {"capabilities": {"alwaysMatch": self._capabilities()}}
        answer = self._http.post(f"{self._url}/session", json=asked).json()["value"]
        if "error" in answer:
            raise DriverError(answer["error"], answer["message"])
        self._session = answer["sessionId"]
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log_file.read_text("utf-8")
        try:
            return bool(self._http.get(f"{self._url}/status").json()["value"]["ready"])
        except TransportError:
            return False

    def _capabilities(self) -> dict[str, Any]:
        own = (f"--user-data-dir={self._folder / 'profile'}", f"--lang={self._language}", "about:blank")
        return {
            "browserName": "chrome",
            "goog:chromeOptions": {
                "binary": next(filter(None, map(shutil.which, BROWSERS))),
                "args": [*SWITCHES, *own],
                "prefs": {"intl.accept_languages": self._language},
                "perfLoggingPrefs": {"enableNetwork": True, "enablePage": False},
            },
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }


class Element:
    """An element of a page, as long as it exists."""

    def __init__(self, driver: Driver, name: str) -> None:
        self._driver = driver
        self._path = f"/element/{name}"
        self.reference = {_ELEMENT: name}
        """The element as an argument of a script."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Element) and self.reference == other.reference

    def __hash__(self) -> int:
        return hash(self._path)

    def click(self) -> None:
        """Click its middle, which must not be covered."""
        self._driver.command("POST", f"{self._path}/click")

    def type(self, text: str) -> None:
        """Type into it; into a file field: paths, a line each."""
        self._driver.command("POST", f"{self._path}/value", {"text": text})

    def clear(self) -> None:
        """Empty a field."""
        self._driver.command("POST", f"{self._path}/clear")

    def attribute(self, name: str) -> str | None:
        """Return an attribute's value."""
        found: str | None = self._driver.script("return arguments[0].getAttribute(arguments[1])", self, name)
        return found

    @property
    def text(self) -> str:
        """Its visible text."""
        return str(self._driver.command("GET", f"{self._path}/text"))

    @property
    def name(self) -> str:
        """Its accessible name."""
        return str(self._driver.command("GET", f"{self._path}/computedlabel"))

    @property
    def role(self) -> str:
        """Its accessible role."""
        return str(self._driver.command("GET", f"{self._path}/computedrole"))

    @property
    def is_shown(self) -> bool:
        """Whether it is visible, in the window or outside."""
        return bool(self._driver.command("GET", f"{self._path}/displayed"))

    @property
    def middle(self) -> tuple[float, float]:
        """Its place in the window, which is scrolled to it if necessary."""
        box: Sequence[float] = self._driver.script(
            "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'});"
            "const box = arguments[0].getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]",
            self,
        )
        return box[0], box[1]


def entry(line: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the event of a line of the log "performance", and its parameters."""
    message = json.loads(line["message"])["message"]
    return message["method"], message["params"]
