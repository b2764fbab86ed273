"""Where the values of the configuration come from: the file, the environment."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, inspect, structs

from subtitled.config import toml_struct

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX = "SUBTITLED_"
_BELOW_THE_FILE = {"WHISPER_COMPUTE_TYPE": "compute_type", "WHISPER_MODEL": "name"}
"""Variables that Whisper servers are commonly set up with, and the keys of [model] that they stand for."""


def read_file(path: str, faults: toml_struct.Faults) -> dict[str, Any]:
    """Give what the file says; a file that cannot be read is noted and counts as empty."""
    try:
        data = Path(path).read_bytes()
        table = tomllib.loads(data.decode("utf-8"))
    except (OSError, ValueError) as error:
        faults.lines.append(f"{path}: {_why_unreadable(error)}")
        return {}
    for name, value in table.items():
        faults.origins[name] = path
        if isinstance(value, dict):
            faults.origins.update({f"{name}.{key}": path for key in value})
    return table


def _why_unreadable(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError():
            return "no such file; `subtitled config init` writes one with every key explained"
        case OSError():
            return f"cannot be read: {error.strerror}"
        case UnicodeDecodeError():
            line = error.object.count(b"\n", 0, error.start) + 1
            return f"not UTF-8 (at line {line}); save the file as UTF-8"
        case _:
            return f"not TOML: {error}"


def read_below_the_file(
    environ: Mapping[str, str], table: dict[str, Any], faults: toml_struct.Faults
) -> None:
    """Put the values of other programs' variables into `table`, where the file says nothing."""
    for variable, key in _BELOW_THE_FILE.items():
        model = table.setdefault("model", {})
        if environ.get(variable) and isinstance(model, dict) and key not in model:
            model[key] = environ[variable]
            faults.origins[f"model.{key}"] = f"{variable} in the environment"


def read_environment(
    cls: type[Struct], environ: Mapping[str, str], table: dict[str, Any], faults: toml_struct.Faults
) -> None:
    """Put the values of the environment's variables for keys of `cls` into `table`, over those of the file."""
    known = dict(toml_struct.keys(cls))
    lists = {field.name for field in structs.fields(cls) if isinstance(field.default, tuple)}
    for variable, text in sorted(environ.items()):
        name = variable.removeprefix(_PREFIX)
        section, separator, key = name.lower().partition("__")
        if name == variable or not (separator or section in lists):
            continue  # not ours to judge: SUBTITLED_CONFIG and the like
        dotted = f"{section}.{key}" if separator else section
        faults.origins[dotted] = f"{variable} in the environment"
        if not separator:
            table[section] = _read_value(text)
        elif section in lists:
            remedy = (
                f"""only as a whole list: {_PREFIX}{section.upper()}='[{{path = "/a", output = "/b"}}]'"""
            )
            faults.add(dotted, text, remedy)
        elif dotted not in known:
            faults.add_unknown(dotted, text)
        elif isinstance(table.setdefault(section, {}), dict):
            is_text = isinstance(known[dotted], inspect.StrType)
            table[section][key] = text if is_text else _read_value(text)


def _read_value(text: str) -> object:
    """Give `text` as the TOML value that it is, or else as it stands."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text
