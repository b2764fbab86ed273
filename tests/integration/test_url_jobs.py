"""Jobs whose files the daemon downloads, from a real HTTP server on this machine."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

import media
from browser import Browser
from daemon import Daemon, eventually
from gateway_process import GatewayProcess
from subtitle import ServerError
from subtitled.config import schema
from webdriver import missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from subtitle.messages import JobFacts

pytest.importorskip("yt_dlp")
WAIT_S = 120.0
MIB = 2**20


class Site:
    """A web server with media; requests for some of its paths do not end until `release` is called."""

    def __init__(self, talk: bytes) -> None:
        self.talk = talk
        self.requests: list[tuple[str, str]] = []
        """Path and `Range` of each request."""
        self.is_released = threading.Event()
        self.is_closed = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.requests.append((self.path, self.headers.get("Range", "")))
                try:
                    site.answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the address of a path."""
        return f"http://{host}:{self.port}{path}"

    def close(self) -> None:
        """End all responses and stop."""
        self.is_closed.set()
        self.is_released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: Any) -> None:
        """Answer a request by its path."""
        path = request.path.partition("?")[0]
        match path:
            case "/talk.flac" | "/My%20talk%20%2F%20part%201.flac":
                self._send_file(request)
            case "/held.flac":
                self._send_file(request, is_held=True)
            case "/endless.flac":
                self._start(request, {"Content-Type": "audio/flac", "Connection": "close"})
                while not self.is_closed.is_set():
                    request.wfile.write(self.talk)
            case "/huge.flac":
                self._start(request, {"Content-Type": "audio/flac", "Content-Length": str(2**40)})
                request.wfile.write(self.talk)
                self.is_closed.wait()
            case "/later.flac" if self.is_released.is_set():
                self._send_file(request)
            case "/to-metadata":
                self._redirect(request, "http://169.254.169.254/latest/meta-data/")
            case "/to-loopback":
                self._redirect(request, self.url("/talk.flac", "[::ffff:127.0.0.2]"))
            case "/to-file":
                self._redirect(request, "file:///etc/passwd")
            case "/list.rss":
                items = "".join(f"<item><enclosure url='{self.url('/talk.flac')}'/></item>" for _ in range(3))
                body = f"<?xml version='1.0'?><rss version='2.0'><channel><title>a</title>{items}</channel></rss>"
                self._start(
                    request, {"Content-Type": "application/rss+xml", "Content-Length": str(len(body))}
                )
                request.wfile.write(body.encode())
            case _:
                request.send_error(404)

    def _send_file(self, request: Any, *, is_held: bool = False) -> None:
        start = int((re.match(r"bytes=(\d+)-", request.headers.get("Range", "")) or [0, 0])[1])
        body = self.talk[start:]
        headers = {"Content-Type": "audio/flac", "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.talk) - 1}/{len(self.talk)}"
        self._start(request, headers, 206 if start else 200)
        half = len(body) // 2 if is_held and not self.is_released.is_set() else len(body)
        request.wfile.write(body[:half])
        if half < len(body):
            self.is_released.wait()
            if not self.is_closed.is_set():
                request.wfile.write(body[half:])

    def _redirect(self, request: Any, location: str) -> None:
        self._start(request, {"Location": location, "Content-Length": "0"}, 302)

    @staticmethod
    def _start(request: Any, headers: dict[str, str], status: int = 200) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    talk = media.write_sound(tmp_path_factory.mktemp("media") / "talk.flac", media.speech(8)).read_bytes()
    running = Site(talk)
    yield running
    running.close()


def url_config(**changes: Any) -> schema.UrlConfig:
    values: dict[str, Any] = {
        "allowed_hosts": ("127.0.0.1", "127.0.0.2", "localhost"),
        "allowed_networks": ("127.0.0.1/32", "::1/128"),
        "max_mb": 1,
        "stall_s": 60.0,
    }
    return schema.UrlConfig(**values | changes)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon"), url=url_config()) as running:
        yield running.start()


@pytest.fixture(scope="module")
def gateway(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(daemon, tmp_path_factory.mktemp("gateway")) as running:
        yield running


def folder_of(daemon: Daemon, job: str) -> Path:
    return daemon.folder / "state" / "uploads" / job


def ended(daemon: Daemon, url: str) -> JobFacts:
    """Submit an address and return its job when it has ended."""
    job = daemon.client.submit_url(url).id
    return state_of(daemon, job, "done", "failed", "cancelled")


def state_of(daemon: Daemon, job: str, *states: str) -> JobFacts:
    """Return a job once it is in one of these states."""

    def found() -> JobFacts | None:
        facts = daemon.client.status(job)
        return facts if facts.state in states else None

    return eventually(found, f"job {job} is {' or '.join(states)}")


def test_file_is_downloaded_and_transcribed_under_the_title_of_its_site(daemon: Daemon, site: Site) -> None:
    url = site.url("/My%20talk%20%2F%20part%201.flac")
    job = ended(daemon, url)
    assert (job.state, job.url, job.size) == ("done", url, len(site.talk))
    assert re.fullmatch(r"My talk \S part 1\.flac", job.source)
    name, body = daemon.client.fetch(job.id, "txt")
    assert name.startswith("My talk")
    assert body.strip()
    assert [step.event for step in job.history][:2] == ["accepted", "uploaded"]
    assert [path.name for path in folder_of(daemon, job.id).iterdir()] == [job.source]


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/missing.flac", "HTTP Error 404"),
        ("/to-metadata", "the address '169.254.169.254' is not public"),
        ("/to-loopback", "the address '::ffff:127.0.0.2' is not public"),
        ("/to-file", ""),
        ("/list.rss", "it is a playlist; submit the address of one recording"),
        ("/huge.flac", "its file has 1099511627776 bytes or more; the limit is 1048576"),
        ("/endless.flac", "the limit is 1048576"),
    ],
)
def test_download_that_is_not_allowed_fails_with_the_reason_and_leaves_no_file(
    daemon: Daemon, site: Site, path: str, cause: str
) -> None:
    job = ended(daemon, site.url(path))
    assert job.state == "failed"
    assert job.cause.startswith(f"download of {site.url(path)}: ")
    assert cause in job.cause
    eventually(lambda: not folder_of(daemon, job.id).exists(), "the folder is gone")


