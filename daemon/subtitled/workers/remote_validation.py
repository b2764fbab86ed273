"""Validation of workers on other hosts: their release, their model's weights, and every message that they send."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite

import msgspec
from msgspec.structs import replace

from subtitle.errors import ProtocolError
from subtitled.config.checks import LANGUAGES
from subtitled.core import protocol as be
from subtitled.core.transcription import Phrase
from subtitled.version import VERSION

_LANGUAGES = frozenset(LANGUAGES)
_CAUSES = frozenset({"compression_ratio", "log_prob", "no_speech_prob", "repetition"})
"""Of a decision (`cues.decisions`)."""
_KINDS = (
    be.WorkerReady,
    be.Heartbeat,
    be.Transcribed,
    be.ModelUnloaded,
    be.LeaseRefused,
    be.Echo,
    be.LeaseReceived,
    be.WorkerLeaving,
    be.ExitReason,
)


def validated(message: be.FromWorker) -> be.FromWorker:
    """Return the message with its results encoded anew; raise ProtocolError if no worker of this release sends it.

    Its contents reach the database, subtitles and labels of metrics.
    """
    if not isinstance(message, _KINDS):
        raise ProtocolError("BAD_FORMAT", f"{type(message).__name__} from a worker on another host")
    match message:
        case be.Transcribed(items=items):
            if not all(map(_is_time, (message.features_s, message.decode_s, message.load_s))):
                raise ProtocolError("BAD_FORMAT", "a time that is negative or not finite")
            return replace(message, items=tuple(map(_validated_item, items)))
        case be.WorkerReady(load_s=seconds) | be.Echo(clock_s=seconds):
            if not _is_time(seconds):
                raise ProtocolError("BAD_FORMAT", f"a time of {seconds}")
        case _:
            pass
    return message


def _is_time(seconds: float) -> bool:
    return isfinite(seconds) and seconds >= 0


def _validated_item(item: be.ItemResult) -> be.ItemResult:
    try:
        result = msgspec.msgpack.decode(item.result, type=be.SegmentResult)
    except msgspec.MsgspecError as error:
        raise ProtocolError("BAD_FORMAT", f"result of {item.key}: {error}") from None
    if not _may_be(result):
        raise ProtocolError("BAD_FORMAT", f"result of {item.key}: unknown language or decision")
    if not isfinite(sum(_numbers(result))):
        raise ProtocolError("BAD_FORMAT", f"result of {item.key}: a number that is not finite")
    return be.ItemResult.of(item.key, result)


def _may_be(result: be.SegmentResult) -> bool:
    is_known = result.language in _LANGUAGES or not (result.language or result.is_speech)
    return is_known and all(
        decision.cause in _CAUSES and 0 <= decision.temperature <= 2 for decision in result.decisions
    )


def _numbers(result: be.SegmentResult) -> Iterator[float]:
    """Yield every number that need not be finite; a sum of them is finite only if all are."""
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


def join_refusal(join: be.JoinSession) -> str:
    """Return why a worker cannot work for this daemon, with the remedy; "" if it can."""
    ours, theirs = (VERSION, be.PROTOCOL), (join.version, join.protocol)
    if ours == theirs:
        return ""
    return (
        f"has version {join.version} (protocol {join.protocol}), the daemon has {VERSION} (protocol {be.PROTOCOL}); "
        "install the same release on both hosts"
    )


class ModelWeightsCheck:
    """All workers must have the same weights: those of `model.digest`, of a worker on this host, or of the first one."""

    def __init__(self, pinned: str) -> None:
        """`pinned`: the configured SHA-256; "" if there is none."""
        self._pinned = pinned
        self._digests: dict[str, str] = {}
        """SHA-256 by worker, in the order of their arrival, workers of this host first."""

    def refusal(self, worker: str, digest: str, *, is_remote: bool) -> str:
        """Return why a worker with these weights is refused; "" if it is accepted, and remembered until `forget`."""
        if not digest:
            return "does not send the SHA-256 of its model" if is_remote else ""
        owner, required = self._required(is_remote=is_remote)
        if required not in {"", digest}:
            return (
                f"has a model with the SHA-256 {digest}, and {owner} {required}; give it the same model.bin "
                "(--model FOLDER there), or set model.digest to the right one"
            )
        slot = worker.rpartition(".")[0]
        others = {other: sha for other, sha in self._digests.items() if other.rpartition(".")[0] != slot}
        self._digests = {**others, worker: digest} if is_remote else {worker: digest, **others}
        return ""

    def forget(self, worker: str) -> None:
        """Forget a worker that is gone; does nothing if it is unknown."""
        self._digests.pop(worker, None)

    def _required(self, *, is_remote: bool) -> tuple[str, str]:
        """Return the origin of the required SHA-256, and the SHA-256; "" if any is accepted."""
        if self._pinned:
            return "model.digest is", self._pinned
        if not is_remote or not self._digests:
            # The weights of this host take precedence; remote workers are checked again.
            return "", ""
        first = next(iter(self._digests))
        return f"{first.rpartition('.')[0]} has", self._digests[first]
