"""docs/protocol.md is true: its messages are those of the code, its frames decode to the documented headers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import NODEFAULT, Struct, inspect

from protocol_doc import ERRORS, EXAMPLES, TEXT, table
from subtitle import messages as ms
from subtitled.api.connection import MAX_WATCHERS
from subtitled.api.uploads import CHUNK_BYTES, WINDOW_BYTES
from subtitled.config import schema

_ROOT = Path(__file__).parents[2]
_STRUCTS: tuple[type[Struct], ...] = (
    *get_args(ms.ToServer),
    *get_args(ms.ToClient),
    ms.JobFacts,
    ms.AudioChoice,
    ms.AudioTrack,
    ms.CueVersion,
    ms.EditedCue,
    ms.Step,
    ms.TranslationFacts,
    ms.HungFolder,
    ms.OpenFile,
    ms.Disk,
    ms.ModelFacts,
    ms.WorkerFacts,
    ms.JobOptions,
    ms.VadOptions,
    ms.LayoutOptions,
)


def _kind(kind: inspect.Type) -> str:
    """Return a type in the document's words."""
    match kind:
        case inspect.StrType() | inspect.LiteralType():
            return "string"
        case inspect.BoolType():
            return "bool"
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
        case inspect.TupleType(item_types=items):
            return f"[{', '.join(map(_kind, items))}]"
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
    if isinstance(field.default, Struct):
        assert field.default == type(field.default)()
        return "{}"
    return "nil" if field.default is None else json.dumps(field.default)


def _limits(kind: inspect.Type) -> list[str]:
    """Return the limits of a type in the document's words."""
    match kind:
        case inspect.UnionType(types=kinds):
            return [limit for one in kinds for limit in _limits(one)]
        case inspect.StrType(max_length=int(most)):
            return [f"up to {most} characters"]
        case inspect.StrType(pattern=str()):
            return ["64 hexadecimal digits in lower case"]
        case inspect.LiteralType(values=values):
            return [f"`{value}`" for value in values]
        case inspect.VarTupleType(max_length=int(most)):
            return [f"up to {most}"]
        case inspect.IntType(ge=int(least), le=int(most)):
            return [f"{least} to {_number(most)}"]
        case inspect.FloatType(gt=least, le=most) if most is not None:
            return [f"more than {least}, at most {most}"]
        case inspect.FloatType(gt=least, lt=most) if most is not None:
            return [f"more than {least}, less than {most}"]
        case _:
            return []


def _number(number: int) -> str:
    for shown, value in (("2^62", 2**62), ("2^63 - 1", 2**63 - 1)):
        if number == value:
            return shown
    return str(number)


@pytest.mark.parametrize("struct", _STRUCTS, ids=lambda struct: struct.__name__)
def test_a_message_has_its_fields_types_defaults_and_limits_in_the_document(struct: type[Struct]) -> None:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    rows = table(struct.__name__)
    fields = {field.name: (_kind(field.type), _default(field)) for field in info.fields}
    assert {field: row[:2] for field, row in rows.items()} == fields
    unsaid = {
        (field.name, limit)
        for field in info.fields
        for limit in _limits(field.type)
        if limit not in rows[field.name][2]
    }
    assert not unsaid


def test_the_limits_of_uploads_are_those_of_the_document() -> None:
    rows = table("Accepted")
    assert rows["window_bytes"][2].endswith(f": {WINDOW_BYTES} ")
    assert rows["chunk_bytes"][2].endswith(f": {CHUNK_BYTES} ")
    defaults = schema.UploadsConfig()
    for said in (
        f"`uploads.idle_s` ({defaults.idle_s:.0f} s)",
        f"`uploads.max_age_s` ({defaults.max_age_s:.0f} s)",
        f"`uploads.max_file_mb` ({defaults.max_file_mb // 1024} GiB)",
        f"`uploads.max_spool_mb` ({defaults.max_spool_mb // 1024} GiB)",
        f"`uploads.max_open` ({defaults.max_open})",
        f"`listen.requests_per_s` ({schema.ListenConfig().requests_per_s:.0f} a second)",
        f"at each kind of socket | {MAX_WATCHERS} |",
    ):
        assert said in TEXT


def test_the_document_has_no_other_messages() -> None:
    assert set(re.findall(r"^### (\w+)$", TEXT, re.MULTILINE)) == {struct.__name__ for struct in _STRUCTS}


def test_the_error_codes_of_the_document_are_those_in_the_code() -> None:
    sources = [
        _ROOT / "client" / "subtitle" / "codec.py",
        *(_ROOT / "daemon" / "subtitled" / "api").glob("*.py"),
        *(_ROOT / "daemon" / "subtitled" / "network").glob("*.py"),
    ]
    used = {
        code for source in sources for code in re.findall(r'"([A-Z][A-Z_]{5,})"', source.read_text("utf-8"))
    }
    assert used == ERRORS


def test_the_document_shows_both_sides() -> None:
    assert {side for side, _, _ in EXAMPLES} == {"C", "S"}


@pytest.mark.parametrize(("side", "frames", "said"), EXAMPLES)
def test_an_example_says_what_is_written_below_it(
    side: str, frames: list[bytes], said: dict[str, Any]
) -> None:
    assert msgspec.msgpack.decode(frames[1]) == said
    if side == "C":
        asked, _ = ms.to_server.decode(frames)
        meant = msgspec.to_builtins(asked)
        assert {field: meant[field] for field in said} == said
    else:
        answered, blobs = ms.to_client.decode(frames)
        assert msgspec.json.decode(msgspec.json.encode(answered)) == said
        assert bool(blobs) == isinstance(answered, ms.Subtitles)
