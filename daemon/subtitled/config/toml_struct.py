"""Converts TOML tables to frozen Structs and reports all faults, not only the first."""

from __future__ import annotations

import datetime as dt
import difflib
import json
import re
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct, inspect, structs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_S = TypeVar("_S", bound=Struct)
_SHOWN_CHARACTERS = 200
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class ConfigFaults:
    """Collects faults in `lines`; each names the key, its value, the limit, and where it was set."""

    def __init__(self, known: Iterable[str]) -> None:
        """`known`: all keys, such as "model.name", for suggestions."""
        self.checks_paths = False
        """Also check that folders and files exist and are accessible."""
        self.lines: list[str] = []
        self.origins: dict[str, str] = {}
        """Where a key, or a list of tables, was set: a file, or a variable of the environment."""
        self.given: set[str] = set()
        """The keys that were set."""
        self._known = tuple(known)
        self._keys: set[str] = set()

    def add(self, key: str, value: object, allowed: str) -> None:
        """Report a value that is not allowed."""
        self._note(key, f"{shown(value)} is not allowed ({allowed})")

    def add_unknown(self, key: str, value: object) -> None:
        """Report an unknown key; suggests the nearest known one, or lists those of its section."""
        bare = re.sub(r"\[\d+\]", "", key)
        section = bare.rpartition(".")[0]
        sections = list(dict.fromkeys(known.partition(".")[0] for known in self._known))
        is_section = section in sections
        beside = (
            [known for known in self._known if known.startswith(f"{section}.")] if is_section else sections
        )
        near = difflib.get_close_matches(bare, self._known if is_section else [*sections, *self._known], n=1)
        remedy = f"did you mean {near[0]}?" if near else f"known here: {', '.join(beside)}"
        self._note(key, f"unknown key (value: {shown(value)}); {remedy}")

    def is_faulty(self, *keys: str) -> bool:
        """Return whether a fault of one of `keys`, or of a table that contains it, is reported already."""
        return any(key == bad or key.startswith((f"{bad}.", f"{bad}[")) for key in keys for bad in self._keys)

    def _note(self, key: str, text: str) -> None:
        self._keys.add(key)
        whole = re.sub(r"\[\d+\]$", "", key)
        origin = self.origins.get(whole)
        if origin is None and whole in self.given:
            origin = self.origins.get(key.partition("[")[0])
        self.lines.append(f"{key}: {text} [{origin or 'default'}]")


