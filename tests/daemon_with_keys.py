"""A daemon with keys: a TCP endpoint, two users and an admin."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import msgspec

from commands import run_command
from daemon import Daemon, free_port
from subtitle.keys import Key, load_key
from subtitled.config import schema
from subtitled.config.load import to_toml

if TYPE_CHECKING:
    from pathlib import Path


class DaemonWithKeys:
    """A daemon that is started at once; `ann` and `ben` are users, `root` is an admin."""

    def __init__(self, folder: Path, uploads: schema.UploadsConfig = schema.UploadsConfig()) -> None:  # noqa: B008 - frozen
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.daemon = Daemon(folder, uploads=uploads)
        found = [new_key(self.daemon, "ann"), new_key(self.daemon, "ben")]
        found.append(new_key(self.daemon, "root", "--role", "admin"))
        self.ann, self.ben, self.root = (key for key, _ in found)
        self.allow(*(client for _, client in found))
        self.daemon.start()

    def allow(self, *clients: schema.ClientConfig) -> None:
        """Write another allow-list to the configuration."""
        self.clients = clients
        listen = msgspec.structs.replace(
            self.daemon.config.listen, clients=(self.daemon.endpoint, self.endpoint)
        )
        changed = msgspec.structs.replace(self.daemon.config, client=clients, listen=listen)
        self.daemon.config_file.write_text(to_toml(changed), "utf-8")


def new_key(daemon: Daemon, name: str, *options: str) -> tuple[Key, schema.ClientConfig]:
    """Make a key with `subtitled keys new`; return the client's key and its entry of the allow-list."""
    path = daemon.folder / f"{name}.toml"
    words = ("keys", "new", name, "-o", path, "--config", daemon.config_file, *options)
    (listed,) = tomllib.loads(run_command("subtitled", *words).stdout)["client"]
    return load_key(path), msgspec.convert(listed, schema.ClientConfig)
