"""Inboxes and outputs on a mount that does not answer: logged, counted, and shown to clients."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from subtitled import log
from subtitled.files.atomic_files import printable
from subtitled.observability.metrics import Metrics

REMEDY = (
    "check the server and the network of this mount; its files wait, all others are processed; "
    "to give it up: umount -f -l FOLDER"
)
_log = log.get()


class HungFolders:
    """Belongs to the thread of the server's loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.hung_s: dict[str, float] = {}
        """Seconds for which a folder has not answered, by its path, of those that do not answer."""

    def update(self, hung_s: Mapping[str, float]) -> None:
        """Note which folders do not answer now."""
        for folder in hung_s.keys() - self.hung_s.keys():
            _log.error(log.FOLDER_HUNG, path=printable(folder), remedy=REMEDY)
            self._metrics.folder_hung.labels(printable(folder)).set(1)
        for folder in self.hung_s.keys() - hung_s.keys():
            _log.info(log.FOLDER_RECOVERED, path=printable(folder))
            with contextlib.suppress(KeyError):
                self._metrics.folder_hung.remove(printable(folder))
        self.hung_s.clear()
        self.hung_s.update(hung_s)