def keys(cls: type[Struct], prefix: str = "") -> Iterator[tuple[str, inspect.Type]]:
    """Yield each key below `cls`, such as "model.name", with its type; a list of tables counts as one table."""
    for field in structs.fields(cls):
        kind = inspect.type_info(field.type)
        item = kind.item_type if isinstance(kind, inspect.VarTupleType) else kind
        if isinstance(item, inspect.StructType):
            yield from keys(item.cls, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", kind


def fill(cls: type[_S], table: object, faults: ConfigFaults, key: str = "") -> _S:
    """Return `table` as a `cls`; an invalid value is reported to `faults` and keeps its default."""
    if not isinstance(table, dict):
        faults.add(
            key,
            table,
            f"must be a table, started by the line [{key}]" if "[" not in key else "must be a table",
        )
        return cls()
    values: dict[str, object] = {}
    known = {field.name: field.type for field in structs.fields(cls)}
    for name, value in table.items():
        where = f"{key}.{name}" if key else name
        faults.given.add(where)
        if name not in known:
            faults.add_unknown(where, value)
            continue
        kind = inspect.type_info(known[name])
        if isinstance(kind, inspect.StructType):
            values[name] = fill(kind.cls, value, faults, where)
        elif isinstance(kind, inspect.VarTupleType) and isinstance(kind.item_type, inspect.StructType):
            if isinstance(value, list):
                inner = kind.item_type.cls
                values[name] = tuple(fill(inner, v, faults, f"{where}[{i}]") for i, v in enumerate(value))
            else:
                faults.add(where, value, f"must be a list of tables, each started by the line [[{where}]]")
        elif not _is_text_clean(value):
            faults.add(where, value, "must be UTF-8 text without NUL")
        else:
            try:
                values[name] = msgspec.convert(value, known[name])
            except msgspec.ValidationError:
                faults.add(where, value, _allowed(kind, value))
    return cls(**values)


def emit(struct: Struct, origins: Mapping[str, str] | None = None, key: str = "") -> str:
    """Return `struct` as TOML that `fill` converts back to an equal one; it must not contain None or infinities.

    Keys and lists of tables in `origins` (see `ConfigFaults.origins`) get a comment that says where they were set.
    """
    origins = origins or {}
    plain: list[str] = []
    tables: list[str] = []
    for field in structs.fields(struct):
        value = getattr(struct, field.name)
        dotted = f"{key}.{field.name}" if key else field.name
        origin = f"  # {origins[dotted]}" if dotted in origins else ""
        if isinstance(value, Struct):
            tables.append(f"[{field.name}]\n{emit(value, origins, dotted)}")
        elif isinstance(value, tuple) and value and isinstance(value[0], Struct):
            tables.extend(f"[[{field.name}]]{origin}\n{emit(item)}" for item in value)
        else:
            plain.append(f"{field.name} = {_literal(value)}{origin}\n")
    return "\n".join(["".join(plain), *tables] if plain else tables)


def shown(value: object) -> str:
    """Return `value` as TOML, shortened for a message."""
    text = _literal(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _literal(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # TOML has JSON's escapes, but does not allow DEL unescaped. A surrogate comes only from a variable
            # that is not UTF-8; it must not break the message about it.
            escaped = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            return escaped.encode("utf-8", "backslashreplace").decode("utf-8")
        case list() | tuple():
            return f"[{', '.join(_literal(item) for item in value)}]"
        case dict():
            return f"{{{', '.join(f'{_key(name)} = {_literal(item)}' for name, item in value.items())}}}"
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case _:
            return repr(value)


def _key(name: str) -> str:
    """Return the name of a key as TOML."""
    return name if _BARE_KEY.fullmatch(name) else _literal(name)


def _is_text_clean(value: object) -> bool:
    """Return whether all text in `value` is valid in a path and in UTF-8."""
    match value:
        case str():
            return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
        case list():
            return all(_is_text_clean(item) for item in value)
        case dict():
            return all(_is_text_clean(part) for item in value.items() for part in item)
        case _:
            return True


def _allowed(kind: inspect.Type, value: object) -> str:
    """Return the allowed values of `kind`, as a remedy for `value`."""
    match kind:
        case inspect.IntType():
            is_number = isinstance(value, int) and not isinstance(value, bool)
            return _bounds(kind, "" if is_number else "a whole number, ")
        case inspect.FloatType():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return _bounds(kind, "" if is_number else "a number, ")
        case inspect.LiteralType():
            return " or ".join(_literal(choice) for choice in kind.values)
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "text in quotes"
        case inspect.VarTupleType():
            return f"a list such as [A, B] of: {_allowed(kind.item_type, value)}"
        case inspect.DictType():
            return f"a table such as {{NAME = VALUE}} of: {_allowed(kind.value_type, value)}"
        case inspect.UnionType():
            return ", or ".join(_allowed(part, value) for part in kind.types)
        case _:
            return type(kind).__name__


def _bounds(kind: inspect.IntType | inspect.FloatType, prefix: str) -> str:
    if kind.ge is not None and kind.le is not None:
        return f"{prefix}{kind.ge} to {kind.le}"
    words: Mapping[str, float | None] = {
        "at least": kind.ge,
        "more than": kind.gt,
        "at most": kind.le,
        "less than": kind.lt,
    }
    return prefix + " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)
