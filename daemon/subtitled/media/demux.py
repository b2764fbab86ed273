"""One audio track of a container, decoded by FFmpeg, on a continuous clock."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import deque
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.audio.plane import AudioPlane
from av.stream import Discard, Disposition

from subtitle.messages import AudioTrack
from subtitled.config.schema import SAMPLE_RATE
from subtitled.errors import MediaError
from subtitled.media.completeness import incompleteness
from subtitled.media.damage import DamageLog, declared_end_ns, is_damaged
from subtitled.media.media_file import BLOCK, SAMPLE_RATES, MediaInfo
from subtitled.media.mixing import order_tracks, weights_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from fractions import Fraction

    from numpy.typing import NDArray

    from subtitled.media.media_file import MediaFile

_CUSTOM_LAYOUT = re.compile(r"\d+ channels \(")
"""Name of a layout with an unusual order, "6 channels (FL+FR+SL+SR+FC+LFE)"; FFmpeg's own have parentheses too, "5.1(side)"."""
_CONTAINERS = (
    "3gp,aac,aa,ac3,act,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dss,dts,dtshd,dv,eac3,flac,flv,gsm,gxf,iff,ilbc,"
    "loas,live_flv,matroska,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nsv,nut,ogg,oma,qcp,rm,shn,sox,tak,truehd,"
    "tta,voc,vqf,w64,wav,webm,wtv,wv,xwma"
)
"""FFmpeg's names of the formats that contain media themselves.

Playlists and scripts (hls, concat, dash, imf, sdp, image2, lavfi ...) are left out: they make FFmpeg open other
files. `protocol_whitelist` alone does not stop a concat script from opening local files (FFmpeg 8.1).
"""

_NO_PROTOCOL = "none"
"""FFmpeg gets an open file; this is a second barrier against opening anything else."""

_JITTER_NS = 100_000_000
"""Containers round timestamps, to 1 ms or more: smaller differences are ignored."""

_OVERLAP_NS = 1_000_000_000
"""Timestamps that jump back further have restarted, as in joined recordings: the audio that follows is new."""

_TRIMMED_NS = 10_000_000_000
"""Most audio that is trimmed from one file: timestamps that overlap more are broken, and must not cost speech."""

_SILENCE_NS = 24 * 3600 * 1_000_000_000
"""Most silence that fills the gaps of one file: broken timestamps must not add weeks."""

_BEYOND_NS = 10_000_000_000
"""A timestamp may exceed the file's duration by this and a tenth of it: durations may be estimates."""

_READ_FAULTS = 100
"""Reading gives up after so many failures without a packet in between."""

_OWN_HANDLER = re.compile(r"handler|core media|mainconcept|apple|gpac|bento|lavf|google|mpeg", re.IGNORECASE)
"""Names of handlers that are not titles."""
_OGG_BEGIN = b"OggS\0\x02"
"""The first page of a stream."""
_MAX_TRACKS = 1000
"""More audio tracks are ignored."""

_CHECKED = frozenset({"flac", "wavpack", "tta", "tak", "ac3", "eac3", "truehd", "mlp"})
"""Codecs whose frames have checksums: a frame that fails its own is not used."""

_SAMPLES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
"""FFmpeg's sample formats as NumPy's."""


class UnreadableTrackError(MediaError):
    """A track has no audio, or none that can be decoded; `others` are the numbers of tracks to use instead."""

    def __init__(self, message: str, others: tuple[int, ...]) -> None:
        super().__init__(message)
        self.others = others


