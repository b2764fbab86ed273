"""The systemd files for one environment and one configuration: unit, sysusers.d, tmpfiles.d."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from msgspec import Struct

from subtitled.errors import SubtitledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from subtitled.config.schema import Config

OWN_FOLDER = "/srv/subtitled"
"""Folders below it belong to the daemon; other folders of inboxes may belong to others."""
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
"""As useradd(8) accepts it."""
STOP_SLACK_S = 30
"""Time to stop in addition to recovery.stop_timeout_s."""
_STATES, _SOCKETS = "/var/lib", "/run"
"""Where StateDirectory= and RuntimeDirectory= create folders."""
_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - not written to; PrivateTmp= would hide files there


class InstallLocation(Struct, frozen=True, kw_only=True):
    """The environment and user of the units."""

    program: str
    """Absolute path of the environment's `subtitled`."""
    python: str
    """Prefix of the environment's base Python (`sys.base_prefix`)."""
    config_file: str
    user: str = "subtitled"


class UnitFile(Struct, frozen=True):
    """A file, with its path below the root."""

    path: str
    text: str


def unit_files(
    location: InstallLocation, config: Config, *, is_there: Callable[[str], bool]
) -> list[UnitFile]:
    """Return the files for systemd; `is_there` returns whether a folder exists, which is then not changed.

    Raises SubtitledError for paths that a unit cannot contain.
    """
    _check_user(location.user)
    for path in (location.program, location.config_file, *_folders(config), config.state.dir):
        if not path.isprintable():
            raise SubtitledError(
                f"{path!r} contains control characters, which a unit cannot contain; rename it"
            )
    gateway = UnitFile("etc/systemd/system/subtitled-http.service", _gateway_unit(location))
    return [
        UnitFile("etc/systemd/system/subtitled.service", _unit(location, config)),
        *([gateway] if config.http.listen and not config.http.with_daemon else []),
        UnitFile("etc/sysusers.d/subtitled.conf", _sysusers(location.user, config.state.dir)),
        UnitFile("etc/tmpfiles.d/subtitled.conf", _tmpfiles(location.user, config, is_there)),
    ]


def worker_files(
    location: InstallLocation,
    endpoint: str,
    *,
    key_file: str,
    model: str = "",
    state: str = "/var/lib/subtitled",
) -> list[UnitFile]:
    """Return the files for systemd on a host whose workers join the daemon at `endpoint`.

    Raises SubtitledError for paths that a unit cannot contain.
    """
    _check_user(location.user)
    for path in (location.program, key_file, model):
        if not path.isprintable():
            raise SubtitledError(
                f"{path!r} contains control characters, which a unit cannot contain; rename it"
            )
    unit = _Unit(shipped("subtitled-worker@.service"))
    words = [location.program, "worker", "--connect", endpoint, "--key", key_file]
    words += ["--model", model] if model else []
    unit.set("ExecStart", f"{' '.join(map(_word, words))} --device %i".replace("$", "$$"))
    unit.set("User", location.user)
    unit.set("Group", location.user)
    needed = (location.program, location.python, key_file, *([model] if model.startswith("/") else []))
    if any(_is_below(path, home) for path in needed for home in _HOMES):
        unit.set("ProtectHome", "read-only")
    if any(_is_below(path, folder) for path in needed for folder in _TEMPORARY):
        unit.set("PrivateTmp", "no")
    return [
        UnitFile("etc/systemd/system/subtitled-worker@.service", unit.text),
        UnitFile("etc/sysusers.d/subtitled.conf", _sysusers(location.user, state)),
    ]


def shipped(name: str) -> str:
    """Return the shipped text of a file in `systemd/`."""
    return (files("subtitled") / "systemd" / name).read_text("utf-8")


def _check_user(user: str) -> None:
    if not USER_NAME.fullmatch(user) or user == "root":
        raise SubtitledError(f"user {user!r} is not allowed: use 1 to 31 of a-z, 0-9, _ and -, and not root")


def _folders(config: Config) -> list[str]:
    """Return the folders that the daemon writes in, besides its state and its sockets, each once."""
    found = [folder for inbox in config.inbox for folder in (inbox.path, inbox.output) if folder != "beside"]
    return list(dict.fromkeys(found))


