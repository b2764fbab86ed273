"""The overview page with 10,000 jobs in a real browser: scrolled, filtered, sorted, selected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from browser import Browser
from daemon import Daemon
from gateway_process import GatewayProcess
from subtitled.core.actions import SaveJob, SaveNewJob
from subtitled.core.records import Job, Options
from subtitled.core.states import JobEvent, JobState
from subtitled.storage.store import Store
from webdriver import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.long]

JOBS = 10_000
FAILED = JOBS // 40
BATCH = 200
"""Jobs of one request of the page."""
LARGEST_VIEW_BYTES = 100_000
MOST_ROWS = 1_000
"""In the page at a time, however far it is scrolled."""
END, HOME = "\ue010", "\ue011"
ROWS = "return [...document.querySelectorAll(':is(#jobs, #more-jobs) .job')].map((row) => row.id)"
LAST_IN_SIGHT = """
const row = document.elementFromPoint(innerWidth / 3, innerHeight / 2)?.closest(".job");
return row && row.id;
"""


def jobs() -> Iterator[Job]:
    """Yield jobs that have ended, the oldest first."""
    for number in range(1, JOBS + 1):
        is_failed = number % 40 == 0
        yield Job(
            id=f"{number:016x}",
            state=JobState.FAILED if is_failed else JobState.CANCELLED,
            source=f"/films/season {number // 100}/Episode {number:05}.mkv".encode(),
            location=b"/films",
            size=10**8 + number,
            mtime_ns=1,
            options=Options(),
            order=number,
            language=("en", "zh", "ja")[number % 3],
            cause="no decoder" if is_failed else "",
            is_closed=True,
        )


def store_jobs(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    store = Store(str(folder / "subtitled.sqlite"))
    rows = list(jobs())
    for start in range(0, JOBS, 1000):
        part = rows[start : start + 1000]
        store.apply([SaveNewJob(replace(job, state=JobState.QUEUED)) for job in part])
        store.apply([SaveJob(job=job, before=JobState.QUEUED, event=JobEvent.CANCEL) for job in part])
    store.close()


def test_ten_thousand_jobs_are_scrolled_filtered_sorted_and_deleted(tmp_path: Path) -> None:
    """The page holds few rows at a time: how fast it is does not depend on the number of jobs."""
    with Daemon(tmp_path) as daemon:
        store_jobs(tmp_path / "state")
        daemon.start()
        with (
            GatewayProcess(daemon, tmp_path / "gateway") as gateway,
            Browser(gateway.url, tmp_path / "browser") as browser,
        ):
            browser.open("/")
            browser.wait_for("#jobs .job")
            loaded = browser.script(
                "return performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource'))"
                ".filter((one) => !one.name.includes('/fragments/')).map((one) => one.encodedBodySize)"
            )
            assert sum(loaded) < LARGEST_VIEW_BYTES

            def reaches_the_oldest() -> bool:
                browser.press(END)
                rows = browser.script(ROWS)
                assert len(rows) < MOST_ROWS
                return f"job-{1:016x}" in rows

            browser.until(reaches_the_oldest, "the oldest job is shown", 5 * 60)
            # Back to rows that were removed from the page.
            middle = f"job-{JOBS // 2:016x}"

            def reaches_the_middle() -> bool:
                browser.devtools(
                    "Input.dispatchMouseEvent", type="mouseWheel", x=400, y=400, deltaX=0, deltaY=-20_000
                )
                shown = browser.script(LAST_IN_SIGHT)
                return shown is not None and str(shown) > middle

            browser.until(reaches_the_middle, "a job in the middle is shown", 5 * 60)
            assert len(browser.script(ROWS)) < MOST_ROWS
            browser.press(HOME)
            browser.until(lambda: browser.script("return scrollY") == 0, "the page is at its start")

            browser.click("#select-page")
            # The newest one failed: it is listed above.
            browser.wait_for("#bulk-status", f"{JOBS - 1} selected")
            browser.click("summary", "More filters")
            browser.script(CHOOSE, "sort", "name")
            browser.script(CHOOSE, "language", "ja")
            browser.click("form.search button")
            browser.wait_for(f"#jobs #job-{2:016x}")
            assert browser.script(ROWS)[:2] == [f"job-{2:016x}", f"job-{5:016x}"]
            browser.open("/?state=failed")
            browser.click("#select-matching")
            browser.wait_for("#bulk-status", f"{FAILED} selected")
            browser.script("window.confirm = () => true")
            browser.script(FAIL_SECOND)
            browser.click("#bulk [value=delete]")
            browser.wait_for(
                "#bulk-status", f"{BATCH} of {FAILED} done; first error: The daemon does not respond"
            )
            browser.wait_until_gone("#bulk [value=delete]:disabled")
            browser.click("#bulk [value=delete]")
            left = FAILED - BATCH
            browser.wait_for("#bulk-status", f"{left} of {left} done")
            browser.wait_for(".tabs", "9,750")
        assert daemon.client.stats().jobs == {"cancelled": JOBS - FAILED}


CHOOSE = """
const field = document.querySelector(`form.search [name=${arguments[0]}]`);
field.value = arguments[1];
"""
FAIL_SECOND = """
const request = window.fetch;
let calls = 0;
window.fetch = (address, options) =>
  address === "/bulk" && ++calls === 2 ? Promise.reject(new TypeError("Failed to fetch")) : request(address, options);
"""
"""Makes the second request that acts on jobs fail."""
