"""A lease's segments are decoded as they are spoken, and those that want it once more, translated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from subtitled.asr.dual_task import transcribe
from subtitled.asr.prompts import PromptRequest
from subtitled.core.plan import SegmentSound
from subtitled.core.protocol import SegmentResult
from subtitled.core.transcription import Phrase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from subtitled.asr.engine import OnResults


class Heard:
    """An engine that says what it was asked, and hears each segment in the language that its features name."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str | None, str]] = []
        self.reported: dict[int, SegmentResult] = {}

    def __call__(
        self,
        features: Sequence[np.ndarray],
        requests: Sequence[PromptRequest],
        *,
        sounds: Sequence[SegmentSound],
        on_results: OnResults,
    ) -> list[SegmentResult]:
        """Decode a batch."""
        results = []
        assert [sound.seams for sound in sounds] == [(int(array[0]),) for array in features]
        for array, request in zip(features, requests, strict=True):
            number = int(array[0])
            self.asked.append((number, request.language, request.task))
            language = request.language or ("zh", "en", "de")[number % 3]
            results.append(
                SegmentResult(
                    phrases=(Phrase(f"{number} {request.task}", 0, 1000),),
                    language=language,
                    language_probability=0.9,
                    is_speech=number < 10,
                )
            )
        on_results({0: results[0]})
        return results


def translated(
    numbers: Sequence[int], wanted: Sequence[bool], language: str | None = None
) -> tuple[Heard, list[SegmentResult]]:
    heard = Heard()
    features = [np.array([number]) for number in numbers]
    requests = [replace(PromptRequest(language=None), language=language) for _ in numbers]
    sounds = [SegmentSound(seams=(number,)) for number in numbers]
    results = transcribe(heard, features, requests, wanted, sounds, heard.reported.update)
    assert heard.reported.items() <= dict(enumerate(results)).items()
    return heard, results


def test_each_segment_is_translated_from_the_language_it_was_heard_in() -> None:
    heard, results = translated([0, 2], [True, True])
    assert heard.asked == [
        (0, None, "transcribe"),
        (2, None, "transcribe"),
        (0, "zh", "translate"),
        (2, "de", "translate"),
    ]
    assert [result.phrases[0].text for result in results] == ["0 transcribe", "2 transcribe"]
    assert [result.translation for result in results] == [
        (Phrase("0 translate", 0, 1000),),
        (Phrase("2 translate", 0, 1000),),
    ]


def test_only_what_wants_it_is_translated() -> None:
    """Not English, not silence, not the segments of other jobs in the lease."""
    heard, results = translated([0, 1, 12, 3], [False, True, True, True])
    assert heard.asked[4:] == [(3, "zh", "translate")]
    assert [result.translation is None for result in results] == [True, True, True, False]


def test_results_are_reported_early_once_they_have_their_translation() -> None:
    heard, results = translated([12, 0, 1, 3], [True, True, False, True])
    assert heard.reported == {at: results[at] for at in (0, 1, 2)}, "3 is the last one"


def test_nothing_to_translate_costs_nothing() -> None:
    heard, _ = translated([0, 2], [False, False])
    assert len(heard.asked) == 2
