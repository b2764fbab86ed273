"""Stretches of a job's audio, decoded for clients that play it."""

from __future__ import annotations

from collections import Counter
from functools import partial

from subtitle import messages as ms
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.upload_store import UploadStore
from subtitled.api.views import display_path, media_of
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.plan import SAMPLES_PER_MS, AudioSource
from subtitled.core.protocol import Media
from subtitled.core.records import Job
from subtitled.errors import MediaError
from subtitled.media.preview_pool import AudioRange, MediaGoneError, PreviewPool
from subtitled.runtime.background import BackgroundPool, CallInLoop
from subtitled.storage.rows import JobRow

MAX_PENDING = 16
"""Requests of all clients that are decoded or queued."""
MAX_PENDING_OF_ONE = 8
"""Of one client's key."""
BYTES_PER_SAMPLE = 2


class MediaPreview:
    """Answers GetAudio; belongs to the thread of the server's loop."""

    def __init__(
        self, uploads: UploadStore, call_in_loop: CallInLoop, pool: PreviewPool | None = None
    ) -> None:
        self._uploads = uploads
        self._pool = pool or PreviewPool()
        self._background = BackgroundPool("preview", call_in_loop, threads=self._pool.count)
        self._pending: Counter[str] = Counter()

    def handle(self, message: ms.GetAudio, row: JobRow, peer: Peer) -> None:
        """Reply with the audio once it is decoded; raises RefusedError.

        Times are those of the cues: where the audio begins later than the media, the answer begins with silence.
        """
        media, job, owner = media_of(row), row.job, peer.principal.name
        if self._pending.total() >= MAX_PENDING or self._pending[owner] >= MAX_PENDING_OF_ONE:
            raise RefusedError(
                "RATE_LIMITED",
                f"{self._pending.total()} audio requests are pending, {self._pending[owner]} of them yours"
                f" (limits: {MAX_PENDING}, {MAX_PENDING_OF_ONE}); try again when some are answered",
            )
        total = media.offset_samples + media.decoded_samples
        start = min(message.start_ms * SAMPLES_PER_MS, total)
        end = min(start + message.duration_ms * SAMPLES_PER_MS, total)
        audio_start = max(start, min(end, media.offset_samples))
        language = job.options.language
        wanted = AudioRange(
            path=job.location,
            root=job.options.inbox,
            size=job.size,
            mtime_ns=job.mtime_ns,
            source=_source(media),
            language=None if language in {"auto", "multi"} else language,
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
            self._release(owner)
            peer.reply(answer, (silence + pcm,))

        def failed(error: MediaError) -> None:
            self._release(owner)
            peer.refuse(message.request, *self._describe(job, error))

        self._pending[owner] += 1
        self._background.run(partial(self._pool.decode, wanted), decoded, failed, MediaError)

    def tick(self, now: float) -> None:
        """Stop idle decoder processes."""
        self._pool.end_idle(now)

    def close(self) -> None:
        """Stop all decoder processes."""
        self._pool.close()
        self._background.close()

    def _release(self, owner: str) -> None:
        self._pending[owner] -= 1
        if not self._pending[owner]:
            del self._pending[owner]

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
