"""The fetch role: the model is brought to this machine, once, before the workers that load it are started."""

from __future__ import annotations

import time

from subtitled import log
from subtitled.asr.hub import fetch
from subtitled.asr.model import HubUnreachableError
from subtitled.core.protocol import ExitReason, WorkerSettings
from subtitled.errors import ExitCode, ModelError
from subtitled.workers.channel import Channel


def run(channel: Channel, settings: WorkerSettings) -> ExitCode:
    """Fetch the model and go; the exit status says whether it is there, cannot be had now, or never."""
    logger = log.get()
    model = settings.engine.model
    started = time.monotonic()

    def tell(so_far: int) -> None:
        elapsed_s = round(time.monotonic() - started, 1)
        logger.info(log.MODEL_DOWNLOADING, model=model, done_mb=round(so_far / 1e6, 1), elapsed_s=elapsed_s)

    try:
        folder = fetch(model, tell)
    except HubUnreachableError as error:
        channel.post(ExitReason(cause=str(error)))
        return ExitCode.FAILED
    except ModelError as error:
        channel.post(ExitReason(cause=str(error)))
        return ExitCode.FATAL
    logger.info(
        log.MODEL_DOWNLOADED,
        model=model,
        folder=str(folder),
        elapsed_s=round(time.monotonic() - started, 1),
    )
    return ExitCode.OK
