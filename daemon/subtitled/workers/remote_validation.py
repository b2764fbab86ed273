"""Whether what a worker on another host says can be so; its own code says nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite

from subtitled.config.checks import LANGUAGES
from subtitled.core import protocol as be
from subtitled.core.transcription import Phrase

_LANGUAGES = frozenset(LANGUAGES)
_CAUSES = frozenset({"compression_ratio", "log_prob", "no_speech_prob", "repetition"})
"""Of a decision (`cues.decisions`)."""
_KINDS = (
    be.Ready,
    be.Heartbeat,
    be.Transcribed,
    be.Unloaded,
    be.Refused,
    be.Echo,
    be.Received,
    be.WorkerLeaves,
    be.ExitReason,
)


def why_implausible(message: be.FromWorker) -> str:
    """Return why no worker of ours says that; "" if one may.

    What is taken ends in the database, in subtitles and in the labels of metrics.
    """
    if not isinstance(message, _KINDS):
        return f"{type(message).__name__} from a worker on another host"
    match message:
        case be.Transcribed(items=items):
            if min(message.features_s, message.decode_s, message.load_s) < 0:
                return "a time below zero"
            if any(not _may_be(item.result) for item in items):
                return "a language or a decision that is none"
            return "" if isfinite(sum(_numbers(message))) else "a number that is none"
        case be.Ready(load_s=seconds) | be.Echo(clock_s=seconds):
            return "" if isfinite(seconds) and seconds >= 0 else f"a time of {seconds}"
        case be.Refused(lease=lease):
            return "" if lease else "a file refused by a worker on another host"
        case _:
            return ""


def _may_be(result: be.SegmentResult) -> bool:
    is_known = result.language in _LANGUAGES or not (result.language or result.is_speech)
    return is_known and all(
        decision.cause in _CAUSES and 0 <= decision.temperature <= 2 for decision in result.decisions
    )


def _numbers(message: be.Transcribed) -> Iterator[float]:
    """Yield every number that need not be finite; a sum of them is finite only if all are."""
    yield from (message.features_s, message.decode_s, message.load_s)
    for item in message.items:
        result = item.result
        yield from (result.language_probability, result.no_speech_prob, result.temperature)
        yield from _scores(result.phrases)
        yield from _scores(result.translation or ())


def _scores(phrases: Iterable[Phrase]) -> Iterator[float]:
    for phrase in phrases:
        yield from (
            phrase.avg_logprob,
            phrase.compression_ratio,
            phrase.no_speech_prob,
            phrase.temperature,
        )
        yield from (word.probability for word in phrase.words)
