"""Every field of a worker's message has a bound, and what is stored can be read again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from subtitle.errors import ProtocolError
from subtitled.core import protocol as pr
from subtitled.core.plan import Plan, PlanPiece, Span
from subtitled.core.records import SegmentKey
from subtitled.core.transcription import DecisionKind, DecodingDecision, Phrase, Word
from subtitled.core.translation import SentenceTranslation
from subtitled.version import VERSION
from subtitled.workers.validation import MAX_CAUSE, checked

NAN, INF = float("nan"), float("inf")
WORD = Word("x", 0, 1, 0.5)
READY = pr.WorkerReady(
    version=VERSION, credit=1, window_samples=480_000, languages=("en", "zh"), model_digest="0" * 64
)


def result(**changes: Any) -> pr.SegmentResult:
    """Return a valid result with changes."""
    fields: dict[str, Any] = {
        "phrases": (Phrase("x", 0, 1000, words=(WORD,)),),
        "language": "en",
        "language_probability": 0.9,
        **changes,
    }
    return pr.SegmentResult(**fields)


def transcribed(item: pr.ItemResult | None = None, **changes: Any) -> pr.Transcribed:
    """Return an answer with one item."""
    item = item or pr.ItemResult.of(SegmentKey("a", 0), result())
    return pr.Transcribed(**{"lease": 1, "items": (item,), **changes})


def item(**changes: Any) -> pr.ItemResult:
    """Return an item with changes."""
    return msgspec.structs.replace(pr.ItemResult.of(SegmentKey("a", 0), result()), **changes)


def received(message: pr.FromWorker, *, is_remote: bool = True) -> pr.FromWorker:
    """Return a message as the daemon takes it from the wire."""
    decoded, _ = pr.from_worker.decode([bytes(frame) for frame in pr.from_worker.encode(message)])
    return checked(decoded, is_remote=is_remote)


@pytest.mark.parametrize(
    "changes",
    [
        {"phrases": (Phrase("x" * 10_001, 0, 1),)},
        {"phrases": (Phrase("x", 0, 1),) * 501},
        {"phrases": (Phrase("x", 0, 2**40),)},
        {"phrases": (Phrase("x", -(2**40), 1),)},
        {"phrases": (Phrase("x", 0, 1, words=(WORD,) * 2001),)},
        {"phrases": (Phrase("x", 0, 1, words=(Word("x" * 1001, 0, 1, 0.5),)),)},
        {"phrases": (Phrase("x", 0, 1, words=(Word("x", 0, 1, NAN),)),)},
        {"phrases": (Phrase("x", 0, 1, words=(Word("x", 0, 1, 1e300),)),)},
        {"phrases": (Phrase("x", 0, 1, words=(Word("x", 0, 2**62, 0.5),)),)},
        {"phrases": (Phrase("x", 0, 1, avg_logprob=INF),)},
        {"phrases": (Phrase("x", 0, 1, compression_ratio=1e300),)},
        {"phrases": (Phrase("x", 0, 1, no_speech_prob=NAN),)},
        {"phrases": (Phrase("x", 0, 1, temperature=-1e300),)},
        {"translation": (Phrase("x", 0, 1, avg_logprob=NAN),)},
        {"translation": (Phrase("x", 0, 1),) * 501},
        {"language": "xx"},
        {"language": ""},
        {"language": "e" * 10_000},
        {"language_probability": NAN},
        {"language_probability": 2.0},
        {"no_speech_prob": 1e300},
        {"temperature": NAN},
        {"fallbacks": -1},
        {"fallbacks": 2**40},
        {"decisions": (DecodingDecision(verdict=DecisionKind.LOOP, cause="mine", temperature=0.0),)},
        {"decisions": (DecodingDecision(verdict=DecisionKind.LOOP, cause="log_prob", temperature=NAN),)},
        {
            "decisions": (DecodingDecision(verdict=DecisionKind.LOOP, cause="log_prob", temperature=0.0),)
            * 1001
        },
    ],
)
def test_a_result_with_a_value_out_of_bounds_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        received(transcribed(pr.ItemResult.of(SegmentKey("a", 0), result(**changes))))


@pytest.mark.parametrize(
    "message",
    [
        transcribed(decode_s=NAN),
        transcribed(decode_s=1e300),
        transcribed(features_s=-1.0),
        transcribed(load_s=INF),
        transcribed(items=(item(),) * 257),
        transcribed(item(key=SegmentKey("a" * 201, 0))),
        transcribed(item(key=SegmentKey("a", -1))),
        transcribed(item(language_probability=NAN)),
        transcribed(item(result=b"\xc1")),
        transcribed(item(result=b"")),
        transcribed(item(result=msgspec.msgpack.encode({"phrases": [[]]}))),
        transcribed(item(result=b"\x91" * 400_000)),
        transcribed(item(result=b"x" * (pr.MAX_RESULT_BYTES + 1))),
        msgspec.structs.replace(READY, window_samples=1),
        msgspec.structs.replace(READY, window_samples=479_999),
        msgspec.structs.replace(READY, window_samples=None),
        msgspec.structs.replace(READY, languages=("en", "klingon")),
        msgspec.structs.replace(READY, languages=("en",) * 1001),
        msgspec.structs.replace(READY, model="m" * 201),
        msgspec.structs.replace(READY, compute_type="m" * 201),
        msgspec.structs.replace(READY, version="m" * 201),
        msgspec.structs.replace(READY, device="m" * 201),
        msgspec.structs.replace(READY, model_digest="0" * 63),
        msgspec.structs.replace(READY, credit=65),
        msgspec.structs.replace(READY, streams=0),
        msgspec.structs.replace(READY, batch_size=257),
        msgspec.structs.replace(READY, load_s=1e300),
        msgspec.structs.replace(READY, stale_models=("x" * 101,)),
        transcribed(loaded=pr.HeldModel(name="big", languages=("en", "klingon"))),
        pr.Translated(
            lease=1,
            results=(pr.TextResult(key=SegmentKey("a", 0), sentences=(), engine="x", version="x"),),
        ),
        transcribed(loaded=pr.HeldModel(name="big", load_s=NAN)),
        pr.Heartbeat(feed=-1),
        pr.Heartbeat(decoded_samples=2**60),
        pr.Echo(stamp_s=1.0, clock_s=NAN),
        pr.Echo(stamp_s=1.0, clock_s=1e300),
        pr.WorkerLeaving(cause="x" * 201),
        pr.Prepared(feed=1, plan=Plan(0, (PlanPiece(0, 1),), ())),
        pr.PlanComplete(feed=1, media=b""),
        pr.PrepareRefused(feed=1, cause="no"),
        pr.FileUnavailable(feed=1, cause="no"),
        pr.AlreadySubtitled(feed=1, cause="no"),
    ],
)
def test_a_message_of_a_remote_worker_with_a_value_out_of_bounds_is_rejected(message: pr.FromWorker) -> None:
    with pytest.raises(ProtocolError):
        received(message)


MEDIA = msgspec.msgpack.encode(pr.Media())
PLAN = Plan(0, (PlanPiece(10, 20),), (Span(10, 30),))


@pytest.mark.parametrize(
    "message",
    [
        pr.PlanComplete(feed=1, media=b""),
        pr.PlanComplete(feed=1, media=b"\xc1"),
        pr.PlanComplete(feed=1, media=msgspec.msgpack.encode(pr.Media(container="x" * 201))),
        pr.PlanComplete(feed=1, media=msgspec.msgpack.encode(pr.Media(decoded_samples=2**60))),
        pr.PlanComplete(feed=1, media=msgspec.msgpack.encode(pr.Media(bad_packets=-1))),
        pr.PlanComplete(feed=1, media=MEDIA, decode_s=NAN),
        pr.PlanComplete(feed=1, media=MEDIA, waveform=b"x"),
        pr.PlanComplete(
            feed=1,
            media=MEDIA,
            waveform=msgspec.msgpack.encode(pr.Waveform(interval_ms=1, peaks=b"x" * (2**17 + 1))),
        ),
        pr.PlanComplete(
            feed=1, media=MEDIA, waveform=msgspec.msgpack.encode(pr.Waveform(interval_ms=0, peaks=b""))
        ),
        pr.Prepared(feed=1, plan=Plan(0, (), ())),
        pr.Prepared(feed=1, plan=Plan(-1, PLAN.pieces, PLAN.spans)),
        pr.Prepared(feed=1, plan=Plan(0, (PlanPiece(0, 480_001),), ())),
        pr.Prepared(feed=1, plan=Plan(0, (PlanPiece(0, 400_000), PlanPiece(400_000, 400_000)), ())),
        pr.Prepared(feed=1, plan=Plan(0, (PlanPiece(0, 10), PlanPiece(5, 10)), ())),
        pr.Prepared(feed=1, plan=Plan(0, (PlanPiece(-5, 10),), ())),
        pr.Prepared(feed=1, plan=Plan(0, (PlanPiece(0, 10),), (Span(5, 5),))),
        pr.Prepared(feed=1, plan=Plan(0, (PlanPiece(0, 10),), (Span(5, 9), Span(8, 10)))),
        pr.Prepared(feed=1, plan=Plan(0, (PlanPiece(2**62, 10),), ())),
    ],
)
def test_a_message_of_a_decoder_with_a_value_out_of_bounds_is_rejected(message: pr.FromWorker) -> None:
    with pytest.raises(ProtocolError):
        received(message, is_remote=False)


def test_valid_messages_pass_unchanged() -> None:
    for message in (
        READY,
        pr.LeaseAbandoned(lease=1),
        transcribed(),
        transcribed(pr.ItemResult.of(SegmentKey("a", 3), result(phrases=(), language="", is_speech=False))),
        transcribed(
            pr.ItemResult.of(SegmentKey("a", 3), result(phrases=(Phrase("x", 31_000, -5),), translation=()))
        ),
        pr.Heartbeat(),
        pr.ModelUnloaded(),
        pr.LeaseReceived(lease=1),
        pr.ExitReason(cause="stopped"),
    ):
        assert received(message) == message
    for of_decoder in (
        pr.Prepared(feed=1, plan=PLAN),
        pr.PlanComplete(feed=1, media=MEDIA),
        pr.PrepareRefused(feed=1, cause="no audio"),
        pr.FileUnavailable(feed=1, cause="input/output error"),
    ):
        assert received(of_decoder, is_remote=False) == of_decoder


def test_a_stored_result_has_only_known_fields() -> None:
    """Unknown fields are ignored on the wire; in the database they would be a worker's free storage."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(result()))
    padded = msgspec.msgpack.encode({**fields, "mine": "x" * 100_000})
    message = received(transcribed(item(result=padded)))
    assert isinstance(message, pr.Transcribed)
    assert message.items[0].result == msgspec.msgpack.encode(result())


@pytest.mark.parametrize("kind", [pr.ExitReason, pr.LeaseRefused])
def test_a_reason_is_cut_to_one_line(kind: type[Any]) -> None:
    fields = {"lease": 1} if kind is pr.LeaseRefused else {}
    message: Any = received(kind(cause="out\nof\x1b[31m memory " + "x" * 15_000_000, **fields))
    assert message.cause.startswith("out of [31m memory xx")
    assert len(message.cause) == MAX_CAUSE


def test_translation_has_no_line_breaks() -> None:
    """A blank line would end a cue of an SRT file, and a made-up one could follow."""
    sentence = SentenceTranslation(text="one\n\n2\n00:00:01,000 --> 00:00:02,000\ntwo\x1b[0m")
    result = pr.TextResult(key=SegmentKey("a", 1), sentences=(sentence,), engine="x\n", version="y")
    message = received(pr.Translated(lease=1, results=(result,)))
    assert isinstance(message, pr.Translated)
    assert message.results[0].sentences[0].text == "one  2 00:00:01,000 --> 00:00:02,000 two [0m"
    assert message.results[0].engine == "x "
