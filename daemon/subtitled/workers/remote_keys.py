"""The keys of the hosts whose workers may join."""

from __future__ import annotations

from collections.abc import Mapping

from subtitled import log
from subtitled.network.auth import AllowList
from subtitled.observability.metrics import Metrics
from subtitled.workers.remote_session import PreviousSession

_log = log.get()


class RemoteKeys:
    """Those of the configuration, and those that were made since; belongs to the loop's thread, but for refusals."""

    def __init__(self, keys: Mapping[str, str], metrics: Metrics) -> None:
        """`keys`: the configuration's, by host."""
        self._metrics = metrics
        self._keys = dict(keys)
        self._guests: dict[str, str] = {}
        self._refused: PreviousSession[str] = PreviousSession()
        self.allowed: AllowList[str] = AllowList(self._by_key(), on_refused=self._refuse)

    def replace(self, keys: Mapping[str, str]) -> None:
        """Put other keys of the configuration into force."""
        self._keys = dict(keys)
        self.allowed.replace(self._by_key())

    def admit(self, host: str, key: str) -> None:
        """Let a host in by a key that the configuration does not have."""
        self._guests[host] = key
        self.allowed.replace(self._by_key())

    def withdraw(self, host: str) -> None:
        """Let it in no more; nothing happens if it was not let in."""
        self._guests.pop(host, None)
        self.allowed.replace(self._by_key())

    def _by_key(self) -> dict[str, str]:
        return {key: host for host, key in (*self._guests.items(), *self._keys.items())}

    def _refuse(self, key: str) -> None:
        """Count a connection with another key, and log it once; called in the authenticator's thread."""
        self._metrics.refused_keys.inc()
        if self._refused.note(key):
            _log.warning(
                log.WORKER_REFUSED, key=key, cause="the key is not in remote.keys; add it, and reload"
            )
