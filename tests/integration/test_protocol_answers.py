"""A server answers as docs/protocol.md says: each request, each fault."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from api_harness import Front, Visitor
from protocol_doc import ERRORS, EXAMPLES, section
from subtitled.api.uploads import CHUNK_BYTES
from subtitled.config import schema
from subtitled.core.events import DrainRequested
from subtitled.network.rate_limit import RateLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_HELLO = msgspec.msgpack.encode({"type": "Hello", "request": 1})


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    (tmp_path / "media").mkdir()
    limits = schema.UploadsConfig(
        max_file_mb=16, max_spool_mb=17, max_open=2, paths=(str(tmp_path / "media"),)
    )
    with Front(tmp_path, uploads=limits) as running:
        yield running


@pytest.fixture
def visitor(front: Front) -> Visitor:
    return front.visitor()


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
def test_what_is_no_message_is_answered_with_its_code_and_the_number_that_can_be_read(
    visitor: Visitor, frames: list[bytes], request_: int, code: str
) -> None:
    visitor.send(frames)
    answer = visitor.hear()
    assert (answer["type"], answer["request"], answer["code"]) == ("Error", request_, code)
    assert visitor.ask("Hello")["type"] == "Welcome"


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
def test_a_request_is_answered_as_the_document_says_with_its_own_number(
    visitor: Visitor, request_: dict[str, Any], answer: str
) -> None:
    visitor.send([b"\x01", _header(**request_, request=7)])
    said = visitor.hear()
    assert (said.get("code", said["type"]), said["request"]) == (answer, 7)
    assert f"`{answer}`" in section(request_["type"]).partition("| field |")[0]


def test_the_upload_of_the_document_goes_as_it_says(visitor: Visitor) -> None:
    upload = EXAMPLES[
        next(number for number, (_, _, said) in enumerate(EXAMPLES) if said["type"] == "Submit") :
    ]
    submit, content = upload[0][2], upload[2][1][2]
    assert (submit["size"], submit["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    job = ""
    for side, frames, said in upload:
        if side == "C":
            header = said | {"job": job} if "job" in said else said
            visitor.send([frames[0], msgspec.msgpack.encode(header), *frames[2:]])
            continue
        heard = visitor.hear()
        assert heard.keys() == said.keys()
        if said["type"] == "JobInfo":
            named = {"id": job, "created_ms": heard["job"]["created_ms"], "owner": ""}
            assert heard == said | {"job": said["job"] | named}
        else:
            job = heard["job"]
            assert heard == said | {"job": job}


def _upload(visitor: Visitor, size: int = 4) -> str:
    """Begin an upload of `size` zeros; return its job."""
    job: str = visitor.submit(bytes(size))["job"]
    return job


def _chunk(visitor: Visitor, *blobs: bytes, offset: int = 0, size: int = 16 * 2**20) -> dict[str, Any]:
    return visitor.ask("Chunk", *blobs, request=1, job=_upload(visitor, size), offset=offset)


def _beyond_the_window(front: Front, visitor: Visitor) -> dict[str, Any]:
    job = _upload(visitor, 16 * 2**20)
    with front.stalled_disk():
        for number in range(9):
            visitor.tell("Chunk", bytes(CHUNK_BYTES), request=1, job=job, offset=number * CHUNK_BYTES)
        return visitor.hear()


def _limited(front: Front, visitor: Visitor) -> dict[str, Any]:
    front.reception._links[0]._rate = RateLimit(0.001)
    return visitor.ask("Hello")


def _too_many_uploads(_: Front, visitor: Visitor) -> dict[str, Any]:
    answers = [visitor.ask("Submit", request=number) for number in range(3)]
    return answers[-1]


def _too_much_at_once(_: Front, visitor: Visitor) -> dict[str, Any]:
    visitor.ask("Submit", size=16 * 2**20)
    return visitor.ask("Submit", size=16 * 2**20)


def _otherwise(_: Front, visitor: Visitor) -> dict[str, Any]:
    job = visitor.submit(b"abcd")["job"]
    assert visitor.ask("Chunk", b"abce", request=1, job=job, offset=0)["type"] == "UploadCredit"
    said = visitor.ask("Commit", job=job)
    assert visitor.ask("Commit", job=job)["code"] == "WRONG_STATE"
    return said


def _stopping(front: Front, visitor: Visitor) -> dict[str, Any]:
    front.happen(DrainRequested())
    return visitor.ask("Submit")


def _unreadable(front: Front, visitor: Visitor) -> dict[str, Any]:
    """Have the disk refuse: a folder lies where the file should."""
    job = _upload(visitor)
    front.reception.uploads.close()
    path = front.folder / "uploads" / job / "upload"
    path.unlink()
    path.mkdir()
    return visitor.submit(bytes(4))


def _another_version(_: Front, visitor: Visitor) -> dict[str, Any]:
    visitor.send([b"\x02", _HELLO])
    return visitor.hear()


def _path(front: Front, visitor: Visitor) -> dict[str, Any]:
    return visitor.ask("Submit", path=str(front.folder / "media" / "none.flac"))


_PROVOKED: list[tuple[str, str, Callable[[Front, Visitor], dict[str, Any]]]] = [
    ("BAD_FORMAT", "a chunk without a blob", lambda _, visitor: _chunk(visitor)),
    ("BAD_FORMAT", "a chunk with two", lambda _, visitor: _chunk(visitor, b"a", b"b")),
    ("BAD_FORMAT", "an empty chunk", lambda _, visitor: _chunk(visitor, b"")),
    (
        "BAD_FORMAT",
        "a commit that contradicts",
        lambda _, visitor: visitor.ask("Commit", job=_upload(visitor), size=5),
    ),
    (
        "BAD_FORMAT",
        "a commit without size and hash",
        lambda _, visitor: visitor.ask("Commit", job=visitor.ask("Submit")["job"]),
    ),
    ("BAD_VERSION", "another version", _another_version),
    ("UNKNOWN_MESSAGE", "another message", lambda _, visitor: visitor.ask("Translate")),
    ("TOO_BIG", "a chunk", lambda _, visitor: _chunk(visitor, bytes(CHUNK_BYTES + 1))),
    ("TOO_BIG", "more than was announced", lambda _, visitor: _chunk(visitor, b"12345", size=4)),
    ("TOO_BIG", "beyond the window", _beyond_the_window),
    ("NOT_FOUND", "a path without a file", _path),
    ("FORBIDDEN", "a path elsewhere", lambda _, visitor: visitor.ask("Submit", path="/etc/passwd")),
    ("WRONG_STATE", "a chunk out of order", lambda _, visitor: _chunk(visitor, b"a", offset=1)),
    (
        "WRONG_STATE",
        "a commit too early",
        lambda _, visitor: visitor.ask("Commit", job=_upload(visitor)),
    ),
    (
        "WRONG_STATE",
        "a fetch too early",
        lambda _, visitor: visitor.ask("Fetch", job=_upload(visitor)),
    ),
    ("RATE_LIMITED", "too many requests", _limited),
    ("RATE_LIMITED", "too many uploads", _too_many_uploads),
    ("NO_SPACE", "more than the share", _too_much_at_once),
    ("DRAINING", "the server is stopping", _stopping),
    ("UNSUPPORTED", "translate", lambda _, visitor: visitor.ask("Submit", options={"task": "translate"})),
    ("HASH_MISMATCH", "another file", _otherwise),
    ("INTERNAL", "a disk that refuses", _unreadable),
]


@pytest.mark.parametrize(
    ("code", "provoke"), [pytest.param(code, do, id=f"{code}: {what}") for code, what, do in _PROVOKED]
)
def test_an_error_of_the_document_comes_when_it_says(
    front: Front, visitor: Visitor, code: str, provoke: Callable[[Front, Visitor], dict[str, Any]]
) -> None:
    answer = provoke(front, visitor)
    assert (answer["type"], answer.get("code")) == ("Error", code)
    assert answer["message"]


def test_every_error_of_the_document_is_provoked() -> None:
    assert {code for code, _, _ in _PROVOKED} == ERRORS
