"""Speech that the decoded text covers, and speech that it leaves out.

Whisper ends a window early, or skips over a speaker, without any sign in its result. What the VAD calls speech and no
phrase covers is decoded again; what has no text after that is reported. Times are in seconds of the segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct

SLACK_S = 0.3
"""A phrase's timestamps may be this far inside its speech."""
MIN_DECODED_AGAIN_S = 1.0
"""Speech without text that is worth another decoding."""
MIN_ANNOUNCED_S = 0.3
"""The same where the model ends a window with the start of another phrase: it announces more."""
MIN_REPORTED_S = 0.5
"""Speech without text that is reported."""
LEAD_S = 0.2
"""Audio before and after the speech in a window that decodes it again."""
MIN_MOVED_S = 0.2
"""Speech without text that a phrase without speech is moved onto."""
MAX_MOVE_S = 10.0
MIN_UNSPOKEN_S = 1.5
"""Speech in the time of a phrase, before its first word or after its last one, that is not covered by it."""
EDGE_S = 0.1
"""A phrase that overlaps speech by no more does not belong to it."""
ROUNDING_S = 0.001
TAIL_S = 0.5
"""A phrase may end this long after the speech in it."""


class TimeRange(Struct, frozen=True):
    """From `start_s` to `end_s`."""

    start_s: float
    end_s: float


class UncoveredSpeech(Struct, frozen=True):
    """Stretches of speech without text, with nothing but pauses between them."""

    start_s: float
    end_s: float
    speech_s: float


def uncovered_speech(
    speech: Iterable[TimeRange], covered: Iterable[TimeRange], *, min_s: float
) -> list[UncoveredSpeech]:
    """Return the runs of `speech` (in order) that `covered` leaves out, each with at least `min_s` of speech."""
    texts = sorted(
        (TimeRange(text.start_s - SLACK_S, text.end_s + SLACK_S) for text in covered),
        key=lambda text: text.start_s,
    )
    runs: list[list[TimeRange]] = []
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


def _without(span: TimeRange, texts: Sequence[TimeRange]) -> list[TimeRange]:
    """Return what is left of `span` outside `texts`, which are in order of their start."""
    left, at = [], span.start_s
    for text in texts:
        if text.end_s <= at or text.start_s >= span.end_s:
            continue
        if text.start_s > at:
            left.append(TimeRange(at, text.start_s))
        at = max(at, text.end_s)
    if at < span.end_s:
        left.append(TimeRange(at, span.end_s))
    return left


def moved_to_speech(texts: Sequence[TimeRange], speech: Sequence[TimeRange]) -> list[TimeRange]:
    """Return `texts` (in order); those in a pause are moved onto the speech without text beside them.

    The model gives such a text the time of the silence after or before its speech. It keeps its place between its neighbours
    and its length, so that speech of other text next to it is still found without text. Without such speech it stays.
    """
    found = list(texts)
    for at, text in enumerate(texts):
        if is_near_speech(text, speech):
            continue
        others = [*found[:at], *found[at + 1 :]]
        first_s = max((one.end_s for one in found[:at]), default=0.0)
        last_s = min((one.start_s for one in found[at + 1 :]), default=float("inf"))
        runs = [
            run
            for run in uncovered_speech(speech, others, min_s=MIN_MOVED_S)
            if run.start_s >= first_s and run.end_s <= last_s and _distance_s(run, text) <= MAX_MOVE_S
        ]
        if runs:
            nearest = min(runs, key=lambda run: _distance_s(run, text))
            length_s = min(text.end_s - text.start_s, nearest.end_s - nearest.start_s)
            found[at] = TimeRange(nearest.start_s, nearest.start_s + length_s)
    return found


def is_near_speech(text: TimeRange, speech: Iterable[TimeRange]) -> bool:
    """Return whether there is speech in a text's time, or just before or after it."""
    return any(span.start_s < text.end_s + SLACK_S and span.end_s > text.start_s - SLACK_S for span in speech)


def _distance_s(run: UncoveredSpeech, text: TimeRange) -> float:
    return max(run.start_s - text.end_s, text.start_s - run.end_s)


