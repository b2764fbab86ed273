"""The server answers every request and fault as docs/protocol.md describes."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from api_harness import ApiHarness, RawClient
from protocol_doc import ERRORS, EXAMPLES, section
from subtitled import log
from subtitled.api.uploads import CHUNK_BYTES
from subtitled.config import schema
from subtitled.core.events import DrainRequested
from subtitled.network.rate_limit import RateLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_HELLO = msgspec.msgpack.encode({"type": "Hello", "request": 1})


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiHarness]:
    (tmp_path / "media").mkdir()
    limits = schema.UploadsConfig(
        max_file_mb=16, max_spool_mb=17, max_open=2, paths=(str(tmp_path / "media"),)
    )
    with ApiHarness(tmp_path, uploads=limits) as running:
        yield running


@pytest.fixture
def client(api: ApiHarness) -> RawClient:
    return api.connect()


def test_an_answer_that_utf_8_lacks_fails_its_request_only(
    client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LAST_LINES", deque([(0, 20, "bad\udcff.mp3")]))
    answer = client.request("Operate", log_lines=1)
    assert (answer["type"], answer["code"]) == ("Error", "INTERNAL")
    assert client.request("Operate")["type"] == "OperateInfo"


def _header(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    ("frames", "request_", "code"),
    [
        ([b"\x01"], 0, "BAD_FORMAT"),
        ([b"\x01", _HELLO, *[b""] * 1025], 1, "BAD_FORMAT"),
        ([b"\x01", b"\xc1"], 0, "BAD_FORMAT"),
        ([b"\x01", msgspec.msgpack.encode([1])], 0, "BAD_FORMAT"),
        ([b"\x01", _header(request=5)], 5, "BAD_FORMAT"),
        ([b"\x01", _header(type="Hello")], 0, "BAD_FORMAT"),
        ([b"\x01", _header(type="Hello", request="5")], 0, "BAD_FORMAT"),
        ([b"\x01", _header(type="Status", request=5)], 5, "BAD_FORMAT"),
        ([b"\x01", _header(type="Watch", request=5, after_seq=2**63)], 5, "BAD_FORMAT"),
        ([b"\x02", _HELLO], 1, "BAD_VERSION"),
        ([b"", b"\x01", _HELLO], 0, "BAD_VERSION"),
        ([b"\x01", _header(type="Translate", request=5)], 5, "UNKNOWN_MESSAGE"),
    ],
)
def test_invalid_message_is_answered_with_its_code_and_request_number(
    client: RawClient, frames: list[bytes], request_: int, code: str
) -> None:
    client.send(frames)
    answer = client.receive()
    assert (answer["type"], answer["request"], answer["code"]) == ("Error", request_, code)
    assert client.request("Hello")["type"] == "Welcome"


_SHA = hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({"type": "Hello"}, "Welcome"),
        ({"type": "Hello", "field_of_a_later_version": 1}, "Welcome"),
        ({"type": "List"}, "JobList"),
        ({"type": "List", "limit": 0, "tag": "x"}, "JobList"),
        ({"type": "List", "states": ["asleep"]}, "BAD_FORMAT"),
        ({"type": "Status", "job": "none"}, "NOT_FOUND"),
        ({"type": "Fetch", "job": "none"}, "NOT_FOUND"),
        ({"type": "Cancel", "job": "none"}, "NOT_FOUND"),
        ({"type": "Retry", "job": "none"}, "NOT_FOUND"),
        ({"type": "Dismiss", "job": "none"}, "NOT_FOUND"),
        ({"type": "Delete", "job": "none"}, "NOT_FOUND"),
        ({"type": "Stats"}, "StatsInfo"),
        ({"type": "Submit"}, "Accepted"),
        ({"type": "Submit", "size": 2, "sha256": _SHA, "options": {"layout": {"max_lines": 1}}}, "Accepted"),
        ({"type": "Submit", "sha256": _SHA.upper()}, "BAD_FORMAT"),
        ({"type": "Submit", "name": "x" * 1025}, "BAD_FORMAT"),
        ({"type": "Submit", "size": -1}, "BAD_FORMAT"),
        ({"type": "Submit", "size": 16 * 2**20 + 1}, "TOO_BIG"),
        ({"type": "Submit", "options": {"language": "klingon"}}, "BAD_FORMAT"),
        ({"type": "Submit", "options": {"language": "fr"}}, "UNSUPPORTED"),
        ({"type": "Submit", "options": {"task": "translate"}}, "UNSUPPORTED"),
        ({"type": "Submit", "options": {"task": "summarize"}}, "BAD_FORMAT"),
        ({"type": "Submit", "options": {"formats": []}}, "BAD_FORMAT"),
        ({"type": "Submit", "options": {"formats": ["docx"]}}, "BAD_FORMAT"),
        ({"type": "Submit", "options": {"priority": 101}}, "BAD_FORMAT"),
        ({"type": "Submit", "options": {"tag": "x" * 201}}, "BAD_FORMAT"),
        ({"type": "Submit", "options": {"vad": {"threshold": 1.0}}}, "BAD_FORMAT"),
        ({"type": "Submit", "options": {"layout": {"min_ms": 5000, "max_ms": 1000}}}, "BAD_FORMAT"),
        ({"type": "Submit", "path": "talk.flac"}, "BAD_FORMAT"),
        ({"type": "Submit", "path": "/etc/passwd"}, "FORBIDDEN"),
        ({"type": "Chunk", "job": "none", "offset": 0}, "WRONG_STATE"),
        ({"type": "Commit", "job": "none"}, "NOT_FOUND"),
    ],
)
def test_request_is_answered_as_documented_with_its_number(
    client: RawClient, request_: dict[str, Any], answer: str
) -> None:
    client.send([b"\x01", _header(**request_, request=7)])
    said = client.receive()
    assert (said.get("code", said["type"]), said["request"]) == (answer, 7)
    assert f"`{answer}`" in section(request_["type"]).partition("| field |")[0]


def test_documented_upload_works(client: RawClient) -> None:
    upload = EXAMPLES[
        next(number for number, (_, _, said) in enumerate(EXAMPLES) if said["type"] == "Submit") :
    ]
    submit, content = upload[0][2], upload[2][1][2]
    assert (submit["size"], submit["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    job = ""
    for side, frames, said in upload:
        if side == "C":
            header = said | {"job": job} if "job" in said else said
            client.send([frames[0], msgspec.msgpack.encode(header), *frames[2:]])
            continue
        heard = client.receive()
        assert heard.keys() == said.keys()
        if said["type"] == "JobInfo":
            varying = {name: heard["job"][name] for name in ("created_ms", "position")}
            named = {"id": job, **varying, "owner": ""}
            assert heard == said | {"job": said["job"] | named}
        else:
            job = heard["job"]
            assert heard == said | {"job": job}


def _upload(client: RawClient, size: int = 4) -> str:
    """Begin an upload of `size` zeros; return its job."""
    job: str = client.submit(bytes(size))["job"]
    return job


def _chunk(client: RawClient, *blobs: bytes, offset: int = 0, size: int = 16 * 2**20) -> dict[str, Any]:
    return client.request("Chunk", *blobs, request=1, job=_upload(client, size), offset=offset)


def _beyond_the_window(api: ApiHarness, client: RawClient) -> dict[str, Any]:
    job = _upload(client, 16 * 2**20)
    with api.stalled("upload"):
        for number in range(9):
            client.send_message("Chunk", bytes(CHUNK_BYTES), request=1, job=job, offset=number * CHUNK_BYTES)
        return client.receive()


def _limited(api: ApiHarness, client: RawClient) -> dict[str, Any]:
    api.server._endpoints[0]._rate_limit = RateLimit(0.001)
    return client.request("Hello")


def _too_many_uploads(_: ApiHarness, client: RawClient) -> dict[str, Any]:
    answers = [client.request("Submit", request=number) for number in range(3)]
    return answers[-1]


def _too_much_at_once(_: ApiHarness, client: RawClient) -> dict[str, Any]:
    client.request("Submit", size=16 * 2**20)
    return client.request("Submit", size=16 * 2**20)


def _otherwise(_: ApiHarness, client: RawClient) -> dict[str, Any]:
    job = client.submit(b"abcd")["job"]
    assert client.request("Chunk", b"abce", request=1, job=job, offset=0)["type"] == "UploadCredit"
    said = client.request("Commit", job=job)
    assert client.request("Commit", job=job)["code"] == "WRONG_STATE"
    return said


def _stopping(api: ApiHarness, client: RawClient) -> dict[str, Any]:
    api.dispatch(DrainRequested())
    return client.request("Submit")


def _unreadable(api: ApiHarness, client: RawClient) -> dict[str, Any]:
    """Have the disk refuse: a folder lies where the file should."""
    job = _upload(client)
    api.server.uploads.close()
    path = api.folder / "uploads" / job / "upload"
    path.unlink()
    path.mkdir()
    return client.submit(bytes(4))


def _another_version(_: ApiHarness, client: RawClient) -> dict[str, Any]:
    client.send([b"\x02", _HELLO])
    return client.receive()


def _path(api: ApiHarness, client: RawClient) -> dict[str, Any]:
    return client.request("Submit", path=str(api.folder / "media" / "none.flac"))


def _edited_by_another(api: ApiHarness, client: RawClient) -> dict[str, Any]:
    job = api.ended_job().id
    for text in ("theirs", "mine"):
        cues = msgspec.json.encode([{"start_ms": 0, "end_ms": 900, "lines": [text]}])
        answer = client.request("SaveCues", cues, job=job, version=0)
    return answer


_PROVOKED: list[tuple[str, str, Callable[[ApiHarness, RawClient], dict[str, Any]]]] = [
    ("BAD_FORMAT", "a chunk without a blob", lambda _, client: _chunk(client)),
    ("BAD_FORMAT", "a chunk with two", lambda _, client: _chunk(client, b"a", b"b")),
    ("BAD_FORMAT", "an empty chunk", lambda _, client: _chunk(client, b"")),
    (
        "BAD_FORMAT",
        "a commit that contradicts",
        lambda _, client: client.request("Commit", job=_upload(client), size=5),
    ),
    (
        "BAD_FORMAT",
        "a commit without size and hash",
        lambda _, client: client.request("Commit", job=client.request("Submit")["job"]),
    ),
    ("BAD_VERSION", "another version", _another_version),
    ("UNKNOWN_MESSAGE", "another message", lambda _, client: client.request("Translate")),
    ("TOO_BIG", "a chunk", lambda _, client: _chunk(client, bytes(CHUNK_BYTES + 1))),
    ("TOO_BIG", "more than was announced", lambda _, client: _chunk(client, b"12345", size=4)),
    ("TOO_BIG", "beyond the window", _beyond_the_window),
    ("NOT_FOUND", "a path without a file", _path),
    ("FORBIDDEN", "a path elsewhere", lambda _, client: client.request("Submit", path="/etc/passwd")),
    ("WRONG_STATE", "a chunk out of order", lambda _, client: _chunk(client, b"a", offset=1)),
    (
        "WRONG_STATE",
        "a commit too early",
        lambda _, client: client.request("Commit", job=_upload(client)),
    ),
    (
        "WRONG_STATE",
        "a fetch too early",
        lambda _, client: client.request("Fetch", job=_upload(client)),
    ),
    ("RATE_LIMITED", "too many requests", _limited),
    ("RATE_LIMITED", "too many uploads", _too_many_uploads),
    ("NO_SPACE", "more than the share", _too_much_at_once),
    ("DRAINING", "the server is stopping", _stopping),
    ("UNSUPPORTED", "translate", lambda _, client: client.request("Submit", options={"task": "translate"})),
    ("HASH_MISMATCH", "another file", _otherwise),
    ("CONFLICT", "another version was saved", _edited_by_another),
    ("INTERNAL", "a disk that refuses", _unreadable),
]


@pytest.mark.parametrize(
    ("code", "provoke"), [pytest.param(code, do, id=f"{code}: {what}") for code, what, do in _PROVOKED]
)
def test_documented_error_is_sent_when_documented(
    api: ApiHarness, client: RawClient, code: str, provoke: Callable[[ApiHarness, RawClient], dict[str, Any]]
) -> None:
    answer = provoke(api, client)
    assert (answer["type"], answer.get("code")) == ("Error", code)
    assert answer["message"]


def test_every_documented_error_is_tested() -> None:
    assert {code for code, _, _ in _PROVOKED} == ERRORS
