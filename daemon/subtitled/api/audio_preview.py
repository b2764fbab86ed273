"""Audio of jobs, decoded for clients that want to hear it."""

from __future__ import annotations

from collections import Counter
from functools import partial

from subtitle import messages as ms
from subtitled.api.peer import Peer, RefusedError
from subtitled.api.upload_store import UploadStore
from subtitled.api.upload_writer import CallBack
from subtitled.api.views import media_of, shown
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.plan import SAMPLES_PER_MS
from subtitled.core.records import Job
from subtitled.errors import MediaError
from subtitled.media.preview_pool import AudioRange, MediaGoneError, PreviewPool
from subtitled.runtime.background import BackgroundPool
from subtitled.storage.rows import JobRow

MAX_UNDER_WAY = 16
"""Stretches that are decoded or wait for it, of all clients."""
MAX_OF_ONE = 8
"""Of one client's key."""
BYTES_PER_SAMPLE = 2


class AudioPreview:
    """Belongs to the thread of the server's loop, to which what its own threads wait for comes back."""

    def __init__(self, holdings: UploadStore, call_back: CallBack, ears: PreviewPool | None = None) -> None:
        """Start nothing yet; `call_back`, called in a thread, has a function called in the loop's."""
        self._holdings = holdings
        self._ears = ears or PreviewPool()
        self._aside = BackgroundPool("ears", call_back, threads=self._ears.count)
        self._under_way: Counter[str] = Counter()

    def listen(self, message: ms.GetAudio, row: JobRow, peer: Peer) -> None:
        """Answer, when it is decoded, with a stretch of a job's audio; raises RefusedError.

        It is counted in the time of the cues: where the audio begins later than the media, there is silence before.
        """
        media, job, who = media_of(row), row.job, peer.who.name
        if self._under_way.total() >= MAX_UNDER_WAY or self._under_way[who] >= MAX_OF_ONE:
            raise RefusedError(
                "RATE_LIMITED",
                f"{self._under_way.total()} stretches of audio are being decoded, {self._under_way[who]} of them for you;"
                " ask again when some are there",
            )
        total = media.offset_samples + media.decoded_samples
        start = min(message.start_ms * SAMPLES_PER_MS, total)
        end = min(start + message.duration_ms * SAMPLES_PER_MS, total)
        begins = max(start, min(end, media.offset_samples))
        asked = job.options.language
        stretch = AudioRange(
            path=job.location,
            size=job.size,
            mtime_ns=job.mtime_ns,
            language=None if asked in {"auto", "multi"} else asked,
            drift_ms=media.drift_ms,
            start=begins - media.offset_samples,
            samples=end - begins,
        )
        silence = bytes((begins - start) * BYTES_PER_SAMPLE)
        answer = ms.Audio(
            request=message.request,
            job=job.id,
            start_ms=message.start_ms,
            sample_rate=SAMPLE_RATE,
            total_samples=total,
        )

        def heard(pcm: bytes) -> None:
            self._done(who)
            peer.reply(answer, (silence + pcm,))

        def failed(error: MediaError) -> None:
            self._done(who)
            peer.refuse(message.request, *self._told(job, error))

        self._under_way[who] += 1
        self._aside.run(partial(self._ears.hear, stretch), heard, failed, MediaError)

    def tick(self, now: float) -> None:
        """Let go of processes that nobody needs."""
        self._ears.let_go(now)

    def close(self) -> None:
        """End all processes."""
        self._ears.close()
        self._aside.close()

    def _done(self, who: str) -> None:
        self._under_way[who] -= 1
        if not self._under_way[who]:
            del self._under_way[who]

    def _told(self, job: Job, error: MediaError) -> tuple[str, str]:
        """Return the code and the text of an Error."""
        if not isinstance(error, MediaGoneError):
            return "INTERNAL", f"job {job.id}: {error}"
        if self._holdings.holds(job):
            where = "the server keeps it for uploads.keep_done_s, or uploads.keep_failed_s; send it again to hear it"
        else:
            where = f"put it back to {shown(job.location)} to hear it"
        return "NOT_FOUND", f"job {job.id}: its media {error}; {where}"
