"""Segments decoded twice in one lease: as they are spoken, and translated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from subtitled.languages import ENGLISH

if TYPE_CHECKING:
    import numpy as np

    from subtitled.asr.engine import OnResults
    from subtitled.asr.prompts import PromptRequest
    from subtitled.core.plan import SegmentSound
    from subtitled.core.protocol import SegmentResult


class Decode(Protocol):
    """`Engine.transcribe`, with its other arguments bound."""

    def __call__(
        self,
        features: Sequence[np.ndarray],
        requests: Sequence[PromptRequest],
        *,
        sounds: Sequence[SegmentSound],
        on_results: OnResults,
    ) -> list[SegmentResult]:
        """Return the result of each segment."""
        ...


def transcribe(
    decode: Decode,
    features: Sequence[np.ndarray],
    requests: Sequence[PromptRequest],
    is_translated: Sequence[bool],
    sounds: Sequence[SegmentSound],
    on_results: OnResults,
) -> list[SegmentResult]:
    """Return the result of each segment, with its translation where one is requested.

    A segment is translated from the language in which it was decoded. English and silence have no translation.
    `on_results`: see `Engine.transcribe`. Raises what `decode` raises.
    """

    def to_translate(place: int, result: SegmentResult) -> bool:
        return is_translated[place] and result.is_speech and result.language != ENGLISH

    def report_untranslated(found: Mapping[int, SegmentResult]) -> None:
        on_results({at: result for at, result in found.items() if not to_translate(at, result)})

    def report_translated(found: Mapping[int, SegmentResult]) -> None:
        on_results(
            {
                places[at]: replace(results[places[at]], translation=translated.phrases)
                for at, translated in found.items()
            }
        )

    results = decode(features, requests, sounds=sounds, on_results=report_untranslated)
    places = [place for place, result in enumerate(results) if to_translate(place, result)]
    if places:
        report_untranslated(dict(enumerate(results)))
        again = [replace(requests[at], task="translate", language=results[at].language) for at in places]
        chosen = [sounds[at] for at in places]
        found = decode([features[at] for at in places], again, sounds=chosen, on_results=report_translated)
        for at, translated in zip(places, found, strict=True):
            results[at] = replace(results[at], translation=translated.phrases)
    return results
