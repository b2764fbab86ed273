"""Segments decoded twice in one lease: as they are spoken, and translated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

if TYPE_CHECKING:
    import numpy as np

    from subtitled.asr.prompts import PromptRequest
    from subtitled.core.plan import SegmentSound
    from subtitled.core.protocol import SegmentResult

ENGLISH = "en"
"""What Whisper translates to."""


class Decode(Protocol):
    """`Engine.transcribe`, with its other arguments bound."""

    def __call__(
        self,
        features: Sequence[np.ndarray],
        requests: Sequence[PromptRequest],
        *,
        sounds: Sequence[SegmentSound],
    ) -> list[SegmentResult]:
        """Return the result of each segment."""
        ...


def transcribe(
    decode: Decode,
    features: Sequence[np.ndarray],
    requests: Sequence[PromptRequest],
    is_translated: Sequence[bool],
    sounds: Sequence[SegmentSound],
) -> list[SegmentResult]:
    """Return the result of each segment, with its translation where one is requested.

    A segment is translated from the language in which it was decoded. English and silence have no translation. Raises what
    `decode` raises.
    """
    results = decode(features, requests, sounds=sounds)
    places = [
        place
        for place, (result, is_requested) in enumerate(zip(results, is_translated, strict=True))
        if is_requested and result.is_speech and result.language != ENGLISH
    ]
    if places:
        again = [replace(requests[at], task="translate", language=results[at].language) for at in places]
        chosen = [sounds[at] for at in places]
        found = decode([features[at] for at in places], again, sounds=chosen)
        for at, translated in zip(places, found, strict=True):
            results[at] = replace(results[at], translation=translated.phrases)
    return results
