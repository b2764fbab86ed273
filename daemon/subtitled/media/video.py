"""The picture of a media file: its facts, the bytes of a file that browsers play, and small segments of any other.

Times are those of the cues: from the start of the file as players count it.
"""

from __future__ import annotations

import io
import os
import time
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import av
from av.filter import Graph
from av.stream import Discard, Disposition

from subtitle.messages import VIDEO_SEGMENT_MS
from subtitled.errors import MediaError
from subtitled.media.demux import open_container
from subtitled.media.media_file import MediaFile, VideoFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from subtitle.messages import VideoForm

MAX_PIXELS = 8192 * 4352
"""A larger picture is not decoded; 8K is below it."""
_LARGE_PIXELS = 2048 * 1200
"""Of larger pictures, only the frames on which others depend are decoded."""
_BOX = (640, 360)
"""Width and height that the picture of a segment fits into."""
_RATE = 25
"""Frames per second of a segment; a frame of a slower video is repeated."""
_TICKS = VIDEO_SEGMENT_MS * _RATE // 1000
"""Frames of a segment."""
_LEADS_S = (0.0, 4.0, 16.0)
"""Distances before a segment to which the decoder seeks: an index may lead to a frame that is too late."""
_AHEAD_S = 10.0
"""A segment that begins no later than this after the last one is reached by decoding, without a seek."""
_BUDGET_S = 8.0
"""After this time a segment repeats its last picture, and from then on only key frames are decoded."""
_EARLY_S = 0.5
"""The first frame is shown this long before its time: audio often begins a little earlier than the video."""
_READ_FAULTS = 100
"""Decoding stops after so many unreadable packets without a frame in between."""
_HEAD_BYTES = 64
_ENCODERS: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "h264": (
        "mp4",
        "libx264",
        {"preset": "ultrafast", "crf": "27", "profile": "baseline", "bf": "0", "sc_threshold": "0"},
        {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    ),
    "vp8": ("webm", "libvpx", {"deadline": "realtime", "cpu-used": "8", "crf": "20"}, {}),  # prose: allow
}
"""Container, encoder, and the options of both, by form."""
_MP4_BRANDS = (
    b"isom",
    b"iso2",
    b"iso4",
    b"iso5",
    b"iso6",
    b"mp41",
    b"mp42",
    b"avc1",
    b"M4V ",
    b"MSNV",
    b"dash",
)


