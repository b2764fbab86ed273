"""What workers say, as events of the core."""

from __future__ import annotations

import msgspec

from subtitled.core import events as ev
from subtitled.core import protocol as be
from subtitled.core.records import SegmentKey

BYTES_PER_SAMPLE = 2


def event_of(worker: str, message: be.FromWorker) -> ev.Event:
    """Return what has happened, by a message that needs no look at anything else; one that does is a sign of life."""
    match message:
        case be.Heartbeat(feed=feed, decoded_samples=decoded, is_waiting=is_waiting):
            return ev.Progressed(worker=worker, feed=feed, decoded_samples=decoded, is_waiting=is_waiting)
        case be.Prepared(feed=feed, plan=plan):
            return ev.Prepared(worker=worker, feed=feed, plan=plan, pcm_bytes=plan.samples * BYTES_PER_SAMPLE)
        case be.PlanComplete(feed=feed, media=media):
            waveform = msgspec.msgpack.encode(message.waveform) if message.waveform else None
            return ev.PlanComplete(
                worker=worker, feed=feed, media=msgspec.msgpack.encode(media), waveform=waveform
            )
        case be.AlreadySubtitled(feed=feed, cause=cause):
            return ev.FileAlreadySubtitled(worker=worker, feed=feed, cause=cause)
        case be.Transcribed(lease=lease, items=items):
            return ev.Transcribed(
                worker=worker, lease=lease, outcomes=tuple(_outcome(item) for item in items)
            )
        case be.Unloaded():
            return ev.ModelUnloaded(worker)
        case be.Refused(feed=feed, lease=lease, cause=cause):
            if lease:
                return ev.LeaseRefused(worker=worker, lease=lease, cause=cause)
            return ev.PrepareRefused(worker=worker, feed=feed, cause=cause)
        case be.Ready() | be.ExitReason() | be.JoinSession() | be.Echo() | be.Received() | be.WorkerLeaves():
            return ev.WorkerHeard(worker)


def is_remote(worker: str) -> bool:
    """Say whether an identity is that of a worker on another host: HOST/PLACE.N."""
    return "/" in worker


def _outcome(item: be.ItemResult) -> ev.Outcome:
    result = item.result
    return ev.Outcome(
        key=SegmentKey(item.job, item.index),
        is_speech=result.is_speech,
        language=result.language,
        language_probability=result.language_probability,
        result=msgspec.msgpack.encode(result),
    )
