"""The prepare role: one media file at a time to planned segments, streamed under credit."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from msgspec.msgpack import encode

from subtitled.config import schema
from subtitled.core import protocol as pr
from subtitled.errors import ExitCode, MediaError
from subtitled.files.filesystem import find_renamed, is_missing_error, is_mount_error
from subtitled.media.existing_subtitles import skip_cause
from subtitled.media.ingest import Ingest, recut
from subtitled.media.ingest import IngestedSegment as Segment
from subtitled.media.subtitle_source import read_subtitle_file
from subtitled.runtime import sandbox
from subtitled.version import VERSION
from subtitled.workers.channel import Channel, start_thread
from subtitled.workers.shared_pcm import ArenaWriter


class _AbandonedError(Exception):
    """The file was abandoned."""


class _SkippedError(Exception):
    """The file is skipped: it already has subtitles."""


class _OtherFoldersError(Exception):
    """The sandbox of this process does not cover the file's folder as it is now."""


SPEED_WINDOW_S = 60.0
"""Processor time after which the speed of decoding is checked again."""
SLOWEST_SPEED = 0.5
"""Seconds of audio that a second of processor time must yield. The slowest real codecs reach 10 on slow processors."""
FOLDERS_CHANGED = "the folders of the configuration have changed"
_TOO_MUCH_MEMORY = "reading it takes more memory than pool.prepare_memory_mb allows; the file may be damaged: check it, or raise the limit"