class Track:
    """The audio of a container, of one track: `number` (from 1), or with 0 the preferred one.

    `order` holds the numbers of the tracks that may be transcribed, the preferred one first; see `mixing.order_tracks`
    for it, `wanted` and `language`. `damage` holds what was skipped; it is complete when all has been read. The constructor
    blocks until the first audio is decoded, and raises UnreadableTrackError if there is none. It opens no other file.
    """

    def __init__(
        self, file: MediaFile, *, number: int = 0, wanted: str = "auto", language: str | None = None
    ) -> None:
        self.damage = DamageLog()
        self._file = file
        self._positions = deque([0], maxlen=4)
        """Bytes at which the last packets began: in Ogg a gap shows some pages later."""
        self._container = open_container(file)
        try:
            names = [_channel_names(stream) for stream in self._container.streams.audio[:_MAX_TRACKS]]
            self.tracks = _audio_tracks(self._container, file, names)
            try:
                ordered = order_tracks(self.tracks, str(number) if number else wanted, language)
            except ValueError as error:
                raise MediaError(f"{file.name}: {error}") from error
            self.order = tuple(track.number for track in ordered)
            self._stream = self._container.streams.audio[self.order[0] - 1]
            self._names = names[self.order[0] - 1]
            """The channels that the container names."""
            for stream in self._container.streams:
                if stream is not self._stream:
                    stream.discard = Discard.all
            self._stream.codec_context.thread_count = 1
            if self._stream.codec_context.name in _CHECKED:
                self._stream.codec_context.options = {"err_detect": "crccheck+explode"}
            duration_s = self._duration_s()
            self._latest_ns = None if duration_s is None else int(duration_s * 1.1e9) + _BEYOND_NS
            self._clock = _Clock(self._stream.time_base, self._latest_ns)
            self._frames = self._decoded()
            try:
                self._first = self._first_frame()
            except MediaError as error:
                raise UnreadableTrackError(str(error), self.order[1:]) from error
            self._begins_ns = self._clock.nanoseconds(self._first.pts or 0)
            self.info = self._describe(self._first)
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        """Close the container; may be repeated."""
        self._container.close()

    @property
    def drift_ms(self) -> int:
        """Largest difference so far between a timestamp and the place of its frame, in ms."""
        return self._clock.drift_ns // 1_000_000

    def seek(self, sample: int) -> tuple[int, int] | None:
        """Move to a frame near a decoded sample (16 kHz), usually before it; the next call of `blocks` starts there.

        Returns its sample rate, and the number of its first sample at that rate. None: its place is unknown, and the next
        blocks are undefined.
        """
        guide = self._guide()
        wanted_ns = self._begins_ns + sample * 1_000_000_000 // SAMPLE_RATE
        try:
            self._container.seek(int(wanted_ns / 1_000_000_000 / guide.time_base), stream=guide)
        except (av.FFmpegError, OSError):
            return None
        self._frames = self._decoded()
        first = next(self._frames, None)
        if first is None or first.pts is None:
            return None
        after_ns = self._clock.nanoseconds(first.pts) - self._begins_ns
        if after_ns < 0:
            return None  # the timestamps restart somewhere
        self._first = first
        self._clock = _Clock(
            self._stream.time_base, None if self._latest_ns is None else self._latest_ns - after_ns
        )
        return first.sample_rate, round(after_ns * first.sample_rate / 1e9)

    def _guide(self) -> Any:
        """Return the stream whose index is used for seeking: in Matroska only the video stream has one."""
        if self._container.format.name.startswith("matroska"):
            for video in self._container.streams.video:
                if Disposition.attached_pic not in video.disposition:
                    return video
        return self._stream

    def blocks(self, mixes: Sequence[str]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield sample rates in Hz with audio, float32 (mixes, n), full scale 1; once, and once more after each `seek`.

        A read error ends it early and is in `MediaFile.fault`.
        """
        is_whole = self._clock.position_ns is None
        # A frame is a few milliseconds: they are mixed by the second.
        held = av.AudioFifo()
        kind: tuple[int, str, int] | None = None
        samples = overlap = 0
        for frame in itertools.chain([self._first], self._frames):
            rate, channels, count = frame.sample_rate, frame.layout.nb_channels, frame.samples
            silence, overlaps = self._clock.place(frame.pts, count, rate)
            if silence or self.damage.is_pending:
                self._note_damage(self._clock.before_ns, silence * 1_000_000_000 // rate)
            is_new = kind != (rate, frame.format.name, channels)
            if samples and (is_new or silence or overlaps or samples * channels >= BLOCK):
                yield _mixed(held.read(), overlap, self._names, mixes)
                samples = 0
            if is_new:
                if rate not in SAMPLE_RATES:
                    raise self._file.wrong_rate(rate)
                kind = rate, frame.format.name, channels
                held = av.AudioFifo()
            for quiet in range(0, silence, BLOCK):
                yield rate, np.zeros((len(mixes), min(BLOCK, silence - quiet)), np.float32)
            if not samples:
                overlap = overlaps
            frame.pts = None  # the queue would check it
            held.write(frame)
            samples += count
        if samples:
            yield _mixed(held.read(), overlap, self._names, mixes)
        if is_whole and self._file.fault is None:
            with self._file.recorded_fault():
                self._note_end()

    def _note_damage(self, before_ns: int | None, silence_ns: int) -> None:
        """Record the damage between two frames: the end of the earlier one (None: there is none), and the silence after it."""
        if silence_ns and not self.damage.is_pending:
            name = self._container.format.name
            start, end = self._positions[0], self._positions[-1]
            if name.startswith("mpeg"):  # not every packet has a position
                end = max(end, self._file.tell())
            with self._file.recorded_fault():
                if is_damaged(name, self._file.fileno(), start, end, self._stream.id):
                    self.damage.add_packet(None)
        if self.damage.is_pending:
            after_ns = 0 if before_ns is None else before_ns - self._begins_ns
            self.damage.place(after_ns, silence_ns, is_first=before_ns is None)

    def _note_end(self) -> None:
        """Record what is missing at the end of the file."""
        end_ns = (self._clock.position_ns or self._begins_ns) - self._begins_ns
        missing = incompleteness(self._file.fileno())
        declared_ns = declared_end_ns(
            self._container,
            self._stream,
            self._file,
            self._begins_ns,
            self.damage.lost_bytes,
            is_cut=missing is not None and missing.is_cut,
        )
        self.damage.finish(end_ns, declared_ns, missing)

    def _decoded(self) -> Iterator[Any]:
        """Yield the frames; damage is skipped, and an error of the disk ends it."""
        faults = 0
        while faults < _READ_FAULTS:
            try:
                for packet in self._container.demux(self._stream):
                    faults = 0
                    if packet.pos is not None and packet.pos + self._file.start != self._positions[-1]:
                        self._positions.append(packet.pos + self._file.start)
                    yield from self._frames_of(packet)
            except IndexError:
                # PyAV fails at the end for tracks that appear late, as in broadcasts; the next call does not.
                continue
            except (av.FFmpegError, OSError) as error:
                # As in recordings of web radio, a stream with other channels or another rate follows.
                may_follow = self._file.fault is None and isinstance(error, av.error.PatchWelcomeError)
                if may_follow and self._open_next_stream():
                    continue
                if self._file.fault is not None:
                    return
                if not faults:  # one damaged place counts once, however many attempts lead past it
                    self.damage.add_packet(None)
                faults += 1
            else:
                return
        yield from self._frames_of(None)

    def _open_next_stream(self) -> bool:
        """Open what follows in an Ogg file as a file of its own; return whether there is any audio."""
        if self._container.format.name != "ogg":
            return False
        before, position = self._file.start, self._file.tell()
        container = None
        with contextlib.suppress(MediaError, OSError):
            start = self._file.find(_OGG_BEGIN, self._positions[-1] + 1)
            if start >= 0:
                self._file.start = start
                self._file.seek(0)
                container = open_container(self._file)
        if container is None or not container.streams.audio:
            if container is not None:
                container.close()
            # The demuxer continues to read where it was.
            self._file.start = before
            self._file.seek(position)
            return False
        self._container.close()
        self._container, self._stream = container, container.streams.audio[0]
        self._positions.append(self._file.start)
        self._clock.restart(self._stream.time_base)
        return True

    def _frames_of(self, packet: Any) -> list[Any]:
        """Decode a packet; None: flush the decoder."""
        try:
            return [frame for frame in self._stream.codec_context.decode(packet) if frame.samples]
        except av.EOFError:
            return []
        except av.FFmpegError:
            self.damage.add_packet(packet)
            return []

    def _first_frame(self) -> Any:
        for frame in self._frames:
            return frame
        if self._file.fault is not None:
            raise self._file.fault
        if not self.damage.bad_packets:
            raise self._file.no_samples()
        raise MediaError(
            f"{self._file.name}: none of its audio can be decoded ({self.damage.bad_packets} bad packets); "
            "it is damaged or encrypted: get another copy"
        )

    def _describe(self, first: Any) -> MediaInfo:
        return MediaInfo(
            container=self._container.format.name,
            codec=self._stream.codec_context.name,
            sample_rate=first.sample_rate,
            channels=first.layout.nb_channels,
            duration_s=self._duration_s(),
            offset_samples=self._offset(first),
            track=self.order[0],
            channel_names=_names_of(first, self._names),
        )

    def _duration_s(self) -> float | None:
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration is not None:
            return float(self._container.duration / av.time_base)
        return None

    def _offset(self, first: Any) -> int:
        """Return the samples at 16 kHz from the file's start, as players count it, to its first audio.

        Players count from the earliest stream (FFmpeg and mpv subtract the container's start time), so a lone
        track starts at 0.
        """
        if first.pts is None:
            return 0
        origin_us = self._container.start_time or 0
        start_ns = self._clock.nanoseconds(first.pts) - max(origin_us, 0) * 1000
        return max(0, round(start_ns * SAMPLE_RATE / 1e9))


class _Clock:
    """Places each frame on the track's timeline, by its timestamp and the frames before it.

    Timestamps more than `latest_ns` after the first are ignored; None: no limit.
    """

    def __init__(self, time_base: Fraction, latest_ns: int | None) -> None:
        self._numerator = time_base.numerator * 1_000_000_000
        self._denominator = time_base.denominator
        # The next sample is `_samples` at `_rate` after `_anchor_ns`.
        self._anchor_ns: int | None = None
        self._last_ns = latest_ns
        self._samples = 0
        self._rate = SAMPLE_RATE
        # Timestamps that restart are shifted to continue the timeline.
        self._shift_ns = 0
        self._is_overlapping = False
        self._silence_ns = 0
        self._trimmed_ns = 0
        self._last_pts: int | None = None
        self.before_ns: int | None = None
        """`position_ns` before the last frame."""
        self.drift_ns = 0
        """Largest difference between a timestamp and the place of its frame."""

    @property
    def position_ns(self) -> int | None:
        """Where the next frame belongs if nothing is missing; None before the first."""
        if self._anchor_ns is None:
            return None
        return self._anchor_ns + self._samples * 1_000_000_000 // self._rate

    def nanoseconds(self, pts: int) -> int:
        """Return a timestamp in nanoseconds."""
        return pts * self._numerator // self._denominator

    def restart(self, time_base: Fraction) -> None:
        """Continue with timestamps from 0 on in another unit."""
        self._numerator = time_base.numerator * 1_000_000_000
        self._denominator = time_base.denominator
        self._shift_ns = -(self.position_ns or 0)
        self._last_pts = None

    def place(self, pts: int | None, samples: int, rate: int) -> tuple[int, int]:
        """Return the samples of silence to put before the next frame, and how many of its first to leave out."""
        stamp_ns = None if pts is None else self.nanoseconds(pts)
        now_ns = self.before_ns = self.position_ns
        if now_ns is None:
            now_ns = self._anchor_ns = stamp_ns or 0
            if self._last_ns is not None:
                self._last_ns += now_ns
        if rate != self._rate:
            self._anchor_ns, self._samples, self._rate = now_ns, 0, rate
        # A timestamp that a muxer repeats carries no information.
        gap_ns = 0 if stamp_ns is None or pts == self._last_pts else stamp_ns - self._shift_ns - now_ns
        self._last_pts = pts
        if -_JITTER_NS <= gap_ns <= _JITTER_NS and not self._is_overlapping:
            if stamp_ns is not None:
                self.drift_ns = max(self.drift_ns, abs(stamp_ns - now_ns))
            self._samples += samples
            return 0, 0
        silence = overlap = 0
        is_credible = self._last_ns is None or now_ns + gap_ns <= self._last_ns
        if gap_ns > _JITTER_NS and is_credible and self._silence_ns + gap_ns <= _SILENCE_NS:
            silence = gap_ns * rate // 1_000_000_000
            self._silence_ns += gap_ns
        elif gap_ns > _JITTER_NS or gap_ns < -_OVERLAP_NS:
            self._shift_ns += gap_ns
        elif gap_ns < (0 if self._is_overlapping else -_JITTER_NS) and self._trimmed_ns < _TRIMMED_NS:
            overlap = min(samples, -gap_ns * rate // 1_000_000_000)
            self._trimmed_ns += overlap * 1_000_000_000 // rate
        if stamp_ns is not None:
            placed_ns = now_ns + (silence - overlap) * 1_000_000_000 // rate
            self.drift_ns = max(self.drift_ns, abs(stamp_ns - placed_ns))
        self._is_overlapping = overlap == samples
        self._samples += silence + samples - overlap
        return silence, overlap


def mixed(
    pcm: Sequence[NDArray[Any]] | NDArray[Any], names: Sequence[str], mixes: Sequence[str]
) -> NDArray[np.float32]:
    """Return each of `mixes` of channels with these names: float32 (mixes, n), full scale 1.

    `pcm`: (channels, n), of any type that decoders give.
    """
    result = np.empty((len(mixes), len(pcm[0])), np.float32)
    for row, mix in zip(result, mixes, strict=True):
        _mix(pcm, weights_of(names, mix), row)
    return result


def _mix(
    pcm: Sequence[NDArray[Any]] | NDArray[Any],
    weights: NDArray[np.float32] | None,
    result: NDArray[np.float32],
) -> None:
    """Write the sum of weighted channels to `result`; without `weights` their average."""
    channels, dtype = len(pcm), pcm[0].dtype
    scale = 1.0 if dtype.kind == "f" else 2.0 ** (1 - 8 * dtype.itemsize)
    middle = np.float32(128 if dtype == np.uint8 else 0)
    if weights is None:  # sums first: they are exact for whole numbers
        weights = np.ones(channels, np.float32)
        scale /= channels
    result[:] = 0
    for channel, weight in zip(pcm, weights, strict=True):
        if weight == 1:
            np.add(result, channel, out=result, casting="unsafe")
        elif weight:
            result += np.multiply(channel, weight, dtype=np.float32, casting="unsafe")
    if middle:
        result -= middle * weights.sum()
    if scale != 1:
        result *= np.float32(scale)


def _channel_names(stream: Any) -> tuple[str, ...]:
    """Return the names of a track's channels; the decoder gets a layout without names if their order is unusual.

    PyAV 18.1 frees such a layout once with each object that has it, which ends the process.
    """
    context = stream.codec_context
    if context is None:
        return ()
    layout = context.layout
    names = tuple(channel.name for channel in layout.channels)
    if _CUSTOM_LAYOUT.match(layout.name):
        context.layout = f"{len(names)}C"
    return names


def _names_of(frame: Any, declared: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a frame's channels: its own, or else those that the container declares."""
    names = tuple(channel.name for channel in frame.layout.channels)
    return declared if "NONE" in names and len(declared) == len(names) else names


def _mixed(
    frame: Any, overlap: int, declared: tuple[str, ...], mixes: Sequence[str]
) -> tuple[int, NDArray[np.float32]]:
    """Return the sample rate of a frame, and each mix without its first `overlap` samples, (mixes, n)."""
    channels = frame.layout.nb_channels
    # Not by `AudioFrame.to_ndarray`: it counts planes up to a null pointer, which eight planes or more do not
    # have behind them, and crashes on 7.1 sound (PyAV 18.1).
    planes, width = (channels, 1) if frame.format.is_planar else (1, channels)
    dtype = np.dtype(_SAMPLES[frame.format.name.removesuffix("p")])
    pcm = [
        np.frombuffer(memoryview(AudioPlane(frame, plane)), dtype, frame.samples * width)[overlap * width :]
        for plane in range(planes)
    ]
    channel_pcm = pcm if planes == channels else pcm[0].reshape(-1, channels).T
    return frame.sample_rate, mixed(channel_pcm, _names_of(frame, declared), mixes)


def open_container(file: MediaFile) -> Any:
    """Open a media file in FFmpeg, which opens no other; raises MediaError if it is not media."""
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": _NO_PROTOCOL}
    try:
        # Tags of old files are in any encoding.
        return av.open(file, container_options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        if file.fault is not None:
            raise file.fault from error
        file.seek(0)
        raise _unreadable(file.name, file.read(64), error) from error


def _unreadable(name: str, head: bytes, error: Exception) -> MediaError:
    if head.lstrip(b"\xef\xbb\xbf").startswith((b"ffconcat", b"#EXTM3U", b"[playlist]")):
        return MediaError(
            f"{name} is a playlist, which contains no media itself; submit the files that it lists"
        )
    if head[4:8] in {b"ftyp", b"mdat", b"wide", b"moov"}:
        return MediaError(
            f"{name} is incomplete: its index (moov) is missing, the copy or recording was cut off; copy it again"
        )
    reason = getattr(error, "strerror", None) or str(error)
    return MediaError(
        f"{name} is not media that FFmpeg can read ({reason}); check that it plays, or convert it to another format"
    )


def _audio_tracks(
    container: Any, file: MediaFile, names: Sequence[tuple[str, ...]]
) -> tuple[AudioTrack, ...]:
    """Return the audio tracks of a container, with so many channels as they have `names`; raises MediaError if it has none."""
    streams = container.streams.audio
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise MediaError(f"{file.name} has no audio track (it contains {kinds}); submit a file with sound")
    return tuple(
        AudioTrack(
            number=number,
            language=_text(stream.language),
            title=_text(stream.metadata.get("title") or _handler_title(stream)),
            codec=_text(context.name) if (context := stream.codec_context) is not None else "",
            channels=len(channels),
            flags=tuple(str(flag.name) for flag in Disposition if flag in stream.disposition),
        )
        for number, (stream, channels) in enumerate(zip(streams, names, strict=False), 1)
    )


def _handler_title(stream: Any) -> str:
    """Return the name of a QuickTime handler if it is a title: programs write there that of a track, or their own."""
    name: str = stream.metadata.get("handler_name") or ""
    return "" if _OWN_HANDLER.search(name) else name


def _text(text: str | None) -> str:
    return "".join(char for char in text or "" if char.isprintable())[:200]
