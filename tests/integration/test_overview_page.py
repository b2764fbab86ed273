"""The overview page of a real gateway and daemon; the browser tests cover its scripts."""

from __future__ import annotations

import html
import io
import re
import zipfile
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
    """Upload a file that is not media; return the failed job."""
    job = str(http.post("/api/jobs", files={"file": (name, b"not media")}).json()["id"])
    eventually(
        lambda: daemon.client.status(job).state == "failed" and daemon.is_closed(job), "the job failed"
    )
    return job


# -- the frame ---------------------------------------------------------------------------------------------------


def test_every_response_has_security_headers(http: httpx.Client, daemon: Daemon) -> None:
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


def test_pages_contain_no_inline_script_or_style(http: httpx.Client, daemon: Daemon) -> None:
    """The Content-Security-Policy would block them."""
    job = failed(http, daemon, "inline.mp3")
    for path in ("/", f"/jobs/{job}", "/jobs/nosuch"):
        page = http.get(path).text
        assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page) == []


def test_versioned_static_files_are_immutable_and_revalidate_with_304(http: httpx.Client) -> None:
    page = http.get("/").text
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert {address.partition("?")[0] for address in addresses} >= {"/static/page.css", "/static/page.js"}
    for address in addresses:
        answer = http.get(address)
        assert "immutable" in answer.headers["cache-control"]
        again = http.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert http.get("/static/live_update.js").headers["cache-control"] == "no-cache"


def test_every_imported_script_module_exists(http: httpx.Client) -> None:
    waiting, seen = ["page.js"], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        script = http.get(f"/static/{name}")
        assert script.status_code == 200, name
        assert script.headers["content-type"].startswith("text/javascript")
        waiting += [other for other in re.findall(r'from "\./([\w.]+)"', script.text) if other not in seen]


def test_the_page_uses_the_chosen_language_or_the_one_the_browser_prefers(http: httpx.Client) -> None:
    assert '<html lang="en">' in http.get("/").text
    assert '<html lang="zh-Hant">' in http.get("/", headers=CHINESE).text
    assert '<html lang="zh-Hant">' in http.get("/?lang=zh-Hant").text
    assert '<html lang="zh-Hant">' in http.get("/jobs/nosuch").text, "the choice is stored in a cookie"
    assert '<html lang="en">' in http.get("/?lang=en", headers=CHINESE).text
    assert '<html lang="en">' in http.get("/?lang=tlh", headers=CHINESE).text


def test_an_unknown_address_gets_an_error_page(http: httpx.Client) -> None:
    for path in ("/jobs/nosuch", "/jobs/a/b/c"):
        answer = http.get(path)
        assert (answer.status_code, "Page not found" in answer.text) == (404, True)
    assert http.get("/api/nosuch").headers["content-type"] == "application/json"
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = http.get("/nosuch", headers=browser)
    assert (answer.status_code, "Page not found" in answer.text) == (404, True)
    assert http.get("/nosuch").headers["content-type"] == "application/json"
    assert http.get("/api/nosuch", headers=browser).headers["content-type"] == "application/json"