class VideoReader:
    """One media file; a context manager. All raise MediaError."""

    def __init__(self, path: str, root: str | None = None) -> None:
        """With `root` no link may lead out of that folder."""
        self._file = MediaFile(path, root)
        self._container: Any = None
        self._frames: Iterator[tuple[float, Any]] = iter(())
        self._shown: Any = None
        """The frame at `_at`; None before the first."""
        self._next: tuple[float, Any] | None = None
        self._at = -1.0
        """Time up to which the frames were used; negative: nothing was decoded."""
        self._until = 0.0
        """When decoding for this segment ends (monotonic)."""
        self._is_slow = False
        self._scaler = _Scaler()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:
            self._container.close()
        self._file.close()

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the file itself, fewer at its end."""
        try:
            return os.pread(self._file.fileno(), length, start)
        except OSError as error:
            raise MediaError(
                f"{self._file.name} cannot be read: {error.strerror}; check the disk or share"
            ) from error

    def facts(self) -> VideoFacts:
        """Return the facts of the picture, whose first frame is decoded."""
        if self._stream() is None:
            return VideoFacts()
        try:
            _, frame = self._seek(0.0)
        except MediaError as error:
            return VideoFacts(cause=str(error))
        stream = self._stream()  # opened again: an object of the file that was closed crashes PyAV
        width, height = _shown_size(stream, frame)
        return VideoFacts(width=width, height=height, media_type=self._media_type(stream, frame))

    def segment(self, number: int, form: VideoForm) -> bytes:
        """Return a segment, counted from 0: a complete file of `VIDEO_SEGMENT_MS` whose times begin at 0.

        Where the video has no frame yet the picture is black; after its end the last one is repeated.
        """
        if self._stream() is None:
            raise MediaError(f"{self._file.name} has no video track")
        container_name, encoder, options, muxer_options = _ENCODERS[form]
        start = number * VIDEO_SEGMENT_MS / 1000
        self._until = time.monotonic() + _BUDGET_S
        if not 0 <= self._at <= start <= self._at + _AHEAD_S:
            self._go(start)
        output = io.BytesIO()
        with av.open(output, "w", format=container_name, options=muxer_options) as muxer:
            target: Any = None
            for tick in range(_TICKS):
                picture = self._scaler.scaled(self._stream(), self._frame_at(start + tick / _RATE))
                if target is None:
                    target = muxer.add_stream(encoder, rate=_RATE, options=options)
                    target.width, target.height = picture.width, picture.height
                    target.pix_fmt = "yuv420p"
                    target.codec_context.gop_size = _TICKS
                    target.codec_context.thread_count = 1
                    if form == "vp8":
                        target.bit_rate = 600_000
                elif (picture.width, picture.height) != (target.width, target.height):
                    picture = picture.reformat(target.width, target.height)
                picture.pts, picture.time_base, picture.pict_type = tick, Fraction(1, _RATE), 0
                for packet in target.encode(picture):
                    muxer.mux(packet)
            for packet in target.encode(None):
                muxer.mux(packet)
        if time.monotonic() >= self._until:
            self._is_slow, self._at = True, -1.0
        return output.getvalue()

    # -- decoding --------------------------------------------------------------------------------------------

    def _stream(self) -> Any:
        """Return the video track, whose file is opened at the first call; None without one. An attached picture is none."""
        if self._container is None:
            self._file.seek(0)
            self._container = open_container(self._file)
            found = self._found_stream()
            for stream in self._container.streams:
                if stream is not found:
                    stream.discard = Discard.all
            if found is not None and found.codec_context is not None:
                context = found.codec_context
                context.thread_type, context.thread_count = "AUTO", 2
                context.options = {"max_pixels": str(MAX_PIXELS)}
                if context.width * context.height > _LARGE_PIXELS:
                    context.skip_frame = "NONREF"
        return self._found_stream()

    def _found_stream(self) -> Any:
        videos = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition
            & (Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image)
        ]
        return max(videos, key=lambda stream: Disposition.default in stream.disposition, default=None)

    def _reopen(self) -> None:
        self._container.close()
        self._container = None
        self._stream()

    def _go(self, start: float) -> None:
        """Let the frame at `start` be the next one that is used."""
        first = self._seek(start)
        self._shown, self._next, self._at = None, first, start

    def _seek(self, start: float) -> tuple[float, Any]:
        """Return the first frame that is decoded for `start`, usually one before it, with its time; raises MediaError if there is none."""
        stream = self._stream()
        if stream.codec_context is None:
            raise MediaError(f"{self._file.name}: FFmpeg has no decoder for its video")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise MediaError(
                f"{self._file.name}: its picture of {width} x {height} pixels exceeds the limit of 8192 x 4352"
            )
        first: tuple[float, Any] | None = None
        if start > 0:
            for lead in _LEADS_S:
                try:
                    wanted_us = int((max(0.0, start - lead) + self._origin_s) * av.time_base)
                    self._container.seek(wanted_us)
                except (av.FFmpegError, OSError):
                    break
                self._frames = self._decoded()
                first = next(self._frames, None)
                if first is not None and first[0] <= start:
                    return first
        if first is None or start <= 0:
            self._reopen()
            self._frames = self._decoded()
            first = next(self._frames, None)
        if first is None:
            raise MediaError(
                f"{self._file.name}: its video ({self._stream().codec_context.name}) cannot be decoded; it is damaged or encrypted"
            )
        return first

    @property
    def _origin_s(self) -> float:
        return max(0, self._container.start_time or 0) / float(av.time_base)

    def _frame_at(self, at: float) -> Any:
        """Return the frame that is shown at a time, which does not decrease between two calls; None before the first."""
        while self._next is not None and self._next[0] <= at + 1e-3 and time.monotonic() < self._until:
            self._shown = self._next[1]
            self._next = next(self._frames, None)
        if self._shown is None and self._next is not None and self._next[0] <= at + _EARLY_S:
            return self._next[1]
        self._at = at
        return self._shown

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        """Yield the frames with their times; damaged packets are skipped."""
        stream = self._stream()
        if self._is_slow:
            stream.codec_context.skip_frame = "NONKEY"
        step = 1 / max(1.0, float(stream.average_rate or _RATE))
        last = -step
        faults = 0
        packets = self._container.demux(stream)
        while faults < _READ_FAULTS:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else stream.codec_context.decode(packet)
            except av.EOFError:
                return
            except (av.FFmpegError, OSError, IndexError):
                if self._file.fault is not None:
                    raise MediaError(
                        f"{self._file.name} could not be read: {self._file.fault.strerror}; check the disk or share"
                    ) from None
                faults += 1
                continue
            if packet is None:
                return
            for frame in frames:
                faults = 0
                last = (
                    last + step if frame.pts is None else float(frame.pts * stream.time_base) - self._origin_s
                )
                yield last, frame

    def _media_type(self, stream: Any, frame: Any) -> str:
        """Return the media type of a file that browsers play, "" for any other; the container is recognised by its content."""
        head = self.read(0, _HEAD_BYTES)
        codec, name = stream.codec_context.name, self._container.format.name
        if self._origin_s > 0.05 or frame.format.name not in {"yuv420p", "yuvj420p"}:
            return ""
        if (
            name.startswith("mov")
            and head[4:8] == b"ftyp"
            and any(brand in head[8:] for brand in _MP4_BRANDS)
        ):
            profile = stream.codec_context.extradata or b""
            if codec == "h264" and profile[:1] == b"\x01" and len(profile) > 3:
                return f'video/mp4; codecs="avc1.{profile[1:4].hex()}"'
        if name.startswith("matroska") and head[:4] == b"\x1aE\xdf\xa3" and b"webm" in head:
            codecs = {"vp8": "vp8", "libvpx": "vp8", "vp9": "vp9", "libvpx-vp9": "vp9"}
            if codec in codecs:
                return f'video/webm; codecs="{codecs[codec]}"'
        return ""


class _Scaler:
    """Scales frames to what a segment shows; its filters change with the frames."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._graph: Any = None
        self._last: tuple[Any, Any] = (None, None)
        self._size = _BOX

    def scaled(self, stream: Any, frame: Any) -> Any:
        """Return a frame as yuv420p within `_BOX`, upright and with square pixels; black without a frame."""
        if frame is None:
            black: Any = av.VideoFrame(*self._size, "yuv420p")
            for plane, value in zip(black.planes, (16, 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            return black
        if self._last[0] is not frame:
            self._last = (frame, self._filtered(stream, frame))
        return self._last[1]

    def _filtered(self, stream: Any, frame: Any) -> Any:
        turn = round(frame.rotation / 90) % 4
        width, height = _shown_size(stream, frame)
        key = (frame.width, frame.height, frame.format.name, frame.interlaced_frame, turn, width, height)
        if key != self._key:
            self._graph, self._key = _graph(frame, turn, width, height), key
        # The filters return one frame for each; the time is that of the segment.
        frame.pts = None
        try:
            self._graph.push(frame)
            picture = self._graph.pull()
        except (av.FFmpegError, OSError) as error:
            raise MediaError(
                f"its picture of {frame.width} x {frame.height} pixels cannot be scaled: {error}"
            ) from error
        self._size = (picture.width, picture.height)
        return picture


def _graph(frame: Any, turn: int, width: int, height: int) -> Any:
    """Return filters from frames like `frame` to a picture that is shown as `width` x `height`, turned counterclockwise by `turn` * 90 degrees."""
    scale = min(1.0, _BOX[0] / width, _BOX[1] / height)
    across, down = (max(16, round(side * scale / 2) * 2) for side in (width, height))
    if turn % 2:
        across, down = down, across
    graph = Graph()
    steps = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, _RATE)
        )
    ]
    if frame.interlaced_frame:  # one field: both together would show combs
        steps.append(graph.add("field", "top"))
    steps.append(graph.add("scale", f"{across}:{down}:flags=area"))
    turns = {1: ("transpose=cclock",), 2: ("hflip", "vflip"), 3: ("transpose=clock",)}
    steps += [graph.add(*step.split("=")) for step in turns.get(turn, ())]
    steps += [graph.add("setsar", "1"), graph.add("format", "pix_fmts=yuv420p"), graph.add("buffersink")]
    graph.link_nodes(*steps).configure()
    return graph


def _shown_size(stream: Any, frame: Any) -> tuple[int, int]:
    """Return width and height of a frame as it is shown."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    aspect = float(ratio) if ratio else 1.0
    # A damaged header may state any ratio.
    width, height = round(frame.width * (aspect if 0.1 <= aspect <= 10 else 1.0)), frame.height
    return (height, width) if round(frame.rotation / 90) % 2 else (width, height)
