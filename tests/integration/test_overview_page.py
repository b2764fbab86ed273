"""The page, by a real gateway before a real daemon; what scripts do with it is looked at in a browser."""

from __future__ import annotations

import html
import re
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest

import media
from daemon import ENDED, Daemon, eventually
from gateway_process import GatewayProcess
from subtitled.web.app import OTHER_POLICY, PAGE_POLICY

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 120.0
STATIC = Path(str(files("subtitled.web") / "static"))
CHINESE = {"Accept-Language": "zh-TW,zh;q=0.9"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running.start()


@pytest.fixture(scope="module")
def gateway(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(daemon, tmp_path_factory.mktemp("gateway"), max_upload_mb=64) as running:
        yield running


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media.write_sound(tmp_path_factory.mktemp("media") / "talk.wav", media.speech(4))


@pytest.fixture
def http(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as client:
        yield client


def failed(http: httpx.Client, daemon: Daemon, name: str) -> str:
    """Send what is no media; give the job, which has failed for good."""
    job = str(http.post("/api/jobs", files={"file": (name, b"not media")}).json()["id"])
    eventually(lambda: daemon.client.status(job).state == "failed" and daemon.is_closed(job), "it failed")
    return job


# -- the frame ---------------------------------------------------------------------------------------------------


def test_every_answer_tells_the_browser_what_it_must_not_do(http: httpx.Client, daemon: Daemon) -> None:
    job = failed(http, daemon, "headers.mp3")
    asked = ["/", f"/jobs/{job}", "/jobs/nosuch", "/fragments/overview", "/static/page.css", "/static/nosuch"]
    asked += ["/api/jobs", "/api/stats", "/v1/models", f"/api/jobs/{job}/result", "/nosuch"]
    for path in asked:
        answer = http.get(path)
        is_page = answer.headers["content-type"].startswith("text/html")
        assert answer.headers["content-security-policy"] == (PAGE_POLICY if is_page else OTHER_POLICY), path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    refused = http.get("/", headers={"Host": "evil.example"})
    assert (refused.status_code, refused.headers["content-security-policy"]) == (403, PAGE_POLICY)


def test_a_page_holds_no_script_or_style_of_its_own(http: httpx.Client, daemon: Daemon) -> None:
    """The policy would not let them work."""
    job = failed(http, daemon, "inline.mp3")
    for path in ("/", f"/jobs/{job}", "/jobs/nosuch"):
        page = http.get(path).text
        assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page) == []


def test_files_may_be_kept_for_good_under_the_address_that_a_page_gives_them(http: httpx.Client) -> None:
    page = http.get("/").text
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert {address.partition("?")[0] for address in addresses} >= {"/static/page.css", "/static/page.js"}
    for address in addresses:
        answer = http.get(address)
        assert "immutable" in answer.headers["cache-control"]
        again = http.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert http.get("/static/live_update.js").headers["cache-control"] == "no-cache"


def test_each_module_that_a_script_names_is_there(http: httpx.Client) -> None:
    waiting, seen = ["page.js"], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        script = http.get(f"/static/{name}")
        assert script.status_code == 200, name
        assert script.headers["content-type"].startswith("text/javascript")
        waiting += [other for other in re.findall(r'from "\./([\w.]+)"', script.text) if other not in seen]


def test_the_page_speaks_the_language_of_the_browser_or_the_one_that_was_chosen(http: httpx.Client) -> None:
    assert '<html lang="en">' in http.get("/").text
    assert '<html lang="zh-Hant">' in http.get("/", headers=CHINESE).text
    assert '<html lang="zh-Hant">' in http.get("/?lang=zh-Hant").text
    assert '<html lang="zh-Hant">' in http.get("/jobs/nosuch").text, "the choice is remembered"
    assert '<html lang="en">' in http.get("/?lang=en", headers=CHINESE).text
    assert '<html lang="en">' in http.get("/?lang=tlh", headers=CHINESE).text


def test_a_page_that_is_not_there_says_so_in_words(http: httpx.Client) -> None:
    for path in ("/jobs/nosuch", "/jobs/a/b/c"):
        answer = http.get(path)
        assert (answer.status_code, "Page not found" in answer.text) == (404, True)
    assert http.get("/api/nosuch").headers["content-type"] == "application/json"


def test_a_part_that_has_not_changed_is_not_sent_again(http: httpx.Client) -> None:
    assert "<html" not in http.get("/fragments/overview").text

    def is_known() -> bool:
        tag = http.get("/fragments/overview").headers["etag"]
        answer = http.get("/fragments/overview", headers={"If-None-Match": tag})
        return answer.status_code == 304 and not answer.content

    eventually(is_known, "nothing has changed in between")


# -- the overview ------------------------------------------------------------------------------------------------


def test_the_first_view_takes_less_than_100_kb(http: httpx.Client, daemon: Daemon) -> None:
    """The page with a full list, its style, all scripts that it loads, its icon; as they are, nothing compressed."""
    fill(http, daemon)
    page = http.get("/").text
    assert page.count('class="job"') >= 50
    names = {path.name for path in STATIC.iterdir()}
    loaded = {name for name in names if f"/static/{name}" in page}
    for name in [name for name in loaded if name.endswith(".js")]:
        loaded |= imported(name)
    sizes = {name: len(http.get(f"/static/{name}").content) for name in loaded}
    assert len(page.encode()) + sum(sizes.values()) < 100_000, sizes


def imported(name: str) -> set[str]:
    """Give a module and all that it imports."""
    found = set(re.findall(r'from "\./([\w.]+)"', (STATIC / name).read_text("utf-8")))
    return {name}.union(*map(imported, found))


def shown(http: httpx.Client, path: str, text: str) -> str | None:
    """Give a page if it has a text."""
    page = http.get(path).text
    return page if text in page else None


def fill(http: httpx.Client, daemon: Daemon) -> None:
    """See to it that there are more jobs than one page shows."""
    for number in range(len(daemon.client.list(name="many-")), 53):
        http.post("/api/jobs", params={"name": f"Many-{number:02}.mp3"}, content=b"not media %d" % number)
    eventually(lambda: not daemon.client.list(("receiving", "queued", "preparing")), "all have failed")


def test_jobs_are_shown_page_by_page_by_state_and_by_name(http: httpx.Client, daemon: Daemon) -> None:
    fill(http, daemon)
    first = http.get("/", params={"state": "failed", "name": "many-"}).text
    shown = re.findall(r"Many-(\d\d)\.mp3</a>", first)
    assert shown == [f"{number:02}" for number in range(52, 2, -1)]
    [older] = re.findall(r'href="(/\?[^"]*before=[^"]+)"', first)
    second = http.get(html.unescape(older)).text
    assert re.findall(r"Many-(\d\d)\.mp3</a>", second) == ["02", "01", "00"]
    assert "Newest files" in second
    assert "No matching files" in http.get("/", params={"name": "nobody has this in its name"}).text
    # What nobody can want is everything.
    assert (
        http.get("/", params={"state": "dreaming", "before": "", "name": " "}).text.count("aria-current") == 2
    )
    value = '"><script>alert(1)'
    assert "<script>alert" not in http.get("/", params={"name": value, "before": value, "state": value}).text


def test_what_failed_is_told_with_its_reason_and_all_of_it_is_tried_again(
    http: httpx.Client, daemon: Daemon
) -> None:
    jobs = [failed(http, daemon, f"reason-{number}.mp3") for number in range(2)]
    page = eventually(partial(shown, http, "/", f"/jobs/{jobs[-1]}/retry"), "it is shown")
    failures = page[page.index('id="failures"') : page.index('id="list"')]
    assert re.search(r"\d+ files failed in the last 24 hours", page)
    assert "is not media that FFmpeg can read" in failures
    assert all(f'action="/jobs/{job}/retry"' in failures for job in jobs)
    before = [len(daemon.client.status(job).history) for job in jobs]
    answer = http.post("/retry-failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert all(
        len(daemon.client.status(job).history) > count for job, count in zip(jobs, before, strict=True)
    )


def test_what_is_done_now_is_told(http: httpx.Client, daemon: Daemon, tmp_path: Path) -> None:
    long = media.write_sound(tmp_path / "now.flac", media.recording())
    job = http.post("/api/jobs", files={"file": ("now.flac", long.read_bytes())}).json()["id"]

    def is_told() -> bool:
        part = http.get("/fragments/overview").text
        assert daemon.client.status(job).state not in ENDED
        worker = part[part.index('id="worker-cpu0"') : part.index('id="decoders"')]
        row = part.partition(f'id="job-{job}"')[2].partition("</li>")[0]
        return f'href="/jobs/{job}"' in worker and "<progress" in row

    eventually(is_told, "a worker says what it does, and the job has its bar")
    http.post(f"/jobs/{job}/cancel")


# -- forms -------------------------------------------------------------------------------------------------------


def test_a_file_is_sent_and_a_job_retried_and_cancelled_without_script(
    http: httpx.Client, daemon: Daemon, talk: Path, tmp_path: Path
) -> None:
    sent = http.post("/upload", data={"language": "en"}, files={"file": ("form.wav", talk.read_bytes())})
    assert sent.status_code == 303
    page = http.get(sent.headers["location"])
    assert (page.status_code, "form.wav" in page.text) == (200, True)
    job = failed(http, daemon, "retried.mp3")
    before = len(daemon.client.status(job).history)
    answer = http.post(f"/jobs/{job}/retry", headers={"Referer": f"{http.base_url}/?state=failed"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?state=failed")
    assert len(daemon.client.status(job).history) > before
    long = media.write_sound(tmp_path / "long.flac", media.recording())
    job = http.post("/api/jobs", files={"file": ("cancelled.flac", long.read_bytes())}).json()["id"]
    answer = http.post(f"/jobs/{job}/cancel", headers={"Referer": "https://evil.example/"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job}")
    assert daemon.client.status(job).state == "cancelled"
    refused = http.post(f"/jobs/{job}/cancel")
    assert (refused.status_code, "The request failed" in refused.text) == (409, True)


def test_reading_a_page_changes_nothing(http: httpx.Client, daemon: Daemon) -> None:
    job = failed(http, daemon, "unchanged.mp3")
    for what in ("retry", "cancel"):
        assert http.get(f"/jobs/{job}/{what}").status_code == 405
    assert http.get("/upload").status_code == 405
    assert daemon.client.status(job).state == "failed"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_of_somebody_elses_page_is_turned_away(
    http: httpx.Client, daemon: Daemon, headers: dict[str, str]
) -> None:
    job = failed(http, daemon, "theirs.mp3")
    for path in (f"/jobs/{job}/retry", f"/api/jobs/{job}/retry"):
        assert http.post(path, headers=headers).status_code == 403
    file = {"file": ("theirs.wav", b"x")}
    assert http.post("/upload", files=file, headers=headers).status_code == 403
    assert daemon.client.status(job).state == "failed"
    ours = {"Origin": str(http.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert http.post(f"/jobs/{job}/retry", headers=ours).status_code == 303


def test_a_link_of_somebody_elses_page_may_lead_here(http: httpx.Client) -> None:
    assert http.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_names_of_files_stay_text(http: httpx.Client, daemon: Daemon) -> None:
    name = "<script>alert(1)\"'&.mp3"
    job = failed(http, daemon, name)
    for path in ("/", f"/jobs/{job}", "/fragments/overview"):
        page = eventually(partial(shown, http, path, "&lt;script&gt;alert(1)"), "it is shown")
        assert "<script>alert" not in page


# -- who may look, and a daemon that is away -----------------------------------------------------------------------


def test_a_browser_asks_for_the_token_by_itself(daemon: Daemon, tmp_path: Path) -> None:
    token = "correct-horse-battery"  # noqa: S105 - one for this test
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{token}\n", "utf-8")
    tokens.chmod(0o600)
    with (
        GatewayProcess(daemon, tmp_path / "gateway", token_file=str(tokens)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        answer = http.get("/", headers=CHINESE)
        assert (answer.status_code, "需要存取權杖" in answer.text) == (401, True)
        assert answer.headers["www-authenticate"].startswith('Basic realm="subtitled"')
        assert http.get("/", auth=("anybody", token)).status_code == 200
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert http.post("/jobs/x/retry", auth=("anybody", token), headers=cross).status_code == 403


def test_a_page_whose_daemon_is_away_says_so_and_heals(tmp_path: Path) -> None:
    with (
        Daemon(tmp_path) as daemon,
        GatewayProcess(daemon.start(), tmp_path / "gateway") as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        eventually(lambda: http.get("/").status_code == 200, "all is well")
        daemon.stop()
        eventually(lambda: http.get("/fragments/overview").status_code == 503, "it says so")
        for path in ("/", "/jobs/x"):
            answer = http.get(path)
            assert (answer.status_code, "The daemon does not respond" in answer.text) == (503, True)
            assert "data-reload-when-back" in answer.text, "by which the script knows to come back"
        daemon.start()
        eventually(lambda: http.get("/fragments/overview").status_code == 200, "it has healed")
        assert http.get("/").status_code == 200
