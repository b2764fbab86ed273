"""Parts of a download that need no process."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec import structs

from subtitled.api import downloads
from subtitled.api.downloads import Downloads, _Download, _name_of, _reports, _take, _with_language
from subtitled.api.upload_store import UploadStore
from subtitled.config.schema import UploadsConfig, UrlConfig
from subtitled.core.events import DownloadFailed
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.download import process
from subtitled.download.connections import AddressRefusedError, CheckedConnections
from subtitled.download.messages import DownloadReport, DownloadSettings
from subtitled.runtime.background import BackgroundPool
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from subtitled.core.events import Event


def test_process_without_progress_is_given_up() -> None:
    ends = os.pipe()
    with os.fdopen(ends[0], "rb", buffering=0) as reader, os.fdopen(ends[1], "wb", buffering=0) as writer:
        writer.write(msgspec.json.encode(DownloadReport(received_bytes=1)) + b"\n")
        reports = _reports(reader, time.monotonic() + 600, 0.05)
        assert next(reports).received_bytes == 1
        with pytest.raises(TimeoutError, match=r"no progress for 0\.05 s \(url\.stall_s\)"):
            next(reports)


def test_reports_of_a_process_end_with_its_output() -> None:
    ends = os.pipe()
    with os.fdopen(ends[0], "rb", buffering=0) as reader:
        with os.fdopen(ends[1], "wb", buffering=0) as writer:
            writer.write(b'{"received_bytes":1}\n{"file":"media.flac"}\n')
        reports = list(_reports(reader, time.monotonic() + 600, 600))
    assert [report.file for report in reports] == ["", "media.flac"]


@pytest.mark.parametrize(
    "line",
    [
        b"{}\n[]\n",
        b"x\n",
        b"x" * 200_000,
        b'{"received_bytes":-1}\n',
        b'{"received_bytes":9223372036854775808}\n',
        b'{"total_bytes":99999999999999999999}\n',
        b'{"title":"%s"}\n' % (b"x" * 501),
        b'{"language":"%s"}\n' % (b"x" * 33),
    ],
)
def test_invalid_report_of_a_process_is_an_error(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "reports").write_bytes(line)
    with (tmp_path / "reports").open("rb") as reader, pytest.raises(msgspec.DecodeError):
        list(_reports(reader, time.monotonic() + 600, 600))


def test_only_a_regular_file_in_the_folder_of_its_job_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (folder / "link.flac").symlink_to(secret)
    (folder / "hard.flac").hardlink_to(secret)
    (folder / "folder.flac").mkdir()
    (folder / "media.flac").write_bytes(b"fLaC")
    for name in ("link.flac", "hard.flac", "folder.flac", "../secret", "missing.flac", "media\0.flac"):
        with pytest.raises(OSError, match=r"."):
            _take(folder, name, "talk.flac")
    assert secret.read_bytes() == b"secret"
    (folder / "folder.flac").exists()
    path, taken = _take(folder, "media.flac", "My talk.flac")
    assert (path, taken.size) == (os.fsencode(folder / "My talk.flac"), 4)
    assert taken.sha256 == "70bf93310284b039f237e82db4407df3e3ca642fac2b9ebb02973764424c7418"


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def calls() -> list[Callable[[], None]]:
    """Return what is to be called in the loop."""
    return []


@pytest.fixture
def made(tmp_path: Path, events: list[Event], calls: list[Callable[[], None]]) -> Iterator[Downloads]:
    pool = BackgroundPool("test", calls.append)
    limits = UploadsConfig()
    made = Downloads(
        UrlConfig(allowed_hosts=("example.org",)),
        limits,
        store=Store(str(tmp_path / "subtitled.sqlite")),
        upload_store=UploadStore(tmp_path / "uploads", limits, reserve_bytes=0, background=pool),
        dispatch=events.append,
        reply_with_job=lambda *_: None,
        hash_pool=pool,
        call_in_loop=calls.append,
    )
    yield made
    made.close()
    pool.close()


def receiving(folder: Path, url: str = "https://example.org/talk.flac") -> Job:
    path = os.fsencode(folder / "uploads" / ("a" * 16) / "talk.flac")
    return Job(
        id="a" * 16,
        state=JobState.RECEIVING,
        source=path,
        location=path,
        size=0,
        mtime_ns=0,
        options=Options(url=url),
        order=1,
    )


def test_retry_that_is_cancelled_before_its_download_starts_is_not_downloaded(
    made: Downloads, events: list[Event], calls: list[Callable[[], None]], tmp_path: Path
) -> None:
    job = receiving(tmp_path)
    assert made.job_changed(job)
    assert made.job_changed(structs.replace(job, state=JobState.CANCELLED))
    for call in calls:
        call()
    assert (made.count, made._threads, events) == (0, set(), [])


def test_failure_names_the_address_without_its_query(
    made: Downloads, events: list[Event], calls: list[Callable[[], None]], tmp_path: Path
) -> None:
    assert made.job_changed(receiving(tmp_path, "https://evil.org/talk.flac?token=secret"))
    for call in calls:
        call()
    made._fail(
        _Download(receiving(tmp_path, "https://example.org/talk.flac?token=secret")),
        "Unsupported URL: https://example.org/talk.flac?token=secret",
    )
    causes = [event.cause for event in events if isinstance(event, DownloadFailed)]
    assert len(causes) == 2
    assert causes[1].startswith("download of https://example.org/talk.flac?…: Unsupported URL: ")
    assert "secret" not in "".join(causes)


@pytest.mark.parametrize(
    "program", ['import os; os.write(1, b\'{"title":"\\xff"}\\n\')', "print('x')", "print('{\"file\":3}')"]
)
def test_download_whose_process_sends_anything_ends(
    program: str,
    made: Downloads,
    calls: list[Callable[[], None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downloads, "COMMAND", (sys.executable, "-c", program))
    reports: list[DownloadReport] = []
    monkeypatch.setattr(made, "_on_end", lambda _, report: reports.append(report))
    made.start([receiving(tmp_path)])
    for thread in made._threads:
        thread.join()
    for call in calls:
        call()
    assert [report.error.partition(":")[0] for report in reports] == ["the download process failed"]


def test_title_with_half_an_emoji_is_reported(tmp_path: Path) -> None:
    (tmp_path / "media.flac").write_bytes(b"fLaC")
    settings = DownloadSettings(
        url="https://example.org/",
        folder=str(tmp_path),
        max_bytes=1,
        max_s=1,
        stall_s=1,
        allowed_hosts=(),
        allowed_networks=(),
        parent_pid=1,
    )
    report = process._Download(settings, 1)._finished({"title": "talk \ud83d", "language": "\ud83d"})
    assert (report.title, report.language) == ("talk ?", "?")
    with (tmp_path / "reports").open("wb") as file:
        process._send(file.fileno(), report)
        process._send(file.fileno(), DownloadReport(error=process._line("no \udfff")))
    with (tmp_path / "reports").open("rb") as reader:
        received = list(_reports(reader, time.monotonic() + 600, 600))
    assert received == [report, DownloadReport(error="no ?")]


@pytest.mark.parametrize(
    ("given", "named", "language"),
    [
        ("auto", "en-US", "en"),
        ("auto", "zh-Hant-TW", "zh"),
        ("auto", "", "auto"),
        ("auto", "tlh", "auto"),
        ("de", "en", "de"),
        ("multi", "en", "multi"),
    ],
)
def test_language_of_the_site_is_taken_if_the_client_left_it_open(
    given: str, named: str, language: str
) -> None:
    assert _with_language(Options(language=given), named).language == language


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/a/My%20talk.mp4?x=1", "My talk.mp4"),
        ("https://example.org/a/", "a"),
        ("https://example.org/", "example.org"),
    ],
)
def test_job_is_named_after_its_address_until_the_title_is_known(url: str, name: str) -> None:
    assert _name_of(url) == name


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, ("127.0.0.1", 80)),
        (socket.AF_INET, ("localhost", 80)),
        (socket.AF_INET, ("example.org", 80)),
        (socket.AF_INET6, ("::ffff:169.254.169.254", 80, 0, 0)),
        (socket.AF_INET6, ("fe80::1%1", 80, 0, 1)),
        (socket.AF_UNIX, "/run/subtitled/clients.sock"),
        (socket.AF_UNIX, b"\0abstract"),
        (socket.AF_INET, ()),
    ],
)
def test_connection_to_what_is_not_a_public_address_is_refused(family: int, address: object) -> None:
    connections = CheckedConnections([])
    with pytest.raises(AddressRefusedError):
        connections.check(family, address)
    assert "public addresses" in connections.refused
    connections.check(socket.AF_INET, ("8.8.8.8", 443))
