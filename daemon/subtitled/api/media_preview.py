"""A job's audio and picture, decoded for clients that play them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace

from subtitle import messages as ms
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.upload_store import UploadStore
from subtitled.api.views import display_path, media_of
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.plan import SAMPLES_PER_MS, AudioSource
from subtitled.core.protocol import Media
from subtitled.core.records import Job
from subtitled.errors import MediaError
from subtitled.languages import named_language
from subtitled.media.media_file import VideoFacts
from subtitled.media.preview_pool import AudioRange, MediaGoneError, PreviewPool, VideoPart
from subtitled.runtime.background import BackgroundPool, CallInLoop
from subtitled.storage.rows import JobRow

MAX_PENDING = 16
"""Requests of all clients that are decoded or queued."""
MAX_PENDING_OF_ONE = 8
"""Maximum pending requests of one client's key."""
MAX_CACHED_BYTES = 32 * 2**20
"""Segments of pictures that are kept in memory: about seven minutes."""
CACHED_S = 600.0
"""A part that is not requested for this time is dropped."""
_PART_OVERHEAD_BYTES = 1000
BYTES_PER_SAMPLE = 2
_facts_decoder = msgspec.msgpack.Decoder(VideoFacts)


class MediaPreview:
    """Answers GetAudio and GetVideo; belongs to the thread of the server's loop."""

    def __init__(
        self,
        uploads: UploadStore,
        call_in_loop: CallInLoop,
        pool: PreviewPool | None = None,
        video_pool: PreviewPool | None = None,
    ) -> None:
        self._uploads = uploads
        self._audio = _Decoders("preview", call_in_loop, pool or PreviewPool())
        # Apart: a picture may take seconds, and the audio is played meanwhile.
        self._video = _Decoders("video", call_in_loop, video_pool or PreviewPool())
        self._parts = _PartCache(MAX_CACHED_BYTES)

    def audio(self, message: ms.GetAudio, row: JobRow, peer: Peer) -> None:
        """Reply with the audio once it is decoded; raises RefusedError.

        Times are those of the cues: where the audio begins later than the media, the answer begins with silence.
        """
        media, job = media_of(row), row.job
        total = media.offset_samples + media.decoded_samples
        start = min(message.start_ms * SAMPLES_PER_MS, total)
        end = min(start + message.duration_ms * SAMPLES_PER_MS, total)
        audio_start = max(start, min(end, media.offset_samples))
        wanted = AudioRange(
            path=job.location,
            root=job.options.inbox,
            size=job.size,
            mtime_ns=job.mtime_ns,
            source=_source(media),
            language=named_language(job.options.language),
            drift_ms=media.drift_ms,
            start=audio_start - media.offset_samples,
            samples=end - audio_start,
        )
        silence = bytes((audio_start - start) * BYTES_PER_SAMPLE)
        answer = ms.Audio(
            request=message.request,
            job=job.id,
            start_ms=message.start_ms,
            sample_rate=SAMPLE_RATE,
            total_samples=total,
        )

        def decoded(pcm: bytes) -> None:
            peer.reply(answer, (silence + pcm,))

        self._decode(self._audio, wanted, decoded, message.request, job, peer)

    def video(self, message: ms.GetVideo, row: JobRow, peer: Peer) -> None:
        """Reply with the facts of the picture, and the requested part of it, once it is read or encoded."""
        media_of(row)  # a file that was read completely
        job = row.job
        part = VideoPart(
            path=job.location,
            root=job.options.inbox,
            size=job.size,
            mtime_ns=job.mtime_ns,
            form=message.form,
            start=message.start,
            length=message.length,
        )
        facts = replace(part, form=None, start=0, length=0)

        def found_facts(data: bytes) -> None:
            self._parts.add(facts, data)
            found = _facts_decoder.decode(data)
            if part.form is None:
                reply(found, ())
            elif part.form == "original" and not found.media_type:
                peer.refuse(message.request, "BAD_FORMAT", _not_playable(job))
            elif part.form != "original" and not found.width:
                peer.refuse(
                    message.request, "NOT_FOUND", f"job {job.id}: its media has no picture; {found.cause}"
                )
            elif (cached := self._parts.get(part)) is not None:
                reply(found, (cached,))
            else:
                request(part, partial(found_part, found))

        def found_part(found: VideoFacts, data: bytes) -> None:
            if part.form != "original":
                self._parts.add(part, data)
            reply(found, (data,))

        def reply(found: VideoFacts, blobs: tuple[bytes, ...]) -> None:
            answer = ms.Video(
                request=message.request,
                job=job.id,
                width=found.width,
                height=found.height,
                media_type=found.media_type,
                size=job.size,
                segment_ms=ms.VIDEO_SEGMENT_MS,
                cause=found.cause,
            )
            peer.reply(answer, blobs)

        def request(wanted: VideoPart, on_data: Callable[[bytes], None]) -> None:
            try:
                self._decode(self._video, wanted, on_data, message.request, job, peer)
            except RefusedError as error:
                peer.refuse(message.request, error.code, str(error))

        if (known := self._parts.get(facts)) is not None:
            found_facts(known)
        else:
            request(facts, found_facts)

    def _decode(
        self,
        decoders: _Decoders,
        wanted: AudioRange | VideoPart,
        on_data: Callable[[bytes], None],
        request: int,
        job: Job,
        peer: Peer,
    ) -> None:
        """Decode in the background, then call `on_data`, or refuse the request; raises RefusedError."""

        def failed(error: MediaError) -> None:
            peer.refuse(request, *self._describe(job, error))

        decoders.run(wanted, peer.principal.name, on_data, failed)

    def tick(self, now: float) -> None:
        """Stop idle decoder processes."""
        self._audio.pool.end_idle(now)
        self._video.pool.end_idle(now)
        self._parts.expire(now)

    def close(self) -> None:
        """Stop all decoder processes."""
        for decoders in (self._audio, self._video):
            decoders.pool.close()
            decoders.background.close()

    def _describe(self, job: Job, error: MediaError) -> tuple[str, str]:
        """Return the code and the message of an Error."""
        if not isinstance(error, MediaGoneError):
            return "INTERNAL", f"job {job.id}: {error}"
        if self._uploads.contains(job):
            remedy = "the server keeps it for uploads.keep_done_s or uploads.keep_failed_s; upload it again"
        else:
            remedy = f"restore {display_path(job.location)}"
        return "NOT_FOUND", f"job {job.id}: its media {error}; {remedy}"


