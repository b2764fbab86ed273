"""Loads and checks the configuration from a TOML file and the environment."""

from __future__ import annotations

import copy
import os
import threading
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, inspect, structs

from subtitled.config import toml_struct
from subtitled.config.checks import check
from subtitled.config.schema import Config
from subtitled.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PATHS_S = 5.0
_PREFIX = "SUBTITLED_"
_OTHER_VARIABLES = {"WHISPER_COMPUTE_TYPE": "compute_type", "WHISPER_MODEL": "name"}
"""Variables that other Whisper servers use, and the keys of [model] that they set."""


def load_config(path: str | None, environ: Mapping[str, str], *, check_paths: bool = True) -> Config:
    """Return the configuration of the file at `path`, if any, overridden by `SUBTITLED_SECTION__KEY` in `environ`.

    Other keys have their defaults. Folders are normalised, and a single device becomes a list. WHISPER_MODEL and
    WHISPER_COMPUTE_TYPE apply where the file has no value. `check_paths`: also check folders and files on the disk. Raises
    `ConfigError` with every fault, one line each.
    """
    return _load(path, environ, check_paths=check_paths)[0]


def to_toml(config: Config) -> str:
    """Return the whole configuration as TOML; `load_config` reads an equal one from it."""
    return toml_struct.emit(config)


def to_toml_with_origins(path: str | None, environ: Mapping[str, str]) -> str:
    """Return the result of `load_config` as TOML, with a comment after each value that was set: where."""
    config, origins = _load(path, environ, check_paths=False)
    return toml_struct.emit(config, origins)


def _load(
    path: str | None, environ: Mapping[str, str], *, check_paths: bool
) -> tuple[Config, Mapping[str, str]]:
    faults = toml_struct.ConfigFaults(key for key, _ in toml_struct.keys(Config))
    table = _read_file(path, faults) if path is not None else {}
    is_read = not faults.lines
    _read_other_variables(environ, table, faults)
    _read_environment(Config, environ, table, faults)
    config = toml_struct.fill(Config, table, faults)
    if is_read:
        # If the file is unreadable, faults of the defaults would only distract.
        faults = _check(config, faults, check_paths=check_paths)
    if faults.lines:
        raise ConfigError(faults.lines)
    return _normal(config), faults.origins


def _check(
    config: Config, faults: toml_struct.ConfigFaults, *, check_paths: bool
) -> toml_struct.ConfigFaults:
    """Return the faults, with those of the values; paths are not checked on the disk if that takes longer than `PATHS_S`.

    On a mount that hangs a check never returns, and the daemon must start and reload all the same.
    """
    checked = copy.deepcopy(faults)
    if check_paths:
        checked.checks_paths = True
        thread = threading.Thread(target=check, args=(config, checked), daemon=True)
        thread.start()
        thread.join(PATHS_S)
        if not thread.is_alive():
            return checked
    check(config, faults)
    return faults


def _normal(config: Config) -> Config:
    devices = config.pool.devices
    if isinstance(devices, str) and devices != "auto":
        devices = (devices,)
    inboxes = tuple(
        structs.replace(
            inbox,
            path=os.path.normpath(inbox.path),
            output=inbox.output if inbox.output == "beside" else os.path.normpath(inbox.output),
        )
        for inbox in config.inbox
    )
    return structs.replace(
        config,
        pool=structs.replace(config.pool, devices=devices),
        inbox=inboxes,
        state=structs.replace(config.state, dir=os.path.normpath(config.state.dir)),
    )


def _read_file(path: str, faults: toml_struct.ConfigFaults) -> dict[str, Any]:
    """Return the file's table; an unreadable file is reported and counts as empty."""
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
            return "no such file; `subtitled config init` writes one that explains every key"
        case OSError():
            return f"cannot be read: {error.strerror}"
        case UnicodeDecodeError():
            line = error.object.count(b"\n", 0, error.start) + 1
            return f"not UTF-8 (at line {line}); save the file as UTF-8"
        case _:
            return f"not TOML: {error}"


def _read_other_variables(
    environ: Mapping[str, str], table: dict[str, Any], faults: toml_struct.ConfigFaults
) -> None:
    """Add the values of other programs' variables to `table` where the file has none."""
    for variable, key in _OTHER_VARIABLES.items():
        model = table.setdefault("model", {})
        if environ.get(variable) and isinstance(model, dict) and key not in model:
            model[key] = environ[variable]
            faults.origins[f"model.{key}"] = f"{variable} in the environment"


def _read_environment(
    cls: type[Struct], environ: Mapping[str, str], table: dict[str, Any], faults: toml_struct.ConfigFaults
) -> None:
    """Set keys of `cls` in `table` from the environment, which overrides the file."""
    known = dict(toml_struct.keys(cls))
    lists = {field.name for field in structs.fields(cls) if isinstance(field.default, tuple)}
    for variable, text in sorted(environ.items()):
        name = variable.removeprefix(_PREFIX)
        section, separator, key = name.lower().partition("__")
        if name == variable or not (separator or section in lists):
            continue  # not a key: SUBTITLED_CONFIG for example
        dotted = f"{section}.{key}" if separator else section
        faults.origins[dotted] = f"{variable} in the environment"
        if not separator:
            table[section] = _read_value(text)
        elif section in lists:
            remedy = f"""set the whole list: {_PREFIX}{section.upper()}='[{{path = "/a", output = "/b"}}]'"""
            faults.add(dotted, text, remedy)
        elif dotted not in known:
            faults.add_unknown(dotted, text)
        elif isinstance(table.setdefault(section, {}), dict):
            is_text = isinstance(known[dotted], inspect.StrType)
            table[section][key] = text if is_text else _read_value(text)


def _read_value(text: str) -> object:
    """Return `text` parsed as a TOML value, or unchanged if it is not one."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text