def snapped_to_sound(
    start_s: float, end_s: float, speech: Sequence[TimeRange], is_loud: np.ndarray
) -> tuple[float, float]:
    """Return the edges of a phrase, moved to the sound of its speech where they lie in a pause; unchanged without speech.

    The model starts the first phrase of a window with the window, and many others with the end of the phrase before.
    `is_loud`: bool (frames,), 100 a second. The VAD may find speech half a second late: sound before it counts, unless it
    belongs to the speech before.
    """
    inside = [
        span
        for span in speech
        if span.end_s - start_s > EDGE_S + ROUNDING_S and end_s - span.start_s > EDGE_S + ROUNDING_S
    ]
    if not inside:
        return start_s, end_s
    own = is_loud.copy()
    for span in speech:
        if span.end_s <= inside[0].start_s:
            own[: _end_of_sound(is_loud, round(span.end_s * 100))] = False
            start_s = max(start_s, span.end_s)
        elif span.start_s >= inside[-1].end_s:
            own[_start_of_sound(is_loud, round(span.start_s * 100)) :] = False
            end_s = min(end_s, span.start_s)
    first = max(start_s, inside[0].start_s)
    before = np.nonzero(own[round(start_s * 100) : round(first * 100)])[0]
    start = start_s + int(before[0]) / 100 if len(before) else first
    last = min(end_s, inside[-1].end_s)
    after = np.nonzero(own[round(last * 100) : round(end_s * 100)])[0]
    end = last + (int(after[-1]) + 1) / 100 if len(after) else last
    return start, max(start, min(end_s, end + TAIL_S))


def trimmed_to_words(phrase: TimeRange, words: TimeRange, speech: Iterable[TimeRange]) -> tuple[float, float]:
    """Return the edges of a phrase without speech before its first word or after its last one.

    The model may give a phrase the time of speech that it leaves out, such as that in another language. `words`: from the first
    word to the last, as they are aligned, which is inexact: less than MIN_UNSPOKEN_S of speech stays.
    """
    inside = [
        TimeRange(max(span.start_s, phrase.start_s), min(span.end_s, phrase.end_s))
        for span in speech
        if span.end_s > phrase.start_s and span.start_s < phrase.end_s
    ]
    start_s, end_s = phrase.start_s, phrase.end_s
    before = [span for span in inside if span.end_s <= words.start_s]
    after = [span for span in inside if span.start_s >= words.end_s]
    if sum(span.end_s - span.start_s for span in before) >= MIN_UNSPOKEN_S:
        start_s = min([span.start_s for span in inside[len(before) :]] or [words.start_s])
    if sum(span.end_s - span.start_s for span in after) >= MIN_UNSPOKEN_S:
        end_s = max([span.end_s for span in inside[: len(inside) - len(after)]] or [words.end_s])
    return (start_s, end_s) if start_s < end_s else (phrase.start_s, phrase.end_s)


def _end_of_sound(is_loud: np.ndarray, frame: int) -> int:
    """Return the first frame without sound from `frame` on."""
    silent = np.nonzero(~is_loud[frame:])[0]
    return frame + int(silent[0]) if len(silent) else len(is_loud)


def _start_of_sound(is_loud: np.ndarray, frame: int) -> int:
    """Return the first frame of the sound that reaches to `frame`."""
    silent = np.nonzero(~is_loud[:frame])[0]
    return int(silent[-1]) + 1 if len(silent) else 0


def loud_frames(features: np.ndarray, speech: Iterable[TimeRange]) -> np.ndarray:
    """Return the frames with sound, bool (frames,): at most 20 dB below the speech.

    `features`: Whisper's log-mel, float32 (n_mels, frames), in which 10 dB are 0.25.
    """
    levels: np.ndarray = features.mean(axis=0)
    parts = [levels[round(span.start_s * 100) : round(span.end_s * 100)] for span in speech]
    spoken = np.concatenate([levels[:0], *parts])
    least = float(np.median(spoken)) - 0.5 if len(spoken) else np.inf
    return np.asarray(levels > least)
