"""Pictures of every view of the page: `python tests/screenshots.py [FOLDER]`, or `make screenshots`.

A daemon with the demo model, files that are done, in progress, waiting and failed, and a browser that shows each view on a desktop and
as a phone have it, light and dark, in both languages. All pictures go to FOLDER; those that the README shows to docs/images.
At last a table says how heavy a first view is, and after how long it can be used.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2 as httpx
import numpy as np

import media
from browser import Browser
from daemon import Daemon, eventually
from gateway_process import GatewayProcess
from subtitled.config import schema
from webdriver import DESKTOP, PHONE, missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from subtitle import JobFacts

ROOT = Path(__file__).parents[1]
SIZES = {"desktop": DESKTOP, "phone": PHONE}
SCHEMES = ("light", "dark")
LANGUAGES = {"en": "en-US", "zh-Hant": "zh-TW"}
SHOWN = {
    "overview-desktop-light-en": "overview.png",
    "player-desktop-dark-en": "player.png",
    "overview-phone-light-zh-Hant": "phone.png",
}
"""Pictures in the documents, each as visible without scrolling."""
BROKEN = (
    "<script>alert('a title')<script>.mp4",
    "a-name-of-a-file-that-is-very-long-because-everything-was-put-into-it-2026-11-25-take-7-final.mkv",
)
VISITS = 5
LIMIT_BYTES = 150_000
"""Of a picture in the repository."""


class Scene:
    """The jobs of the daemon when the pictures are taken."""

    def __init__(self, daemon: Daemon, gateway: GatewayProcess, folder: Path) -> None:
        """`folder`: for the media."""
        self._daemon = daemon
        self._url = gateway.url
        self._folder = folder
        english = self._write("Talk at the library.flac", media.recording())
        chinese = self._write("市立圖書館的講座.flac", media.recording("demo-zh.flac"))
        long = self._write("long.flac", np.tile(media.recording(), 120))
        for file in (english, chinese):
            self._send(file.read_bytes(), file.name)
        for name in BROKEN:
            self._send(b"not media", name)
        daemon.wait_for_jobs(4)
        self.talk = self._job(english.name)
        self.failure = self._job(BROKEN[0])
        eventually(lambda: daemon.is_closed(self.failure.id), "the failed job's files are in place")
        for number, name in enumerate(
            ("Lecture 1.mkv", "第二講.mp4", "Lecture 3.mkv", "Lecture 4.mkv", "Interview.m4a")
        ):
            with long.open("rb") as content:
                httpx.post(
                    f"{self._url}/api/jobs",
                    params={"name": name, "priority": -number},
                    content=content,
                    timeout=120,
                )
        eventually(
            lambda: any(job.segments.get("done") for job in daemon.client.list(("transcribing",))),
            "a long file is being transcribed",
        )
        self.uploads = [self._write(f"Recording {number}.wav", media.speech(60)) for number in range(1, 5)]

    def _write(self, name: str, pcm: NDArray[np.int16]) -> Path:
        return media.write_sound(self._folder / name, pcm)

    def _send(self, content: bytes, name: str) -> None:
        httpx.post(f"{self._url}/api/jobs", params={"name": name}, content=content, timeout=120)

    def _job(self, name: str) -> JobFacts:
        return next(job for job in self._daemon.jobs() if job.source.endswith(name))

    # -- the views -------------------------------------------------------------------------------------------

    def overview(self, browser: Browser) -> None:
        """Show the overview."""
        browser.open("/")
        browser.wait_for("#workers .worker")
        browser.until(
            lambda: re.match(r"\d", browser.wait_for("#figures dd").text),
            "the speed of the last seconds is known",
        )

    def player(self, browser: Browser) -> None:
        """Show a job that is done, at its third cue."""
        browser.open(f"/jobs/{self.talk.id}")
        browser.until(lambda: len(browser.find_all("#list a.cue")) > 3, "the cues are there")
        for _ in range(3):
            browser.press("j")
        browser.wait_for("#list a.cue[aria-current]")

    def upload(self, browser: Browser) -> None:
        """Show uploads in progress, over a slow connection."""
        browser.open("/")
        browser.devtools("Network.enable")
        browser.devtools(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=5,
            downloadThroughput=-1,
            uploadThroughput=400_000,
        )
        browser.until(lambda: browser.find("#file[multiple]"), "files can be chosen").type(
            "\n".join(map(str, self.uploads))
        )
        browser.until(
            lambda: browser.script("return document.querySelector('#uploads-progress').value > 0.15"),
            "some of it is sent",
        )

    def failure_page(self, browser: Browser) -> None:
        """Show a job that has failed."""
        browser.open(f"/jobs/{self.failure.id}")
        browser.wait_for(".failed")

    def operate(self, browser: Browser) -> None:
        """Show the page of an admin."""
        browser.open("/operate")
        browser.wait_for("#models form")


def take(scene: Scene, gateway: GatewayProcess, work: Path, folder: Path) -> list[Path]:
    """Take all pictures and return them."""
    views: dict[str, Callable[[Browser], None]] = {
        "overview": scene.overview,
        "player": scene.player,
        "failure": scene.failure_page,
        "operate": scene.operate,
        "upload": scene.upload,
    }
    taken = []
    for device, scheme, language in product(SIZES, SCHEMES, LANGUAGES):
        with Browser(
            gateway.url,
            work / f"{device}-{scheme}-{language}",
            size=SIZES[device],
            scheme=scheme,
            language=LANGUAGES[language],
        ) as browser:
            browser.expect("Failed to load resource")
            for view, show in views.items():
                show(browser)
                name = f"{view}-{device}-{scheme}-{language}"
                if name in SHOWN:
                    shown = browser.screenshot(ROOT / "docs" / "images" / SHOWN[name])
                    if shown.stat().st_size > LIMIT_BYTES:
                        raise SystemExit(f"{shown} has {shown.stat().st_size} bytes, allowed: {LIMIT_BYTES}")
                taken.append(browser.screenshot(folder / f"{name}.png", is_whole=True))
                if view == "upload":
                    browser.click("#uploads-cancel")
    return taken


FIRST_VIEW = """
const [page] = performance.getEntriesByType('navigation');
const parts = performance.getEntriesByType('resource').filter((one) => !/[/](api|fragments)[/]/.test(one.name));
const bytes = [page, ...parts].reduce((sum, one) => sum + one.encodedBodySize, 0);
return [parts.length + 1, bytes, performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0, page.domContentLoadedEventEnd];
"""
"""Requests, bytes, time of the first paint, time when the scripts have run (modules do before `DOMContentLoaded`); in milliseconds."""


def measure(scene: Scene, gateway: GatewayProcess, work: Path) -> None:
    """Print the cost of a first view, in browsers with an empty cache."""
    print(f"{'first view':<12}{'requests':>9}{'bytes':>9}{'seen':>10}{'usable':>10}{'longest':>10}")
    for view, path in (("overview", "/"), ("player", f"/jobs/{scene.talk.id}")):
        visits = []
        for number in range(VISITS):
            with Browser(gateway.url, work / f"visit-{view}-{number}") as browser:
                browser.expect("Failed to load resource")
                browser.open(path)
                browser.until(
                    lambda: browser.script(
                        "return performance.getEntriesByName('first-contentful-paint').length"
                    ),
                    "something is painted",
                )
                visits.append(browser.script(FIRST_VIEW))
        requests, size, seen, usable = map(statistics.median, zip(*visits, strict=True))
        longest = max(visit[3] for visit in visits)
        print(f"{view:<12}{requests:>9.0f}{size:>9.0f}{seen:>7.0f} ms{usable:>7.0f} ms{longest:>7.0f} ms")


def main(argv: list[str]) -> int:
    """Run from the command line."""
    if why := missing():
        raise SystemExit(why)
    folder = Path(argv[0]) if argv else ROOT / "screenshots"
    for needed in (folder, ROOT / "docs" / "images"):
        needed.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="screenshots-") as name:
        work = Path(name)
        with (
            Daemon(work, pool=schema.PoolConfig(devices=("cpu", "cpu"), prepare_workers=1)) as daemon,
            GatewayProcess(daemon.start(), work / "gateway") as gateway,
        ):
            scene = Scene(daemon, gateway, work)
            taken = take(scene, gateway, work, folder)
            measure(scene, gateway, work)
    print(f"{len(taken)} pictures in {folder}, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