def submit_held(daemon: Daemon, site: Site, query: str = "") -> str:
    """Submit a file of which the first half has arrived and the rest is held back; return the job."""
    site.is_released.clear()
    job = daemon.client.submit_url(site.url(f"/held.flac{query}")).id
    partial = folder_of(daemon, job) / "media.flac.part"
    eventually(lambda: partial.is_file() and partial.stat().st_size > 0, "the first half is written")
    return job


def test_cancelled_download_stops_and_leaves_no_file(daemon: Daemon, site: Site) -> None:
    job = submit_held(daemon, site)
    same = daemon.client.submit_url(site.url("/held.flac"))
    assert same.id == job
    daemon.client.cancel(job)
    eventually(lambda: not folder_of(daemon, job).exists(), "the folder is gone")
    assert daemon.client.status(job).state == "cancelled"
    site.is_released.set()


def test_download_continues_after_the_daemon_was_killed(tmp_path: Path, site: Site) -> None:
    with Daemon(tmp_path, url=url_config()) as daemon:
        daemon.start()
        job = submit_held(daemon, site, "?restart")
        daemon.kill()
        partial = (folder_of(daemon, job) / "media.flac.part").stat().st_size
        site.is_released.set()
        daemon.start()
        assert state_of(daemon, job, "done", "failed").state == "done"
        assert ("/held.flac?restart", f"bytes={partial}-") in site.requests
        assert daemon.client.status(job).size == len(site.talk)
        daemon.stop()