class SpeedLimit:
    """Refuses a file whose decoding takes far more processor time than any real recording."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """`clock` returns the processor time of the decoding thread, in seconds."""
        self._clock = clock
        self._from_s = clock()
        self._from_samples = 0

    def check(self, decoded_samples: int) -> None:
        """Raise MediaError if the last `SPEED_WINDOW_S` of processor time yielded too little audio.

        Fewer samples than before are those of another reading.
        """
        if decoded_samples < self._from_samples:
            self._from_s, self._from_samples = self._clock(), 0
        spent_s = self._clock() - self._from_s
        if spent_s < SPEED_WINDOW_S:
            return
        audio_s = (decoded_samples - self._from_samples) / schema.SAMPLE_RATE
        if audio_s < SLOWEST_SPEED * spent_s:
            raise MediaError(
                f"its last {audio_s:.1f} s of audio took {spent_s:.0f} s of processor time, at most "
                f"{audio_s / SLOWEST_SPEED:.0f} s are allowed; it may be damaged: "
                "convert it with ffmpeg -i FILE -vn audio.flac"
            )
        self._from_s += spent_s
        self._from_samples = decoded_samples


class _Task:
    """One file, its credit, and how far it is; used by the thread that reads and the thread of the socket."""

    def __init__(self, order: pr.Prepare, max_hours: float, memory: ArenaWriter | None = None) -> None:
        """`memory`: for its PCM; None: that goes by the socket."""
        self.order = order
        self.memory = memory
        self.speed_limit: SpeedLimit | None = None
        """Created by the thread that decodes."""
        self._max_hours = max_hours
        self.decoded_samples = 0
        self.is_waiting = False
        self._credit_bytes = order.credit_bytes
        self._is_abandoned = False
        self._changed = threading.Condition()

    def grant(self, credit_bytes: int) -> None:
        with self._changed:
            self._credit_bytes += credit_bytes
            self._changed.notify()

    def abandon(self) -> None:
        with self._changed:
            self._is_abandoned = True
            self._changed.notify()

    def progress(self, decoded_samples: int) -> None:
        """Note progress; raises if the file was abandoned, its audio is too long, or its decoding too slow."""
        self.decoded_samples = decoded_samples
        if self._is_abandoned:
            raise _AbandonedError
        if self.speed_limit is not None:
            self.speed_limit.check(decoded_samples)
        if self._max_hours and decoded_samples > self._max_hours * 3600 * schema.SAMPLE_RATE:
            raise MediaError(
                f"its audio is longer than pool.max_hours ({self._max_hours:g} h); cut the file, or raise the limit"
            )

    def spend(self, pcm_bytes: int) -> None:
        """Wait for credit and take `pcm_bytes` off it; the last segment may overdraw it."""
        with self._changed:
            self.is_waiting = self._credit_bytes <= 0
            self._changed.wait_for(lambda: self._credit_bytes > 0 or self._is_abandoned)
            self.is_waiting = False
            if self._is_abandoned:
                raise _AbandonedError
            self._credit_bytes -= pcm_bytes


class PrepareRole:
    """Reads files in a separate thread; see `channel.RoleHandler`."""

    def __init__(
        self,
        channel: Channel,
        readable: Iterable[str] = (),
        *,
        hung: Sequence[str] = (),
        max_hours: float = 0,
    ) -> None:
        self._channel = channel
        self._hung = hung
        self._max_hours = max_hours
        self._folders = {folder: _identity(folder) for folder in readable}
        self._has_read = False
        self._orders: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._task: _Task | None = None
        start_thread(channel, "reader", self._read)

    def receive(self, message: pr.ToWorker, _: Sequence[memoryview]) -> None:
        """Take a file, credit for it, or its withdrawal."""
        match message:
            case pr.Prepare():
                if self._task is None:
                    sandbox.deny_sockets()  # once, since filters add up; the connection to the daemon stands
                memory = (
                    ArenaWriter(*self._channel.receive_descriptors(message.feed))
                    if message.has_memory
                    else None
                )
                self._task = _Task(message, self._max_hours, memory)
                self._orders.put(self._task)
            case pr.FeedCredit(feed=feed, bytes=count, free_places=places):
                if self._task and self._task.order.feed == feed:
                    if self._task.memory is not None:
                        self._task.memory.free(places)
                    self._task.grant(count)
            case pr.Abandon(feed=feed):
                if self._task and self._task.order.feed == feed:
                    self._task.abandon()
            case pr.Drain():
                if self._task:
                    self._task.abandon()
                self._orders.put(None)
            case pr.Transcribe() | pr.Translate() | pr.AbandonLease():
                raise TypeError("a prepare worker received a lease")

    def heartbeat(self) -> pr.Heartbeat:
        """Return a heartbeat with the progress of the present file."""
        task = self._task
        if task is None:
            return pr.Heartbeat()
        return pr.Heartbeat(
            feed=task.order.feed, decoded_samples=task.decoded_samples, is_waiting=task.is_waiting
        )

    def _read(self) -> None:
        while (task := self._orders.get()) is not None:
            try:
                complete = self._prepare(task)
            except _AbandonedError:
                self._channel.post(pr.FileAbandoned(feed=task.order.feed))
            except _SkippedError as found:
                self._channel.post(pr.AlreadySubtitled(feed=task.order.feed, cause=str(found)))
            except _OtherFoldersError:
                # The daemon answers with Drain, and queues the file again without blaming it.
                self._channel.post(pr.WorkerLeaving(cause=FOLDERS_CHANGED))
            except MemoryError:
                self._channel.post(pr.PrepareRefused(feed=task.order.feed, cause=_TOO_MUCH_MEMORY))
            except MediaError as error:
                feed, cause = task.order.feed, str(error)
                if is_mount_error(error):
                    self._channel.post(pr.FileUnavailable(feed=feed, cause=cause))
                else:
                    is_missing = is_missing_error(error)
                    self._channel.post(pr.PrepareRefused(feed=feed, cause=cause, is_missing=is_missing))
            else:
                self._channel.post(complete)
            finally:
                # A decoder that a later file takes over must not reach the PCM of this one.
                if task.memory is not None:
                    task.memory.close()
        self._channel.stop(ExitCode.OK)

    def _prepare(self, task: _Task) -> pr.PlanComplete:
        order = task.order
        path, root = os.fsdecode(order.path), os.fsdecode(order.root)
        root = root or str(Path(path).parent)
        if not self._may_read(path):
            raise _OtherFoldersError
        self._has_read = True
        task.speed_limit = SpeedLimit()
        path = _present_path(order, path)
        _check_unchanged(order, path)
        if order.skip_rule is not None and (cause := skip_cause(path, order.skip_rule, root)):
            raise _SkippedError(cause)
        if order.plans is not None:
            self._send_all(
                task,
                recut(
                    path,
                    order.plans,
                    language=order.language,
                    root=root,
                    on_progress=task.progress,
                ),
            )
            _check_unchanged(order, _present_path(order, path))
            return pr.PlanComplete(feed=order.feed, media=encode(pr.Media()))
        if order.is_subtitle_file:
            cues, language = read_subtitle_file(path, root=root, language=order.language)
            _check_unchanged(order, _present_path(order, path))
            return pr.PlanComplete(feed=order.feed, media=encode(pr.Media()), cues=cues, language=language)
        settings = order.settings
        vad = schema.VadConfig(
            threshold=settings.threshold, min_silence_ms=settings.min_silence_ms, pad_ms=settings.pad_ms
        )
        segments = schema.SegmentsConfig(
            min_speech_ms=settings.min_speech_ms,
            max_segment_s=settings.max_segment_s,
            max_pause_ms=settings.max_pause_ms,
        )
        with Ingest(
            path,
            vad=vad,
            segments=segments,
            window_s=settings.window_samples / schema.SAMPLE_RATE,
            audio_track=order.audio_track,
            channels=order.channels,
            language=order.language,
            root=root,
            on_progress=task.progress,
        ) as ingest:
            self._send_all(task, iter(ingest))
            # Once more: half of one content and half of another is the answer to neither.
            _check_unchanged(order, _present_path(order, path))
            media = pr.Media(
                container=ingest.info.container,
                codec=ingest.info.codec,
                sample_rate=ingest.info.sample_rate,
                channels=ingest.info.channels,
                offset_samples=ingest.info.offset_samples,
                track_offsets=ingest.offsets if len(ingest.offsets) > 1 else {},
                decoded_samples=ingest.decoded_samples,
                speech_samples=ingest.speech_samples,
                bad_packets=ingest.bad_packets,
                damaged=ingest.damaged,
                drift_ms=ingest.drift_ms,
                skipped=ingest.skipped,
                audio=ingest.audio,
            )
            interval_ms, peaks = ingest.peaks()
            return pr.PlanComplete(
                feed=order.feed,
                media=encode(media),
                waveform=encode(pr.Waveform(interval_ms=interval_ms, peaks=peaks)),
                decode_s=ingest.decode_s,
                vad_s=ingest.vad_s,
            )

    def _may_read(self, path: str) -> bool:
        """Return whether the sandbox leaves `path` readable, as far as it can be determined.

        Its folders are those that answered at the process's start. One that was configured, mounted or replaced since
        is reached by a new process.
        """
        if any(Path(path).is_relative_to(folder) for folder in self._hung):
            return False
        return not self._has_read or any(
            identity is not None and identity == _identity(folder)
            for folder, identity in self._folders.items()
            if Path(path).is_relative_to(folder)
        )

    def _send_all(self, task: _Task, segments: Iterator[Segment]) -> None:
        for segment in segments:
            if segment.plan.index in task.order.done:
                continue
            task.spend(segment.pcm.nbytes)
            place = task.memory.write(segment.pcm.data) if task.memory is not None else None
            message = pr.Prepared(feed=task.order.feed, plan=segment.plan, place=place)
            self._channel.post(message, [segment.pcm] if place is None else ())


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        found = Path(folder).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _present_path(order: pr.Prepare, path: str) -> str:
    """Return where the file is now: it may have been renamed within its inbox since it was accepted."""
    root = os.fsdecode(order.root)
    if not root or os.path.lexists(path):
        return path
    found = find_renamed(root, order.size, order.mtime_ns, include=order.include, exclude=order.exclude)
    return found or path


def _check_unchanged(order: pr.Prepare, path: str) -> None:
    try:
        found = Path(path).stat()
    except OSError as error:
        raise MediaError(f"the file cannot be read: {error.strerror}") from error
    if (found.st_size, found.st_mtime_ns) != (order.size, order.mtime_ns):
        raise MediaError(
            f"the file changed after it was accepted: {order.size} bytes then, {found.st_size} now; "
            "the new content becomes a separate job"
        )


def run(channel: Channel, settings: pr.WorkerSettings) -> ExitCode:
    """Serve until drained."""
    work = PrepareRole(channel, settings.readable, hung=settings.hung, max_hours=settings.max_hours)
    channel.post(pr.WorkerReady(version=VERSION, credit=1))
    return channel.serve(work)
