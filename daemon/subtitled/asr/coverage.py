"""Speech that the decoded text covers, and speech that it leaves out.

Whisper ends a window early, or skips over a speaker, without any sign in its result. What the VAD calls speech and no
phrase covers is decoded again; what has no text after that is reported. Times are in seconds of the segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

SLACK_S = 0.3
"""A phrase's timestamps may be this far inside its speech."""
MIN_DECODED_AGAIN_S = 1.0
"""Speech without text that is worth another decoding."""
MIN_REPORTED_S = 0.5
"""Speech without text that is reported."""
LEAD_S = 0.2
"""Audio before and after the speech in a window that decodes it again."""
EDGE_S = 0.1
"""A phrase that overlaps speech by less does not belong to it."""
TAIL_S = 0.2
"""A phrase may end this long after the speech in it."""


class Stretch(Struct, frozen=True):
    """From `start_s` to `end_s`."""

    start_s: float
    end_s: float


class UncoveredSpeech(Struct, frozen=True):
    """Stretches of speech without text, with nothing but pauses between them."""

    start_s: float
    end_s: float
    speech_s: float


def uncovered(
    speech: Iterable[Stretch], covered: Iterable[Stretch], *, min_s: float
) -> list[UncoveredSpeech]:
    """Return the runs of `speech` (in order) that `covered` leaves out, each with at least `min_s` of speech."""
    texts = sorted(
        (Stretch(text.start_s - SLACK_S, text.end_s + SLACK_S) for text in covered),
        key=lambda text: text.start_s,
    )
    runs: list[list[Stretch]] = []
    for rest in (rest for span in speech for rest in _without(span, texts)):
        is_apart = not runs or any(runs[-1][-1].end_s <= text.end_s <= rest.start_s for text in texts)
        if is_apart:
            runs.append([])
        runs[-1].append(rest)
    found = [
        UncoveredSpeech(run[0].start_s, run[-1].end_s, sum(part.end_s - part.start_s for part in run))
        for run in runs
    ]
    return [run for run in found if run.speech_s >= min_s]


def _without(span: Stretch, texts: Sequence[Stretch]) -> list[Stretch]:
    """Return what is left of `span` outside `texts`, which are in order of their start."""
    left, at = [], span.start_s
    for text in texts:
        if text.end_s <= at or text.start_s >= span.end_s:
            continue
        if text.start_s > at:
            left.append(Stretch(at, text.start_s))
        at = max(at, text.end_s)
    if at < span.end_s:
        left.append(Stretch(at, span.end_s))
    return left


def snapped(start_s: float, end_s: float, speech: Sequence[Stretch]) -> tuple[float, float]:
    """Return the edges of a phrase, moved to the speech in it where they lie in a pause; unchanged without speech.

    The model starts the first phrase of a window with the window, and many others with the end of the phrase before.
    """
    inside = [span for span in speech if span.end_s > start_s + EDGE_S and span.start_s < end_s - EDGE_S]
    if not inside:
        return start_s, end_s
    start = max(start_s, inside[0].start_s)
    return start, max(start, min(end_s, inside[-1].end_s + TAIL_S))