def test_the_api_reference_lists_every_operation(http: httpx.Client) -> None:
    page = http.get("/docs").text
    paths = http.get("/api/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert f"{method.upper()}</span> {path}" in page
            assert html.escape(operation["summary"], quote=False) in html.unescape(page)
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert links <= set(re.findall(r'id="([^"]+)"', page)) | {"main"}


def test_an_unchanged_fragment_is_answered_with_304(http: httpx.Client) -> None:
    assert "<html" not in http.get("/fragments/overview").text

    def is_known() -> bool:
        tag = http.get("/fragments/overview").headers["etag"]
        answer = http.get("/fragments/overview", headers={"If-None-Match": tag})
        return answer.status_code == 304 and not answer.content

    eventually(is_known, "the fragment is unchanged")


# -- the overview ------------------------------------------------------------------------------------------------


def test_the_overview_page_loads_less_than_100_kb(http: httpx.Client, daemon: Daemon) -> None:
    """The page with a full list, its style, scripts and icon, uncompressed."""
    fill(http, daemon)
    page = http.get("/").text
    assert len(re.findall(r'class="job[ "]', page)) >= 40
    names = {path.name for path in STATIC.iterdir()}
    loaded = {name for name in names if f"/static/{name}" in page}
    for name in [name for name in loaded if name.endswith(".js")]:
        loaded |= imported(name)
    sizes = {name: len(http.get(f"/static/{name}").content) for name in loaded}
    assert len(page.encode()) + sum(sizes.values()) < 100_000, sizes


def imported(name: str) -> set[str]:
    """Return a module and all that it imports."""
    found = set(re.findall(r'from "\./([\w.]+)"', (STATIC / name).read_text("utf-8")))
    return {name}.union(*map(imported, found))


def shown(http: httpx.Client, path: str, text: str) -> str | None:
    """Return a page if it contains a text."""
    page = http.get(path).text
    return page if text in page else None


def fill(http: httpx.Client, daemon: Daemon) -> None:
    """Create more jobs than one page shows."""
    for number in range(len(daemon.client.list(name="many-")), 53):
        http.post("/api/jobs", params={"name": f"Many-{number:02}.mp3"}, content=b"not media %d" % number)
    eventually(lambda: not daemon.client.list(("receiving", "queued", "preparing")), "all have failed")


def test_jobs_are_paged_and_filtered_by_state_and_name(http: httpx.Client, daemon: Daemon) -> None:
    fill(http, daemon)
    first = http.get("/", params={"state": "failed", "name": "many-"}).text
    shown = re.findall(r"Many-(\d\d)\.mp3</a>", first)
    assert shown == [f"{number:02}" for number in range(52, 12, -1)]
    [older] = re.findall(r'href="(/\?[^"]*before=[^"]+)"', first)
    second = http.get(html.unescape(older)).text
    assert re.findall(r"Many-(\d\d)\.mp3</a>", second) == [f"{number:02}" for number in range(12, -1, -1)]
    assert "Newest files" in second
    assert "No matching files" in http.get("/", params={"name": "no file has this name"}).text
    # Invalid values are ignored.
    assert (
        http.get("/", params={"state": "dreaming", "before": "", "name": " "}).text.count("aria-current") == 2
    )
    value = '"><script>alert(1)'
    assert "<script>alert" not in http.get("/", params={"name": value, "before": value, "state": value}).text


def test_failed_jobs_show_their_reason_and_can_all_be_retried(http: httpx.Client, daemon: Daemon) -> None:
    jobs = [failed(http, daemon, f"reason-{number}.mp3") for number in range(2)]
    page = eventually(partial(shown, http, "/", f"/jobs/{jobs[-1]}/retry"), "the job is shown")
    failures = page[page.index('id="failures"') : page.index('id="list"')]
    # A file that is not media is its user's mistake: it is listed, but not an alarm.
    assert not re.search(r"\d+ files? failed in the last 24 hours", page)
    assert "is not media that FFmpeg can read" in failures
    assert all(f'action="/jobs/{job}/retry"' in failures for job in jobs)
    before = [len(daemon.client.status(job).history) for job in jobs]
    answer = http.post("/retry-failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert all(
        len(daemon.client.status(job).history) > count for job, count in zip(jobs, before, strict=True)
    )


def test_running_jobs_show_their_worker_and_progress(
    http: httpx.Client, daemon: Daemon, tmp_path: Path
) -> None:
    long = media.write_sound(tmp_path / "now.flac", media.recording())
    job = http.post("/api/jobs", files={"file": ("now.flac", long.read_bytes())}).json()["id"]

    def is_shown() -> bool:
        part = http.get("/fragments/overview").text
        assert daemon.client.status(job).state not in ENDED
        worker = part[part.index('id="worker-cpu0"') : part.index('id="decoders"')]
        row = part.partition(f'id="job-{job}"')[2].partition("</li>")[0]
        return f'href="/jobs/{job}"' in worker and "<progress" in row

    eventually(is_shown, "the worker shows the job, and the job has a progress bar")
    http.post(f"/jobs/{job}/cancel")


def test_the_queue_is_shown_in_its_order_which_can_be_changed_while_it_is_paused(
    http: httpx.Client, daemon: Daemon
) -> None:
    daemon.client.operate(is_paused=True)
    try:
        names = [f"ordered-{number}.wav" for number in range(3)]
        jobs = [
            http.post("/api/jobs", params={"name": name}, content=name.encode()).json()["id"]
            for name in names
        ]
        eventually(lambda: daemon.client.stats().jobs.get("queued") == 3, "all wait")

        def order() -> list[str]:
            page = http.get("/", params={"state": "running", "name": "ordered-"}).text
            assert "waiting (1st)" in page
            return re.findall(r'id="job-(\w+)"', page)

        assert order() == jobs
        # The page is at most a second old.
        eventually(lambda: "The queue is paused" in http.get("/").text, "the page shows the pause")
        moved = http.post(f"/jobs/{jobs[2]}/move", data={"before": jobs[0]})
        assert moved.json() == {"id": jobs[2], "priority": 0}
        assert order() == [jobs[2], jobs[0], jobs[1]]
        form = {"action": "priority", "priority": "50", "job": [jobs[1]]}
        answer = http.post("/bulk", data=form, headers={"Accept": "application/json"}).json()
        assert answer == {"total": 1, "done": 1, "errors": []}
        assert order() == [jobs[1], jobs[2], jobs[0]]
        http.post(f"/jobs/{jobs[2]}/move", data={"after": jobs[1]})
        assert daemon.client.status(jobs[2]).priority == 50
        refused = http.post(
            f"/jobs/{jobs[2]}/move", data={"after": "nosuch"}, headers={"Accept-Language": "zh-TW"}
        )
        assert refused.status_code == 404
    finally:
        daemon.client.operate(is_paused=False)
    daemon.wait_for_jobs(len(daemon.jobs()))


def test_jobs_are_filtered_by_their_properties_and_sorted(
    http: httpx.Client, daemon: Daemon, talk: Path
) -> None:
    names = ["filter-b.wav", "filter-a.wav"]
    tags = ["Season 1/Extras/", "other"]
    for name, tag in zip(names, tags, strict=True):
        params = {"name": name, "tag": tag, "language": "en"}
        http.post("/api/jobs", params=params, content=talk.read_bytes() + name.encode())
    daemon.wait_for_jobs(len(daemon.jobs()))

    def found(**query: str) -> list[str]:
        page = http.get("/", params={"name": "filter-", **query}).text
        return re.findall(r"filter-(\w)\.wav</a>", page)

    assert found() == ["a", "b"]
    assert found(sort="oldest") == ["b", "a"]
    assert found(sort="name") == ["a", "b"]
    assert found(tag="other") == ["a"]
    assert found(language="en") == ["a", "b"]
    assert (
        found(language="German")
        == found(model="none")
        == found(inbox="/none")
        == found(damage="damaged")
        == []
    )
    assert found(damage="unheard") == []
    assert "Season 1/Extras/" in http.get("/", params={"name": "filter-"}).text
    matching = http.get("/bulk/matching", params={"name": "filter-"}).json()["jobs"]
    packed = http.post("/download", data={"job": matching, "format": "srt"})
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert set(archive.namelist()) == {"Season 1/Extras/filter-b.en.srt", "filter-a.en.srt"}


def test_dismissed_failures_are_not_shown_again(http: httpx.Client, daemon: Daemon) -> None:
    jobs = [failed(http, daemon, f"dismissed-{number}.mp3") for number in range(2)]
    page = eventually(partial(shown, http, "/", f'id="failed-{jobs[1]}"'), "the failure is shown")
    assert http.post(f"/jobs/{jobs[1]}/dismiss").headers["location"] == f"/jobs/{jobs[1]}"
    page = http.get("/").text
    assert (f'id="failed-{jobs[0]}"' in page, f'id="failed-{jobs[1]}"' in page) == (True, False)
    (until,) = re.findall(r'<input type="hidden" name="until" value="(\d+)">', page)
    later = failed(http, daemon, "after-the-page.mp3")
    http.post("/dismiss-failed", data={"until": until})
    page = eventually(partial(shown, http, "/", f'id="failed-{later}"'), "the later failure is shown")
    assert re.findall(r'id="failed-(\w+)"', page) == [later], "the page did not show it: it stays"
    http.post("/dismiss-failed", data={"until": str(daemon.client.status(later).ended_ms)})
    assert 'id="failures"' not in http.get("/").text
    with httpx.Client(base_url=http.base_url) as other:
        assert 'id="failures"' not in other.get("/").text, "it is dismissed for all browsers"
    daemon.client.retry(jobs[0])
    eventually(partial(shown, http, "/", f'id="failed-{jobs[0]}"'), "the next failure is shown")
    assert http.post(f"/api/jobs/{jobs[0]}/dismiss").json()["is_dismissed"]
    eventually(lambda: 'id="failures"' not in http.get("/").text, "no failure is shown")


# -- forms -------------------------------------------------------------------------------------------------------


def test_upload_retry_and_cancel_work_without_scripts(
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


def test_a_form_with_too_many_fields_is_refused(http: httpx.Client) -> None:
    answer = http.post("/bulk", content="job=x&" * 20_001, headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["message"]) == (413, "the form has more than 20000 fields")


def test_several_jobs_are_retried_cancelled_and_deleted_at_once(http: httpx.Client, daemon: Daemon) -> None:
    jobs = [failed(http, daemon, f"bulk-{number}.mp3") for number in range(3)]
    scripted = {"Accept": "application/json"}
    before = [len(daemon.client.status(job).history) for job in jobs]
    answer = http.post("/bulk", data={"action": "retry", "job": jobs[:2]}, headers=scripted)
    assert answer.json() == {"total": 2, "done": 2, "errors": []}
    eventually(lambda: all(daemon.is_closed(job) for job in jobs), "all have failed again")
    after = [len(daemon.client.status(job).history) for job in jobs]
    assert [more > count for more, count in zip(after, before, strict=True)] == [True, True, False]
    cancelled = http.post("/bulk", data={"action": "cancel", "job": jobs[0]}, headers=scripted).json()
    assert (cancelled["total"], cancelled["done"], len(cancelled["errors"])) == (1, 0, 1)
    page = http.post(
        "/bulk", data={"action": "delete", "job": jobs[0]}, headers={"Referer": f"{http.base_url}/?name=bulk"}
    )
    assert (page.status_code, page.headers["location"]) == (303, "/?name=bulk")
    matching = http.get("/bulk/matching", params={"name": "bulk-", "state": "failed"}).json()["jobs"]
    assert matching == [jobs[2], jobs[1]]
    answer = http.post("/bulk", data={"action": "delete", "job": matching}, headers=scripted)
    assert answer.json() == {"total": 2, "done": 2, "errors": []}
    assert daemon.client.list(name="bulk-") == ()
    refused = http.post("/bulk", data={"action": "retry"}, headers=scripted)
    assert (refused.status_code, refused.json()["message"]) == (400, "no file is selected")
    assert "The request failed" in http.post("/bulk", data={"action": "retry"}).text
    without_referer = http.post("/bulk", data={"action": "cancel", "job": "nosuch"})
    assert (without_referer.status_code, without_referer.headers.get("location")) == (303, "/")
    assert http.post("/bulk", data={"action": "explode", "job": "x"}).status_code == 400
    assert http.get("/bulk").status_code == 405


def test_subtitles_of_several_jobs_are_downloaded_as_zip(
    http: httpx.Client, daemon: Daemon, talk: Path
) -> None:
    jobs = []
    for seconds in (4, 5):
        job = daemon.client.submit(media.write_sound(talk.parent / "zipped.wav", media.speech(seconds)))
        job.wait(WAIT_S)
        jobs.append(job.id)
    broken = failed(http, daemon, "not-in-zip.mp3")
    answer = http.post("/download", data={"job": [*jobs, broken], "format": ["srt", "vtt"]})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = {f"zipped{number}.en.{form}" for number in ("", " (2)") for form in ("srt", "vtt")}
        assert set(archive.namelist()) == names | {"errors.txt"}
        assert archive.read("zipped (2).en.vtt") == daemon.client.fetch(jobs[1], "vtt")[1]
        assert broken in archive.read("errors.txt").decode()


def test_get_requests_change_nothing(http: httpx.Client, daemon: Daemon) -> None:
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
def test_forms_of_other_sites_are_rejected(
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


def test_links_from_other_sites_are_allowed(http: httpx.Client) -> None:
    assert http.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_file_names_are_escaped(http: httpx.Client, daemon: Daemon) -> None:
    name = "<script>alert(1)\"'&.mp3"
    job = failed(http, daemon, name)
    for path in ("/", f"/jobs/{job}", "/fragments/overview"):
        page = eventually(partial(shown, http, path, "&lt;script&gt;alert(1)"), "the job is shown")
        assert "<script>alert" not in page


# -- access and availability -----------------------------------------------------------------------


def test_a_browser_signs_in_with_a_token_and_only_an_admin_operates(daemon: Daemon, tmp_path: Path) -> None:
    admin, user = "correct-horse-battery", "wrong-horse-battery"
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{admin}\n{user} user\n", "utf-8")
    tokens.chmod(0o600)
    with (
        GatewayProcess(daemon, tmp_path / "gateway", token_file=str(tokens)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        answer = http.get("/?state=done", headers=CHINESE)
        assert (answer.status_code, "登入" in answer.text) == (401, True)
        assert 'name="next" value="/?state=done"' in answer.text
        assert "www-authenticate" not in answer.headers, "the browser would show its own form"
        assert http.get(re.findall(r'href="(/static/page.css[^"]*)"', answer.text)[0]).status_code == 200
        assert "Basic" in http.get("/api/stats").headers["www-authenticate"]
        scripted = http.get("/api/stats", headers={"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"})
        assert scripted.headers["www-authenticate"] == 'Bearer realm="subtitled"', "no form over the page"
        wrong = http.post("/sign-in", data={"token": "not a token"})
        assert (wrong.status_code, "Unknown token" in wrong.text) == (401, True)
        foreign = http.post("/sign-in", data={"token": admin}, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403

        signed_in = http.post("/sign-in", data={"token": user, "next": "/?state=done"})
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/?state=done")
        assert {"httponly", "samesite=lax", "path=/"} <= {
            part.strip().lower() for part in signed_in.headers["set-cookie"].split(";")
        }
        assert user not in signed_in.headers["set-cookie"]
        page = http.get("/").text
        assert ("Sign out" in page, 'href="/operate"' in page) == (True, False)
        own = {"Origin": gateway.url}
        assert http.get("/operate").status_code == 403
        assert http.post("/operate", data={"is_paused": "true"}, headers=own).status_code == 403
        bearer = {"Authorization": f"Bearer {user}"}
        assert http.get("/api/operate", headers=bearer).status_code == 403
        for change in ({"is_paused": True}, {"load_model": "demo"}, {"unload_model": "demo"}):
            assert http.post("/api/operate", json=change, headers=bearer).status_code == 403
        # The cookie alone is not enough for a change that another site could have caused.
        for headers in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            assert http.post("/dismiss-failed", headers=headers).status_code == 403
        for path in ("/api/jobs/x/dismiss", "/jobs/x/dismiss", "/bulk", "/sign-out", "/api/jobs"):
            assert http.post(path, headers={"Origin": "https://evil.example"}).status_code == 403
        for method in ("PUT", "DELETE"):
            answer = http.request(method, "/api/jobs/x/cues", headers={"Sec-Fetch-Site": "same-site"})
            assert answer.status_code == 403
        assert http.post("/dismiss-failed", headers=own, data={"until": "0"}).status_code == 303
        assert http.post("/sign-out", headers=own).status_code == 303
        assert http.get("/").status_code == 401

        for target in ("//evil.example/", "https://evil.example/", "/\\evil.example", "/sign-in"):
            answer = http.post("/sign-in", data={"token": admin, "next": target})
            assert answer.headers["location"] == "/"
        assert http.get("/").status_code == 200
        cookie = http.cookies["subtitled_session"]
        session, end, signature = cookie.split(".")
        for forged in (f"{session}.9{end}.{signature}", f"{session}.{end}.{'0' * 64}", "a.b.c", "..", "x"):
            headers = {"Cookie": f"subtitled_session={forged}"}
            with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as other:
                assert other.get("/", headers=headers).status_code == 401
        tokens.write_text(f"{user} user\n", "utf-8")
        gateway.stop()
        gateway.start()
        assert http.get("/").status_code == 401, "a session ends with its token"
        assert http.get("/", auth=("any", user)).status_code == 200
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert http.post("/jobs/x/retry", auth=("any", user), headers=cross).status_code == 403


def test_an_admin_pauses_the_queue_sets_the_log_level_and_reads_the_log(
    http: httpx.Client, daemon: Daemon
) -> None:
    try:
        page = http.get("/operate").text
        assert all(
            text in page for text in ("Pause the queue", "state.reserve_mb", "Disk and retention", " load")
        )
        assert http.post("/operate", data={"is_paused": "true"}).headers["location"] == "/operate"
        assert daemon.client.stats().is_paused
        assert "Resume the queue" in http.get("/operate").text
        # The page is at most a second old.
        eventually(lambda: "The queue is paused" in http.get("/").text, "the page shows the pause")
        assert "佇列已暫停" in http.get("/?lang=zh-Hant").text
        assert "queue.paused" in http.get("/fragments/operate", params={"log_text": "QUEUE.paused"}).text
        assert "queue.paused" not in http.get("/fragments/operate", params={"log_level": "error"}).text
        answer = http.post("/api/operate", json={"is_paused": False, "log_level": "debug"}).json()
        assert (answer["is_paused"], answer["log_level"]) == (False, "debug")
        lines = http.get("/api/operate", params={"log_lines": 5, "log_text": "queue."}).json()["log"]
        assert "queue.resumed" in lines[-1]
        assert http.post("/operate", data={"log_level": "loud"}).status_code == 400
        assert http.post("/api/operate", json={"speed": 1}).status_code == 400
        assert http.get("/api/operate", params={"log_lines": "1001"}).status_code == 400
    finally:
        daemon.client.operate(is_paused=False)
        daemon.client.set_log_level("info")
        http.get("/?lang=en")


def test_a_page_reports_an_unavailable_daemon_and_recovers(tmp_path: Path) -> None:
    with (
        Daemon(tmp_path) as daemon,
        GatewayProcess(daemon.start(), tmp_path / "gateway") as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http,
    ):
        eventually(lambda: http.get("/").status_code == 200, "the page is available")
        daemon.stop()
        eventually(lambda: http.get("/fragments/overview").status_code == 503, "the fragment is unavailable")
        for path in ("/", "/jobs/x"):
            answer = http.get(path)
            assert (answer.status_code, "The daemon does not respond" in answer.text) == (503, True)
            assert "data-reload-when-back" in answer.text, (
                "the script reloads the page when the daemon is back"
            )
        daemon.start()
        eventually(lambda: http.get("/fragments/overview").status_code == 200, "the fragment is available")
        assert http.get("/").status_code == 200