def test_failed_download_is_repeated_by_a_retry(daemon: Daemon, site: Site) -> None:
    site.is_released.clear()
    job = ended(daemon, site.url("/later.flac"))
    assert (job.state, "HTTP Error 404" in job.cause) == ("failed", True)
    site.is_released.set()

    def is_retried() -> bool:
        with suppress(ServerError):  # its failure is being written
            daemon.client.retry(job.id)
        return daemon.client.status(job.id).state != "failed"

    eventually(is_retried, "the job is retried")
    assert state_of(daemon, job.id, "done", "failed").state == "done"


@pytest.mark.parametrize(
    ("url", "code", "reason"),
    [
        (
            "https://evil.org/a",
            "FORBIDDEN",
            "url.allowed_hosts on the server: 127.0.0.1, 127.0.0.2, localhost",
        ),
        ("file:///etc/passwd", "BAD_FORMAT", "use https:// or http://"),
        ("http://user:secret@127.0.0.1/", "BAD_FORMAT", "user name or password"),
        ("http://2130706433/", "BAD_FORMAT", "is not an IPv4 address"),
        ("http://[::1]/", "FORBIDDEN", "'::1' is not allowed"),
    ],
)
def test_address_that_is_not_allowed_is_refused_without_a_job(
    daemon: Daemon, url: str, code: str, reason: str
) -> None:
    before = daemon.client.list()
    with pytest.raises(ServerError) as refused:
        daemon.client.submit_url(url)
    assert refused.value.code == code
    assert reason in str(refused.value)
    assert daemon.client.list() == before


def test_host_name_of_an_address_that_is_not_public_is_not_connected_to(daemon: Daemon, site: Site) -> None:
    """127.0.0.2 is an allowed host, but in no allowed network: a name may have any address."""
    before = len(site.requests)
    job = ended(daemon, site.url("/talk.flac", "127.0.0.2"))
    assert "the address '127.0.0.2' is not public" in job.cause
    assert len(site.requests) == before


def test_http_interface_accepts_an_address(daemon: Daemon, gateway: GatewayProcess, site: Site) -> None:
    with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http:
        url = site.url("/talk.flac?http")
        sent = http.post("/api/jobs", data={"url": url, "formats": "vtt", "tag": "form"})
        assert sent.status_code == 201, sent.text
        assert (sent.json()["url"], sent.json()["formats"], sent.json()["state"]) == (
            url,
            ["vtt"],
            "receiving",
        )
        by_query = http.post("/api/jobs", params={"url": url, "tag": "query"})
        assert by_query.status_code == 201, by_query.text
        for job in (sent.json()["id"], by_query.json()["id"]):
            assert state_of(daemon, job, "done", "failed").state == "done"
        refused = http.post("/api/jobs", data={"url": "https://evil.org/"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        nothing = http.post("/api/jobs", data={"formats": "vtt"})
        assert (nothing.status_code, nothing.json()["param"]) == (400, "url")


def test_command_line_waits_for_an_address_and_saves_its_subtitles(
    daemon: Daemon, site: Site, tmp_path: Path
) -> None:
    command = (Path(sys.executable).with_name("subtitle"), "submit", "--wait", "--server", daemon.endpoint)
    done = subprocess.run(
        (*command, site.url("/talk.flac?cli")),
        cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["talk.en.srt"]
    refused = subprocess.run(
        (*command, "https://evil.org/a"),
        cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "'evil.org' is not allowed" in refused.stderr


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_page_submits_an_address(daemon: Daemon, gateway: GatewayProcess, site: Site, tmp_path: Path) -> None:
    with Browser(gateway.url, tmp_path) as browser:
        browser.open("/")
        browser.wait_for("#url").type(site.url("/talk.flac?page"))
        browser.wait_for("#submit-url").click()
        eventually(lambda: browser.path.startswith("/jobs/"), "the page of the job")
        job = browser.path.removeprefix("/jobs/")
        assert state_of(daemon, job, "done", "failed").state == "done"
