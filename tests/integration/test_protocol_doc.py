"""docs/protocol.md is true: its messages are those of the code, its frames can be read, its errors are what is answered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import zmq
from msgspec import NODEFAULT, Struct, inspect

from subtitle import messages as ms
from subtitled.client_link import ClientLink
from subtitled.core.broker import Broker
from subtitled.core.deadlines import Policy
from subtitled.desk import Desk
from subtitled.sockets import bind_clients
from subtitled.store import Store

_ROOT = Path(__file__).parents[2]
_TEXT = (_ROOT / "docs" / "protocol.md").read_text("utf-8")
_STRUCTS: tuple[type[Struct], ...] = (
    *get_args(ms.ToServer),
    *get_args(ms.ToClient),
    ms.JobFacts,
    ms.WorkerFacts,
)
_HELLO = msgspec.msgpack.encode({"type": "Hello", "request": 1})


def _table(name: str) -> dict[str, tuple[str, str]]:
    """Return type and default of each field in a message's section."""
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", _TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None, f"no section about {name}"
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?)\|", section[1], re.MULTILINE)
    return {field: (kind, default.strip()) for field, kind, default in rows}


def _kind(kind: inspect.Type) -> str:
    """Return a type in the document's words."""
    match kind:
        case inspect.StrType():
            return "string"
        case inspect.IntType():
            return "int"
        case inspect.FloatType():
            return "float"
        case inspect.NoneType():
            return "nil"
        case inspect.StructType(cls=struct):
            return struct.__name__
        case inspect.VarTupleType(item_type=item):
            return f"[{_kind(item)}]"
        case inspect.DictType(key_type=key, value_type=value):
            return f"{{{_kind(key)}: {_kind(value)}}}"
        case inspect.UnionType(types=kinds):
            return " or ".join(map(_kind, kinds))
        case _:
            raise TypeError(f"the document has no word for {kind}")


def _default(field: inspect.Field) -> str:
    if field.default_factory is not NODEFAULT:
        return json.dumps(field.default_factory())
    if field.required:
        return ""
    return "nil" if field.default is None else json.dumps(field.default)


@pytest.mark.parametrize("struct", _STRUCTS, ids=lambda struct: struct.__name__)
def test_a_message_has_its_fields_types_and_defaults_in_the_document(struct: type[Struct]) -> None:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    fields = {field.name: (_kind(field.type), _default(field)) for field in info.fields}
    assert _table(struct.__name__) == fields


def test_the_document_has_no_other_messages() -> None:
    assert set(re.findall(r"^### (\w+)$", _TEXT, re.MULTILINE)) == {struct.__name__ for struct in _STRUCTS}


def test_every_error_code_in_the_code_is_explained() -> None:
    sources = (_ROOT / "client" / "subtitle" / "codec.py", _ROOT / "daemon" / "subtitled" / "desk.py")
    used = {
        code for source in sources for code in re.findall(r'"([A-Z]+_[A-Z_]+)"', source.read_text("utf-8"))
    }
    explained = set(re.findall(r"^\| `([A-Z_]+)` \|", _TEXT, re.MULTILINE))
    assert used
    assert used <= explained


def _exchanges() -> Iterator[tuple[str, list[bytes], dict[str, Any]]]:
    """Yield each example: whose it is, its frames, and what its header is said to say."""
    for block in re.findall(r"^```frames\n(.*?)^```", _TEXT, re.MULTILINE | re.DOTALL):
        frames: list[bytes] = []
        said: dict[str, Any] = {}
        side = ""
        for line in block.splitlines():
            if line.startswith("  {"):
                said = json.loads(line)
                continue
            data = bytes.fromhex(line[2:])
            if line[0] == " ":
                frames[-1] += data
            elif data == b"\x01":
                if frames:
                    yield side, frames, said
                frames, side = [data], line[0]
            else:
                frames.append(data)
        yield side, frames, said


_EXAMPLES = list(_exchanges())


def test_the_document_shows_both_sides() -> None:
    assert {side for side, _, _ in _EXAMPLES} == {"C", "S"}


@pytest.mark.parametrize(("side", "frames", "said"), _EXAMPLES)
def test_an_example_says_what_is_written_below_it(
    side: str, frames: list[bytes], said: dict[str, Any]
) -> None:
    assert msgspec.msgpack.decode(frames[1]) == said
    if side == "C":
        asked, _ = ms.to_server.decode(frames)
        assert msgspec.to_builtins(asked) == said
    else:
        answered, blobs = ms.to_client.decode(frames)
        assert msgspec.to_builtins(answered) == said
        assert bool(blobs) == isinstance(answered, ms.Subtitles)


# -- what a server answers ---------------------------------------------------------------------------------------------


class _Server:
    """The daemon's own side of the protocol over real sockets and a real database, without workers."""

    def __init__(self, folder: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._store = Store(str(folder / "subtitled.sqlite"))
        endpoint = f"ipc://{folder}/clients.sock"
        self._socket = bind_clients(self._context, (endpoint,))
        desk = Desk(self._store, Broker(Policy()), lambda _: None, model="demo")
        self._link = ClientLink(socket=self._socket, store=self._store, desk=desk)
        self._client = self._context.socket(zmq.DEALER)
        self._client.connect(endpoint)

    def ask(self, frames: list[bytes]) -> dict[str, Any]:
        """Send frames and return the header of what is answered."""
        self._client.send_multipart(frames)
        assert self._socket.poll(5000)
        self._link.receive()
        assert self._client.poll(5000)
        version, header, *_ = self._client.recv_multipart()
        assert version == b"\x01"
        said: dict[str, Any] = msgspec.msgpack.decode(header)
        return said

    def close(self) -> None:
        for closed in (self._client, self._socket):
            closed.close(linger=0)
        self._context.term()
        self._store.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[_Server]:
    running = _Server(tmp_path)
    yield running
    running.close()


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
        ([b"\x01", _header(type="Submit", request=5)], 5, "UNKNOWN_MESSAGE"),
    ],
)
def test_what_is_no_message_is_answered_with_its_code_and_the_number_that_can_be_read(
    server: _Server, frames: list[bytes], request_: int, code: str
) -> None:
    answer = server.ask(frames)
    assert (answer["type"], answer["request"], answer["code"]) == ("Error", request_, code)
    assert server.ask([b"\x01", _HELLO])["type"] == "Welcome"


@pytest.mark.parametrize(
    ("request_", "answer", "code"),
    [
        ({"type": "Hello"}, "Welcome", None),
        ({"type": "Hello", "field_of_a_later_version": 1}, "Welcome", None),
        ({"type": "List"}, "JobList", None),
        ({"type": "List", "limit": 0}, "JobList", None),
        ({"type": "List", "states": ["asleep"]}, "Error", "BAD_FORMAT"),
        ({"type": "Status", "job": "none"}, "Error", "NOT_FOUND"),
        ({"type": "Fetch", "job": "none"}, "Error", "NOT_FOUND"),
        ({"type": "Cancel", "job": "none"}, "Error", "NOT_FOUND"),
        ({"type": "Retry", "job": "none"}, "Error", "NOT_FOUND"),
        ({"type": "Stats"}, "StatsInfo", None),
    ],
)
def test_a_request_is_answered_as_the_document_says_with_its_own_number(
    server: _Server, request_: dict[str, Any], answer: str, code: str | None
) -> None:
    said = server.ask([b"\x01", _header(**request_, request=7)])
    assert (said["type"], said["request"], said.get("code")) == (answer, 7, code)
    section = re.search(rf"^### {request_['type']}\n(.*?)^\|", _TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert f"`{code or answer}`" in section[1]
