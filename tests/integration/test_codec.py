"""Frames to messages: what one side says the other hears, and nothing that is sent does more than raise."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from subtitle import messages as ms
from subtitle.codec import MAX_BLOBS, MAX_HEADER_BYTES, VERSION, Codec
from subtitle.errors import ProtocolError
from subtitled.core import protocol as pr

CODES = frozenset({"BAD_FORMAT", "BAD_VERSION", "UNKNOWN_MESSAGE", "TOO_BIG"})
UNIONS: dict[str, tuple[Codec[Any], Any]] = {
    "to_server": (ms.to_server, ms.ToServer),
    "to_client": (ms.to_client, ms.ToClient),
    "from_worker": (pr.from_worker, pr.FromWorker),
    "to_worker": (pr.to_worker, pr.ToWorker),
}
INTEGERS = (-(2**63), 2**64 - 1)
"""What MessagePack can say."""


def texts_of(min_chars: int = 0) -> st.SearchStrategy[str]:
    """Return a strategy for short texts of at least so many characters."""
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=min_chars, max_size=max(8, min_chars))


floats = st.floats(allow_nan=False)


def any_of(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Return a strategy for every value that a message's field may have."""
    match kind:
        case inspect.IntType(ge=least, le=most):
            return st.integers(INTEGERS[0] if least is None else least, INTEGERS[1] if most is None else most)
        case inspect.FloatType(gt=more_than, ge=least, lt=less_than, le=most):
            return st.floats(
                more_than if least is None else least,
                most if less_than is None else less_than,
                exclude_min=more_than is not None,
                exclude_max=less_than is not None,
                allow_nan=False,
            )
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern, fullmatch=True)
        case inspect.StrType(min_length=least):
            return texts_of(least or 0)
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.EnumType(cls=cls):
            return st.sampled_from(list(cls))
        case inspect.BytesType():
            return st.binary(max_size=8)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.VarTupleType(item_type=item, min_length=least):
            return st.lists(any_of(item), min_size=least or 0, max_size=max(2, least or 0)).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(any_of, items))
        case inspect.FrozenSetType(item_type=item):
            return st.frozensets(any_of(item), max_size=3)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(any_of(key), any_of(value), max_size=2)
        case inspect.UnionType(types=kinds):
            return st.one_of(*map(any_of, kinds))
        case inspect.StructType(cls=cls, fields=fields):
            return st.fixed_dictionaries({field.name: any_of(field.type) for field in fields}).map(
                lambda values: cls(**values)
            )
        case _:
            raise AssertionError(f"no strategy for {kind}")


messages = {name: any_of(inspect.type_info(union)) for name, (_, union) in UNIONS.items()}


@pytest.mark.parametrize("name", UNIONS)
@settings(max_examples=60)
@given(data=st.data())
def test_messages_survive_encoding_and_decoding(name: str, data: st.DataObject) -> None:
    codec, _ = UNIONS[name]
    message = data.draw(messages[name])
    sent = data.draw(st.lists(st.binary(max_size=64), max_size=3))
    heard, received = codec.decode(codec.encode(message, sent))
    assert heard == message
    assert type(heard) is type(message)
    assert [bytes(blob) for blob in received] == sent


def decode(codec: Codec[Any], frames: list[bytes]) -> None:
    """Decode frames, which may fail in the one way that is allowed."""
    code = "BAD_FORMAT"
    try:
        codec.decode(frames)
    except ProtocolError as error:
        code = error.code
    assert code in CODES


values = st.recursive(
    st.none() | st.booleans() | st.integers(*INTEGERS) | floats | texts_of() | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts_of(), inner, max_size=3),
    max_leaves=6,
)
headers = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["Hello", "List", "Status", "Watch", "Fetch", "Ready", "Prepared", "Transcribe"]
        )
    },
    optional=dict.fromkeys(("request", "job", "states", "limit", "after_seq", "plan", "items"), values),
)


@pytest.mark.parametrize("name", UNIONS)
@given(frames=st.lists(st.binary(max_size=100) | st.just(VERSION), max_size=4))
def test_random_frames_raise_a_protocol_error_or_nothing(name: str, frames: list[bytes]) -> None:
    decode(UNIONS[name][0], frames)


@pytest.mark.parametrize("name", UNIONS)
@given(fields=headers)
def test_wrong_fields_raise_a_protocol_error_or_nothing(name: str, fields: dict[str, Any]) -> None:
    decode(UNIONS[name][0], [VERSION, msgspec.msgpack.encode(fields)])


@pytest.mark.parametrize("name", UNIONS)
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_messages_raise_a_protocol_error_or_nothing(name: str, data: st.DataObject) -> None:
    """Real messages with a byte changed, cut off, or doubled."""
    codec, _ = UNIONS[name]
    header = bytearray(codec.encode(data.draw(messages[name]))[1])
    at = data.draw(st.integers(0, len(header) - 1))
    match data.draw(st.sampled_from(["change", "cut", "double"])):
        case "change":
            header[at] = data.draw(st.integers(0, 255))
        case "cut":
            del header[at:]
        case _:
            header = header * 2
    decode(codec, [VERSION, bytes(header)])


def test_fields_of_a_later_release_are_ignored() -> None:
    header = msgspec.msgpack.encode({"type": "Hello", "request": 5, "later": {"deep": [1, None]}})
    message, _ = ms.to_server.decode([VERSION, header])
    assert message == ms.Hello(request=5)


def test_blobs_are_not_copied() -> None:
    blob = memoryview(bytearray(b"pcm"))
    sent = pr.to_worker.encode(pr.Transcribe(lease=1, items=(), word_timestamps=False), [blob])
    assert sent[2] is blob
    _, received = pr.to_worker.decode(sent)
    assert received[0] is blob


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([], "BAD_FORMAT"),
        ([VERSION], "BAD_FORMAT"),
        ([VERSION, b"", *[b""] * (MAX_BLOBS + 1)], "BAD_FORMAT"),
        ([b"", b"\x80"], "BAD_VERSION"),
        ([b"\x01\x00", b"\x80"], "BAD_VERSION"),
        ([VERSION, bytes(MAX_HEADER_BYTES + 1)], "TOO_BIG"),
        ([VERSION, msgspec.msgpack.encode({"type": "Nope", "request": 1})], "UNKNOWN_MESSAGE"),
        ([VERSION, b"\xc1"], "BAD_FORMAT"),
        ([VERSION, msgspec.msgpack.encode({"type": "Status", "request": 1, "job": 7})], "BAD_FORMAT"),
    ],
    ids=["none", "one", "many", "empty version", "long version", "long", "unknown", "no msgpack", "no text"],
)
def test_each_fault_has_its_code(sent: list[bytes], code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        ms.to_server.decode(sent)
    assert caught.value.code == code
    assert len(str(caught.value)) < 300


def test_maximum_number_of_blobs_is_accepted() -> None:
    header = msgspec.msgpack.encode({"type": "Hello", "request": 1})
    _, received = ms.to_server.decode([VERSION, header, *[b""] * ms.MAX_BLOBS])
    assert len(received) == ms.MAX_BLOBS
    _, received = pr.from_worker.decode(
        [VERSION, pr.from_worker.encode(pr.Heartbeat())[1], *[b""] * MAX_BLOBS]
    )
    assert len(received) == MAX_BLOBS