def _source(media: Media) -> AudioSource:
    """Return what is played of a file: what is transcribed, or all channels if that is in several mixes."""
    if media.audio is None:
        return AudioSource()
    return AudioSource(media.audio.track, "" if media.audio.fallback else media.audio.mix)


def _not_playable(job: Job) -> str:
    return (
        f"job {job.id}: browsers do not play its file as it is (MP4 with H.264, WebM);"
        ' request segments with form "h264" or "vp8"'
    )


class _Decoders:
    """A pool of decoder processes, with limits of what waits for them."""

    def __init__(self, name: str, call_in_loop: CallInLoop, pool: PreviewPool) -> None:
        self.pool = pool
        self.background = BackgroundPool(name, call_in_loop, threads=pool.count)
        self._pending: Counter[str] = Counter()

    def run(
        self,
        wanted: AudioRange | VideoPart,
        owner: str,
        on_data: Callable[[bytes], None],
        on_error: Callable[[MediaError], None],
    ) -> None:
        """Decode, then call one of the functions in the loop; raises RefusedError at the limits."""
        if self._pending.total() >= MAX_PENDING or self._pending[owner] >= MAX_PENDING_OF_ONE:
            raise RefusedError(
                "RATE_LIMITED",
                f"{self._pending.total()} {wanted.what} requests are pending, {self._pending[owner]} of them yours"
                f" (limits: {MAX_PENDING}, {MAX_PENDING_OF_ONE}); try again when some are answered",
            )

        def decoded(data: bytes) -> None:
            self._release(owner)
            on_data(data)

        def failed(error: MediaError) -> None:
            self._release(owner)
            on_error(error)

        self._pending[owner] += 1
        self.background.run(partial(_decode_checked, self.pool, wanted), decoded, failed, MediaError)

    def _release(self, owner: str) -> None:
        self._pending[owner] -= 1
        if not self._pending[owner]:
            del self._pending[owner]


def _decode_checked(pool: PreviewPool, wanted: AudioRange | VideoPart) -> bytes:
    """Return what is requested; raises MediaError, also for what a decoder that a file has taken over may send."""
    data = pool.decode(wanted)
    if isinstance(wanted, AudioRange):
        max_bytes = wanted.samples * BYTES_PER_SAMPLE
    elif wanted.form == "original":
        max_bytes = wanted.length
    else:
        max_bytes = MAX_CACHED_BYTES
    if len(data) > max_bytes:
        raise MediaError(f"its decoder returned {len(data)} bytes of {wanted.what}; the limit is {max_bytes}")
    if isinstance(wanted, VideoPart) and wanted.form is None:
        try:
            _facts_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MediaError(f"its decoder returned invalid facts: {error}") from None
    return data


class _PartCache:
    """Facts and segments that were requested last."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._parts: dict[VideoPart, tuple[float, bytes]] = {}
        """With the time of their last use; least recently used first."""

    def get(self, part: VideoPart) -> bytes | None:
        """Return a part; None if it is not kept."""
        found = self._parts.pop(part, None)
        if found is None:
            return None
        self._parts[part] = (time.monotonic(), found[1])
        return found[1]

    def add(self, part: VideoPart, data: bytes) -> None:
        """Keep a part, in place of those that were used least recently."""
        self._drop(part)
        self._parts[part] = (time.monotonic(), data)
        self._bytes += len(data) + _PART_OVERHEAD_BYTES
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._parts)))

    def expire(self, now: float) -> None:
        """Drop what was not used for `CACHED_S`; `now` is monotonic."""
        while self._parts:
            part, (used_at, _) = next(iter(self._parts.items()))
            if now - used_at < CACHED_S:
                return
            self._drop(part)

    def _drop(self, part: VideoPart) -> None:
        found = self._parts.pop(part, None)
        if found is not None:
            self._bytes -= len(found[1]) + _PART_OVERHEAD_BYTES
