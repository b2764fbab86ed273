"""Segments decoded twice in one lease: as they are spoken, and translated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

if TYPE_CHECKING:
    import numpy as np

    from subtitled.asr.prompts import PromptRequest
    from subtitled.core.protocol import SegmentResult

F = TypeVar("F", bound="np.ndarray")

ENGLISH = "en"
"""What Whisper translates to."""


def transcribe(
    decode: Callable[[Sequence[F], Sequence[PromptRequest]], list[SegmentResult]],
    features: Sequence[F],
    requests: Sequence[PromptRequest],
    is_translated: Sequence[bool],
) -> list[SegmentResult]:
    """Return the result of each segment, with its translation where one is asked for.

    `decode` is the engine's. A segment is translated from the language that it was heard in; English is its own
    translation, and silence has none. What `decode` raises comes through.
    """
    results = decode(features, requests)
    places = [
        place
        for place, (result, is_wanted) in enumerate(zip(results, is_translated, strict=True))
        if is_wanted and result.is_speech and result.language != ENGLISH
    ]
    if places:
        again = [replace(requests[at], task="translate", language=results[at].language) for at in places]
        for at, found in zip(places, decode([features[at] for at in places], again), strict=True):
            results[at] = replace(results[at], translation=found.phrases)
    return results
