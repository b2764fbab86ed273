"""Validation of workers: the release and the model of those on other hosts, and the messages of all.

The bounds of single fields are in `core.protocol`, and are checked when a message is decoded. A worker with a key, or a
decoder that a malicious media file controls, may send anything; its messages reach the database, subtitles, the log and metrics.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from subtitle.errors import ProtocolError
from subtitled.config.checks import LANGUAGES
from subtitled.core import protocol as pr
from subtitled.core.plan import Plan
from subtitled.version import VERSION

_LANGUAGES = frozenset(LANGUAGES)
_DECISION_CAUSES = frozenset({"compression_ratio", "log_prob", "no_speech_prob", "repetition"})
_FROM_REMOTE = (
    pr.WorkerReady,
    pr.Heartbeat,
    pr.SegmentsTranscribed,
    pr.Transcribed,
    pr.Translated,
    pr.ModelUnloaded,
    pr.LeaseRefused,
    pr.LeaseAbandoned,
    pr.Echo,
    pr.LeaseReceived,
    pr.WorkerLeaving,
    pr.ExitReason,
)
MAX_CAUSE = 1000
"""Characters of a reason that are kept; it reaches the database, the log and `NAME.error.txt`."""


def checked(message: pr.FromWorker, *, is_remote: bool) -> pr.FromWorker:
    """Return the message as it may be handled; raise ProtocolError if no worker of this release sends it.

    Reasons are cut to one line. What is stored as it is (media, waveform, results of other hosts) is encoded again, without
    unknown fields.
    """
    if is_remote and not isinstance(message, _FROM_REMOTE):
        raise ProtocolError("BAD_FORMAT", f"{type(message).__name__} from a worker on another host")
    if is_remote and isinstance(message, pr.LeaseAnswer) and message.loaded is not None:
        _check_languages(message.loaded.languages)
    match message:
        case pr.SegmentsTranscribed(items=items) | pr.Transcribed(items=items) if is_remote:
            return replace(message, items=tuple(map(_checked_item, items)))
        case pr.Translated(results=results):
            return replace(message, results=tuple(map(_printable_result, results)))
        case pr.WorkerReady(window_samples=window, languages=languages) if is_remote:
            if window != pr.WINDOW_SAMPLES:
                raise ProtocolError(
                    "BAD_FORMAT",
                    f"a model with a window of {window} samples; {pr.WINDOW_SAMPLES} are required",
                )
            _check_languages(languages)
        case pr.Prepared(plan=plan):
            _check_plan(plan)
        case pr.PlanComplete(media=media, waveform=waveform):
            return replace(
                message,
                media=_encoded_again(media, pr.Media, "media"),
                waveform=None if waveform is None else _encoded_again(waveform, pr.Waveform, "waveform"),
            )
        case (
            pr.PrepareRefused()
            | pr.FileUnavailable()
            | pr.AlreadySubtitled()
            | pr.LeaseRefused()
            | pr.WorkerLeaving()
            | pr.ExitReason()
        ):
            return replace(message, cause=one_line(message.cause))
        case _:
            pass
    return message


def check_result(result: pr.SegmentResult) -> None:
    """Raise ProtocolError for values of a result that the types of its fields do not exclude."""
    is_language = result.language in _LANGUAGES or not (result.language or result.is_speech)
    if not is_language:
        raise ProtocolError("BAD_FORMAT", f"unknown language {result.language!r}")
    for phrase in (*result.phrases, *(result.translation or ())):
        if phrase.language and phrase.language not in _LANGUAGES:
            raise ProtocolError("BAD_FORMAT", f"unknown language {phrase.language!r}")
    if any(decision.cause not in _DECISION_CAUSES for decision in result.decisions):
        raise ProtocolError("BAD_FORMAT", "unknown cause of a decoding decision")


def _printable_result(result: pr.TextResult) -> pr.TextResult:
    """Return translations without line breaks and control characters, which would end a cue of a subtitle file."""
    sentences = tuple(
        replace(one, text=_printable(one.text), problem=one_line(one.problem), warning=one_line(one.warning))
        for one in result.sentences
    )
    return replace(
        result, sentences=sentences, engine=one_line(result.engine), version=one_line(result.version)
    )


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def one_line(cause: str) -> str:
    """Return a reason without line breaks and control characters, at most MAX_CAUSE characters."""
    return _printable(cause[:MAX_CAUSE])


def _check_languages(languages: Iterable[str]) -> None:
    if unknown := set(languages) - _LANGUAGES:
        raise ProtocolError("BAD_FORMAT", f"unknown languages: {sorted(unknown)}")


def _checked_item(item: pr.ItemResult) -> pr.ItemResult:
    try:
        result = msgspec.msgpack.decode(item.result, type=pr.SegmentResult)
        check_result(result)
    except (msgspec.MsgspecError, ProtocolError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("BAD_FORMAT", f"result of segment {item.key.index}: {error}") from None
    return pr.ItemResult.of(item.key, result)


def _encoded_again(blob: bytes, kind: type, what: str) -> bytes:
    try:
        return msgspec.msgpack.encode(msgspec.msgpack.decode(blob, type=kind))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("BAD_FORMAT", f"{what}: {error}") from None


def _check_plan(plan: Plan) -> None:
    """Raise ProtocolError unless pieces and spans are in order, and a segment is not longer than a window."""
    samples, end = 0, 0
    for piece in plan.pieces:
        if piece.start < end:
            raise ProtocolError("BAD_FORMAT", f"segment {plan.index}: its pieces overlap")
        samples += piece.samples
        end = piece.start + piece.samples
    if not 1 <= samples <= pr.WINDOW_SAMPLES:
        raise ProtocolError("BAD_FORMAT", f"segment {plan.index}: {samples} samples")
    end = 0
    for span in plan.spans:
        if not end <= span.start < span.end:
            raise ProtocolError("BAD_FORMAT", f"segment {plan.index}: its spans overlap")
        end = span.end


def join_refusal(join: pr.JoinSession) -> str:
    """Return why a worker cannot work for this daemon, with the remedy; "" if it can."""
    ours, theirs = (VERSION, pr.PROTOCOL), (join.version, join.protocol)
    if ours == theirs:
        return ""
    return (
        f"has version {join.version} (protocol {join.protocol}), the daemon has {VERSION} (protocol {pr.PROTOCOL}); "
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
