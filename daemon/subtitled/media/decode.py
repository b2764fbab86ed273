"""Decodes media files to 16 kHz mono PCM, streamed."""

from __future__ import annotations

import contextlib
from math import gcd
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import soundfile
import soxr

from subtitle.messages import AudioTrack
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.plan import AudioSource
from subtitled.errors import MediaError
from subtitled.media.completeness import incompleteness
from subtitled.media.damage import DamageLog, id3_bytes
from subtitled.media.demux import Track, UnreadableTrackError, mixed
from subtitled.media.media_file import BLOCK, SAMPLE_RATES, MediaFile, MediaInfo
from subtitled.media.mixing import default_mix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Decoder", "MediaInfo", "open_media"]

_RIFF = (b"RIFF", b"RIFX", b"RF64")
_UNCOMPRESSED = frozenset(
    {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
)


class Decoder:
    """An open media file; iterating it gives its audio, once, as int16 arrays (n,), 16 kHz mono, n > 0.

    Its channels are mixed as `mix` says; `each` gives several mixes at once. Damaged packets are skipped and counted in
    `bad_packets`; a truncated file yields the audio that it has; gaps in the timestamps are filled with silence, and
    overlaps trimmed, so that sample n is n / 16000 s after the first. Memory does not grow with the file. A file that cannot be read to its end, or has no
    sample, raises MediaError. A context manager.
    """

    def __init__(self, source: _Sound | Track, file: MediaFile, mix: str) -> None:
        self._source = source
        self.source = AudioSource(source.info.track, mix or default_mix(source.info.channels))
        self._file = file
        self._dropped = 0
        """Samples of the track that are left out before the next block."""
        self._is_from_start = True
        self.info = source.info
        self.tracks = source.tracks
        """All audio tracks of the file."""
        self.order = source.order
        """Numbers of the tracks that may be transcribed, the preferred one first; this one is the first."""

    @property
    def bad_packets(self) -> int:
        """Packets skipped so far because they could not be read or decoded."""
        return self._source.damage.bad_packets

    @property
    def damaged(self) -> tuple[tuple[int, int], ...]:
        """Spans of which audio is known to be lost, in ms after the first sample; complete at the end.

        Lost audio inside the file is silence, that at the end is not there at all. A span before the first sample is negative.
        """
        return tuple((start // 1_000_000, -(-end // 1_000_000)) for start, end in self._source.damage.spans)

    @property
    def drift_ms(self) -> int:
        """Largest difference so far between a timestamp and the place of its audio, in ms: the error of `seek`."""
        return self._source.drift_ms

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be repeated."""
        self._source.close()
        self._file.close()

    def seek(self, sample: int) -> int | None:
        """Move to about a decoded sample, usually before it; the next iteration starts there.

        Returns the number of the first sample that follows. From half a second after it the samples equal those of the first
        decoding; nearer ones may differ, since codecs depend on earlier packets. None: unknown; open the file again.
        """
        found = self._source.seek(sample)
        self._is_from_start = False
        if found is None:
            return None
        rate, at = found
        # Samples of both rates coincide once in so many; from another start the resampler yields those in between.
        self._dropped = -at % (rate // gcd(rate, SAMPLE_RATE))
        return (at + self._dropped) * SAMPLE_RATE // rate

    def __iter__(self) -> Iterator[NDArray[np.int16]]:
        for samples in self.each((self.source.mix,)):
            yield samples[0]

    def each(self, mixes: Sequence[str]) -> Iterator[NDArray[np.int16]]:
        """Yield the audio in several mixes, int16 (mixes, n), in place of iterating."""
        is_empty = self._is_from_start
        for rows in self._resampled(mixes):
            if len(rows[0]):
                is_empty = False
                pcm = np.empty((len(rows), len(rows[0])), np.int16)
                for row, whole in zip(rows, pcm, strict=True):
                    scaled = row * np.float32(32768)
                    whole[:] = np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled)
                yield pcm
        if self._file.fault is not None:
            raise MediaError(
                f"{self._file.name} could not be read to its end: {self._file.fault.strerror}; check the disk or share"
            ) from self._file.fault
        if is_empty:
            raise self._file.no_samples()

    def _resampled(self, mixes: Sequence[str]) -> Iterator[list[NDArray[np.float32]]]:
        """Yield the samples of each mix, float32 (n,), 16 kHz."""
        rate = SAMPLE_RATE
        resamplers: list[_Resampler] = []
        for block_rate, whole in self._source.blocks(mixes):
            block = whole[:, self._dropped :]
            self._dropped -= whole.shape[1] - block.shape[1]
            if block_rate != rate:
                if resamplers:
                    yield _resample(resamplers, np.empty((len(mixes), 0), np.float32), is_last=True)
                rate = block_rate
                resamplers = [] if rate == SAMPLE_RATE else [_Resampler(rate) for _ in mixes]
            # One NaN would silence everything after it in the resampler.
            if not np.isfinite(np.vdot(block, block)):
                block = np.nan_to_num(block, posinf=1, neginf=-1)
            yield _resample(resamplers, block) if resamplers else list(block)
        if resamplers:
            yield _resample(resamplers, np.empty((len(mixes), 0), np.float32), is_last=True)


class _Resampler:
    """One mix, resampled to 16 kHz; the silence before its first sample that is not 0 costs almost nothing.

    Only the last second of that silence is resampled, so the result depends neither on the sizes of the blocks nor on the mixes
    that are read with this one.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._period = rate // gcd(rate, SAMPLE_RATE)
        """Samples of both rates coincide once in so many."""
        self._stream: Any = None
        self._zeros = 0
        """Samples so far, while all of them are 0."""
        self._taken = 0
        self._silent = 0
        """Samples of silence that are ready, before those that are resampled."""
        self._resampled = np.empty(0, np.float32)

    @property
    def ready(self) -> int:
        """How many samples can be taken."""
        return self._silent + len(self._resampled)

    def feed(self, samples: NDArray[np.float32], *, is_last: bool) -> None:
        if self._stream is None:
            has_sound = bool(samples.any())
            first = int((samples != 0).argmax()) if has_sound else len(samples)
            self._zeros += first
            start = max(0, self._zeros - self._rate) // self._period * self._period
            self._silent = start * SAMPLE_RATE // self._rate - self._taken
            if not has_sound and not is_last:
                return
            self._stream = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32")
            samples = np.concatenate([np.zeros(self._zeros - start, np.float32), samples[first:]])
        self._resampled = np.concatenate(
            [self._resampled, self._stream.resample_chunk(samples, last=is_last)]
        )

    def take(self, count: int) -> NDArray[np.float32]:
        """Return the next samples; `count` is at most `ready`."""
        silent = min(count, self._silent)
        self._silent -= silent
        self._taken += silent
        result = self._resampled[: count - silent]
        self._resampled = self._resampled[count - silent :]
        return np.concatenate([np.zeros(silent, np.float32), result]) if silent else result


def _resample(
    resamplers: Sequence[_Resampler], block: NDArray[np.float32], *, is_last: bool = False
) -> list[NDArray[np.float32]]:
    """Return the next samples of each mix, as many as are ready in all."""
    for resampler, row in zip(resamplers, block, strict=True):
        resampler.feed(row, is_last=is_last)
    count = min(resampler.ready for resampler in resamplers)
    return [resampler.take(count) for resampler in resamplers]


def open_media(
    path: str,
    *,
    source: AudioSource | None = None,
    audio_track: str = "auto",
    language: str | None = None,
    root: str | None = None,
) -> Decoder:
    """Open a media file for decoding, by its content, not its name.

    `source` is decoded; without one, or where it names no track, the preferred one for `audio_track` and `language` (Whisper's code; None:
    any) is, see `mixing.order_tracks`. Blocks until the first audio is
    decoded. Opens no other file, whatever the file refers to. With `root` no link may lead out of that folder. Raises MediaError with the fault and its
    remedy.
    """
    source = source or AudioSource()
    file = MediaFile(path, root)
    try:
        opened = _open_sound(file, audio_track) or _open_track(file, source.track, audio_track, language)
    except OSError as error:
        file.close()
        raise MediaError(f"{file.name} cannot be read: {error.strerror}; check the disk or share") from error
    except BaseException:
        file.close()
        raise
    return Decoder(opened, file, source.mix)


def _open_track(file: MediaFile, number: int, audio_track: str, language: str | None) -> Track:
    """Open a track of a container; the next one in its order if it has no audio."""
    try:
        return Track(file, number=number, wanted=audio_track, language=language)
    except UnreadableTrackError as error:
        for at, other in enumerate(error.others):
            file.seek(0)
            with contextlib.suppress(UnreadableTrackError):
                track = Track(file, number=other)
                track.order = error.others[at:]
                return track
        raise


class _Sound:
    """Uncompressed audio, through libsndfile."""

    drift_ms = 0
    order = (1,)

    def __init__(self, sound: soundfile.SoundFile, file: MediaFile) -> None:
        self.damage = DamageLog()
        self._sound = sound
        self._file = file
        self.info = MediaInfo(
            container=sound.format.lower(),
            codec=sound.subtype.lower(),
            sample_rate=sound.samplerate,
            channels=sound.channels,
            duration_s=sound.frames / sound.samplerate,
            offset_samples=0,
            track=1,
            channel_names=("",) * sound.channels,
        )
        self.tracks = (AudioTrack(number=1, codec=self.info.codec, channels=sound.channels),)

    def blocks(self, mixes: Sequence[str]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        frames = max(1, BLOCK // self.info.channels)
        while True:
            try:
                block = self._sound.read(frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise MediaError(
                    f"{self._file.name} could not be read to its end: {error}; check the disk"
                ) from error
            if not len(block):
                break
            yield self.info.sample_rate, mixed(block.T, self.info.channel_names, mixes)
        missing = None
        with self._file.recorded_fault():
            missing = incompleteness(self._file.fileno())
        # libsndfile takes the shorter of the declared size and the file's own.
        self.damage.finish(self._sound.frames * 1_000_000_000 // self.info.sample_rate, None, missing)

    def seek(self, sample: int) -> tuple[int, int]:
        """See `Track.seek`."""
        at = self._sound.seek(min(sample * self.info.sample_rate // SAMPLE_RATE, self._sound.frames))
        return self.info.sample_rate, at

    def close(self) -> None:
        self._sound.close()


def _open_sound(file: MediaFile, audio_track: str) -> _Sound | None:
    """Open uncompressed audio; None for all else, and where libsndfile finds none: FFmpeg decides then.

    libsndfile reads PCM at 80,000 times real time, FFmpeg at 1,800. Compressed audio is decoded by FFmpeg even
    if libsndfile knows the format: one broken frame of a FLAC file ends its reading.
    """
    if audio_track not in {"auto", "1"}:
        return None
    head = file.read(12)
    if tag_bytes := id3_bytes(head):  # FFmpeg finds no WAV behind a tag, libsndfile does
        file.seek(tag_bytes)
        head = file.read(12)
    file.seek(0)
    is_riff = head[:4] in _RIFF and head[8:] == b"WAVE"
    is_iff = head[:4] == b"FORM" and head[8:] in {b"AIFF", b"AIFC"}
    if not (is_riff or is_iff or head[:4] in {b"riff", b".snd", b"caff"}):
        return None
    try:
        sound = soundfile.SoundFile(file.fileno(), closefd=False)
    except soundfile.LibsndfileError:
        file.seek(0)
        return None
    # A recorder that was killed leaves a size of 0 in the header; FFmpeg then reads to the end of the file.
    # It also knows which channel of surround sound is the centre.
    is_surround = 2 < sound.channels <= 8
    if (
        is_surround
        or sound.subtype not in _UNCOMPRESSED
        or sound.frames == 0
        or sound.samplerate not in SAMPLE_RATES
    ):
        sound.close()
        file.seek(0)
        return None
    return _Sound(sound, file)
