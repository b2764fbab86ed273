"""The converted model as faster-whisper runs it: window by window, or batched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from demo_model.clips import Clip
from demo_model.espeak import RATE

_BATCH = 16


class Transcriber:
    """A model in int8 on the CPU; ``threads``: how many it may use."""

    def __init__(self, folder: Path, threads: int) -> None:
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        self.whisper = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
        self.batched = BatchedInferencePipeline(self.whisper)

    def segments(self, clip: Clip, **options: Any) -> list[Any]:
        """Transcribe one clip, window by window."""
        options = {"language": clip.language, "condition_on_previous_text": False} | options
        return list(self.whisper.transcribe(clip.samples, **options)[0])

    def text(self, clip: Clip, **options: Any) -> str:
        """Transcribe one clip, window by window, to text alone."""
        return "".join(segment.text for segment in self.segments(clip, **options))

    def texts(self, together: list[Clip], **options: Any) -> Iterator[str]:
        """Transcribe clips of up to 30 s and one language, each as one piece of a batch."""
        lengths = [len(clip.samples) for clip in together]
        ends = np.cumsum(lengths) / RATE
        starts = ends - np.array(lengths) / RATE
        pieces = [{"start": float(a), "end": float(b)} for a, b in zip(starts, ends, strict=True)]
        segments, _ = self.batched.transcribe(
            # Longer than its pieces together: faster-whisper wants their sum to be less.
            np.concatenate([*(clip.samples for clip in together), np.zeros(RATE, np.float32)]),
            language=together[0].language,
            clip_timestamps=pieces,
            batch_size=_BATCH,
            **options,
        )
        texts = [""] * len(together)
        for segment in segments:
            middle = (segment.start + segment.end) / 2
            texts[min(len(texts) - 1, int(np.searchsorted(ends, middle)))] += segment.text
        yield from texts

    def voice_activity(self, clip: Clip, **options: Any) -> str:
        """Transcribe one clip batched, cut and closed up by faster-whisper's own voice activity detection."""
        segments, _ = self.batched.transcribe(
            clip.samples, language=clip.language, batch_size=_BATCH, **options
        )
        return "".join(segment.text for segment in segments)