def _unit(location: InstallLocation, config: Config) -> str:
    folders, state = _folders(config), config.state.dir
    needed = (location.program, location.python, location.config_file, *folders, *config.uploads.paths, state)
    unit = _Unit(shipped("subtitled.service"))
    command = f"{_word(location.program)} run --config {_word(location.config_file)}".replace("$", "$$")
    unit.set("ExecStart", command)
    unit.set("User", location.user)
    unit.set("Group", location.user)
    unit.set("RequiresMountsFor", " ".join(map(_word, (*folders, state))))
    unit.set("TimeoutStopSec", str(int(config.recovery.stop_timeout_s) + STOP_SLACK_S))
    unit.set("Environment", _environment(state))
    for key, root, paths in (
        ("StateDirectory", _STATES, [state]),
        ("RuntimeDirectory", _SOCKETS, _socket_folders(config)),
    ):
        names = [str(PurePosixPath(path).relative_to(root)) for path in paths if _is_below(path, root)]
        if names:
            unit.set(key, " ".join(map(_word, names)))
        else:
            unit.drop(key)
    writable = dict.fromkeys((*folders, *_elsewhere(config)))
    unit.set("ReadWritePaths", *(_word(f"-{folder}") for folder in writable))
    if any(_is_below(path, home) for path in needed for home in _HOMES):
        unit.set("ProtectHome", "read-only")  # what ReadWritePaths= names stays writable
    if any(_is_below(path, folder) for path in needed for folder in _TEMPORARY):
        unit.set("PrivateTmp", "no")
    return unit.text


def _gateway_unit(location: InstallLocation) -> str:
    unit = _Unit(shipped("subtitled-http.service"))
    command = f"{_word(location.program)} http --config {_word(location.config_file)}".replace("$", "$$")
    unit.set("ExecStart", command)
    unit.set("User", location.user)
    unit.set("Group", location.user)
    if any(
        _is_below(path, folder) for path in (location.program, location.config_file) for folder in _TEMPORARY
    ):
        unit.set("PrivateTmp", "no")
    return unit.text


def _environment(state: str) -> str:
    home, models = _word(f"HOME={state}"), _word(f"HF_HOME={state}/models")
    return f"{home} {models} PYTHONUNBUFFERED=1"


def _socket_folders(config: Config) -> list[str]:
    """Return the folders of sockets, except those that the daemon creates inside another."""
    paths = [end.removeprefix("ipc://") for end in (*config.listen.clients, config.listen.workers)]
    found = dict.fromkeys(str(PurePosixPath(path).parent) for path in paths if path.startswith("/"))
    return [folder for folder in found if not any(_is_below(folder, other) for other in found)]


def _elsewhere(config: Config) -> list[str]:
    """Return the folders of state and sockets that systemd does not create."""
    folders = [(config.state.dir, _STATES), *((folder, _SOCKETS) for folder in _socket_folders(config))]
    return [folder for folder, root in folders if not _is_below(folder, root)]


def _sysusers(user: str, state: str) -> str:
    text = shipped("subtitled.sysusers.conf").replace("/var/lib/subtitled", _word(state))
    return re.sub(r"^([um]) subtitled\b", rf"\1 {user}", text, flags=re.MULTILINE).replace(
        "-aG subtitled", f"-aG {user}"
    )


def _tmpfiles(user: str, config: Config, is_there: Callable[[str], bool]) -> str:
    comments = [line for line in shipped("subtitled.tmpfiles.conf").splitlines() if line.startswith("#")]
    made = [f for f in _folders(config) if _is_below(f, OWN_FOLDER) or not is_there(f)]
    roots = [f"d {OWN_FOLDER} 0755 root root -"] if any(_is_below(f, OWN_FOLDER) for f in made) else []
    kept = [
        f"d {_word(folder)} 0750 {user} {user} -" for folder in _elsewhere(config) if not is_there(folder)
    ]
    return "\n".join([*comments, *roots, *(f"d {_word(f)} 2775 {user} {user} -" for f in made), *kept, ""])


class _Unit:
    """The text of a unit, whose settings can be replaced in place."""

    def __init__(self, text: str) -> None:
        self.text = text

    def set(self, key: str, *values: str) -> None:
        """Replace the values of an existing setting: one line for each value."""
        self._replace(key, (f"{key}={value}" for value in values))

    def drop(self, key: str) -> None:
        """Remove a setting and its mode."""
        self._replace(key, ())
        self._replace(f"{key}Mode", ())

    def _replace(self, key: str, lines: Iterable[str]) -> None:
        found = re.search(rf"^(?:{key}=.*\n)+", self.text, re.MULTILINE)
        if found is None:
            raise KeyError(key)
        new = "".join(f"{line}\n" for line in lines)
        self.text = self.text[: found.start()] + new + self.text[found.end() :]


def _word(text: str) -> str:
    """Return `text` quoted as one word of a unit (systemd.syntax(7)), without specifiers."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    is_plain = escaped == text.replace("%", "%%") and not re.search(r"[\s';#]", text)
    return escaped if is_plain else f'"{escaped}"'


def _is_below(path: str, folder: str) -> bool:
    return path != folder and Path(path).is_relative_to(folder)
