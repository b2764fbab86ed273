"""Parts of a download that need no process."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from subtitled.api.downloads import _name_of, _reports, _take, _with_language
from subtitled.core.records import Options
from subtitled.download.connections import AddressRefusedError, CheckedConnections
from subtitled.download.messages import DownloadReport

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize("line", [b"{}\n[]\n", b"x\n", b"x" * 200_000])
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
    for name in ("link.flac", "hard.flac", "folder.flac", "../secret", "missing.flac"):
        with pytest.raises(OSError, match=r"."):
            _take(folder, name, "talk.flac")
    assert secret.read_bytes() == b"secret"
    (folder / "folder.flac").exists()
    taken = _take(folder, "media.flac", "My talk.flac")
    assert (taken.path, taken.size) == (os.fsencode(folder / "My talk.flac"), 4)
    assert taken.sha256 == "70bf93310284b039f237e82db4407df3e3ca642fac2b9ebb02973764424c7418"


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
