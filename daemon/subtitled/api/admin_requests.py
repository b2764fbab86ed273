"""Requests of admins: pause of the queue, log level and last lines, disks, retention, loaded models."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import assert_never

from subtitle import messages as ms
from subtitled import log
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.stats import ServerStats
from subtitled.config.schema import Config
from subtitled.core.broker import Broker
from subtitled.core.events import Event, ModelRequested, PauseRequested

AdminRequest = ms.Operate | ms.SetLogLevel | ms.LoadModel | ms.UnloadModel
RETENTION = (
    ("state", "reserve_mb"),
    ("state", "keep_jobs_days"),
    ("uploads", "keep_done_s"),
    ("uploads", "keep_failed_s"),
    ("uploads", "max_age_s"),
    ("uploads", "max_spool_mb"),
)
"""Settings of what is kept that `OperateInfo.retention` has: section and key."""
_log = log.get()


class AdminRequests:
    """Belongs to the thread of the server's loop."""

    def __init__(
        self,
        config: Config,
        *,
        broker: Broker,
        dispatch: Callable[[Event], None],
        stats: ServerStats,
        query: Callable[..., None],
    ) -> None:
        """`dispatch` handles an event and commits the result; `query` is `RequestHandlers.query`."""
        self.config = config
        """The configuration in force."""
        self._broker = broker
        self._dispatch = dispatch
        self._stats = stats
        self._query = query

    def handle(self, message: AdminRequest, peer: Peer) -> None:
        """Answer a request now or later; raises RefusedError, for any client that is no admin."""
        if peer.principal.role != "admin":
            raise RefusedError(
                "FORBIDDEN", 'operating the server needs the role "admin"; this key has the role "user"'
            )
        match message:
            case ms.Operate():
                self._operate(message, peer)
            case ms.SetLogLevel(request=request, level=level):
                before = log.level()
                if level is not None:
                    log.set_level(level, by=_name(peer))
                peer.reply(ms.LogLevel(request=request, level=log.level(), before=before))
            case ms.LoadModel(request=request, model=model, workers=workers):
                self._load(request, model, workers, peer)
            case ms.UnloadModel(request=request, model=model):
                self._load(request, model, 0, peer)
            case _:
                assert_never(message)

    def _operate(self, message: ms.Operate, peer: Peer) -> None:
        """Pause or resume the queue, and reply with the state of the server."""
        if message.is_paused is not None and message.is_paused is not self._broker.is_paused:
            self._dispatch(PauseRequested(message.is_paused))
            _log.info(log.QUEUE_PAUSED if message.is_paused else log.QUEUE_RESUMED, by=_name(peer))
        config = self.config
        retention = {
            f"{section}.{key}": float(getattr(getattr(config, section), key)) for section, key in RETENTION
        }

        def read() -> tuple[ms.Disk, ...]:
            usage = shutil.disk_usage(config.state.dir)
            reserve = config.state.reserve_mb * 2**20
            path = config.state.dir
            return (
                ms.Disk(path=path, free_bytes=usage.free, total_bytes=usage.total, reserve_bytes=reserve),
            )

        def done(disks: tuple[ms.Disk, ...]) -> None:
            answer = ms.OperateInfo(
                request=message.request,
                log_level=log.level(),
                is_paused=self._broker.is_paused,
                log=log.last_lines(message.log_lines, message.log_level, message.log_text),
                disks=disks,
                retention=retention,
            )
            peer.reply(answer)

        self._query(message.request, peer, read, done, "the disk cannot be read; see the server's log")

    def _load(self, request: int, name: str, workers: int, peer: Peer) -> None:
        """Have a number of workers load a model; 0: have all unload it."""
        placement = self._broker.placement
        models = {model.name: model for model in self._stats.models}
        if name not in models:
            raise RefusedError(
                "NOT_FOUND", f"model {name[:100]!r} is not configured; use one of: {', '.join(models)}"
            )
        option = models[name].option
        if placement.is_endpoint(option):
            raise RefusedError(
                "WRONG_STATE", f"model {name!r} is behind an endpoint; no worker has it in memory"
            )
        if workers and (fault := placement.fault(option)):
            raise RefusedError("WRONG_STATE", f"model {name!r} cannot be loaded: {fault}")
        if self._broker.is_draining:
            raise RefusedError("DRAINING", "the server is stopping; try again after its restart")
        if workers:
            _log.info(log.MODEL_LOAD_REQUESTED, model=name, workers=workers, by=_name(peer))
        else:
            _log.info(log.MODEL_UNLOAD_REQUESTED, model=name, by=_name(peer))
        self._dispatch(ModelRequested(model=option, workers=workers))
        facts = next(model for model in self._stats.model_facts(peer.principal) if model.name == name)
        peer.reply(ms.ModelInfo(request=request, model=facts))


def _name(peer: Peer) -> str:
    """Return who makes a request, for the log."""
    return peer.principal.name or "a client on the local socket"
