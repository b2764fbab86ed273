"""The daemon's side of the process that speaks with Ray: when it runs, and the key by which its workers join."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

from subtitle.keys import Key, new_pair
from subtitled import log
from subtitled.config.checks import RAY_HOST
from subtitled.config.schema import Config
from subtitled.network.auth import server_key, server_key_path
from subtitled.ray.settings import RaySettings, errand_of
from subtitled.runtime.sidecar import Sidecar, SidecarSettings
from subtitled.workers.remote_sessions import RemoteKeys


class RayProcess:
    """Starts it, ends it. The key is made anew with each daemon, and is in no file: what it opens, closes with the daemon."""

    def __init__(self, environ: Mapping[str, str], keys: RemoteKeys) -> None:
        """`keys`: the accepted keys of workers; the process's own is added."""
        self._keys = keys
        self._key: Key | None = None
        self._errand: RaySettings | None = None
        command = (sys.executable, "-m", "subtitled.ray", str(os.getpid()))
        self._companion = Sidecar(command, environ, lost_event=log.RAY_LOST)

    def want(self, config: Config) -> None:
        """Have it run if the configuration says so; started anew only where what it is told has changed."""
        errand = errand_of(config, self._made_key(config)) if config.pool.engine == "ray" else None
        if errand != self._errand:
            self._errand = errand
            self._companion.configure(SidecarSettings(msgspec.json.encode(errand)) if errand else None)

    def close(self) -> None:
        """End it, and its workers with it."""
        self._companion.close()

    def _made_key(self, config: Config) -> Key:
        if self._key is None:
            public, secret = new_pair()
            server = server_key(server_key_path(config)).public
            self._key = Key(name=RAY_HOST, public=public, secret=secret, server=server)
            self._keys.add_temporary(RAY_HOST, public)
        return self._key
