"""The language of a segment whose detection is uncertain, and the languages of one with speech in several.

Whisper detects the language from the first token alone. Its decoder knows better: on a French greeting detected as Polish
(0.43; French 0.04) the mean log-probability of a token is -0.76 in French, -0.91 in Russian and -1.16 in Polish. So the
language is the one in which the parts between seams are decoded with most certainty. They are decoded apart, because text
that repeats itself within a window looks certain in any language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from subtitled.asr.coverage import TimeRange

UNCERTAIN = 0.5
"""A language detected with a lower probability is checked by decoding."""
MAX_CANDIDATES = 5
"""The most probable languages that are tried."""
MAX_PARTS = 2
"""The longest parts of a segment that are decoded to compare languages."""
MIN_PART_S = 2.0
MIN_PAUSE_S = 0.25
"""A segment with speech in several languages is examined in parts of so much speech, between pauses of this length."""
OTHER_LANGUAGE = 0.6
"""A part is in another language than most of its segment, if that is detected with this probability."""


def parts_to_compare(frames: int, seams: Sequence[int]) -> list[tuple[int, int]]:
    """Return the longest parts of a segment between its `seams`, as [start, end) in frames."""
    edges = [0, *(seam for seam in seams if 0 < seam < frames), frames]
    parts = [(start, end) for start, end in pairwise(edges) if start < end]
    return sorted(parts, key=lambda part: part[0] - part[1])[:MAX_PARTS]


def most_certain(
    parts: Sequence[tuple[int, int]],
    candidates: Sequence[tuple[str, float]],
    logprobs: Mapping[str, Sequence[float]],
) -> tuple[str, float]:
    """Return the candidate with the highest mean log-probability over `parts`, weighted by length.

    `candidates`: languages with their detected probability, the most probable first, which wins a tie. `logprobs`: for each
    language the mean log-probability of a token in each part.
    """
    lengths = [end - start for start, end in parts]
    return max(
        candidates,
        key=lambda candidate: sum(
            length * logprob for length, logprob in zip(lengths, logprobs[candidate[0]], strict=True)
        ),
    )


class LanguageRun(Struct, frozen=True):
    """A part of a segment from `start_s` to `end_s`, in one language."""

    start_s: float
    end_s: float
    language: str
    probability: float


def parts_by_pauses(speech: Sequence[TimeRange]) -> list[list[TimeRange]]:
    """Return `speech` (in order) in parts of at least MIN_PART_S, divided at pauses; the last one may be half as long."""
    parts: list[list[TimeRange]] = []
    for span in speech:
        if not parts or (
            _length_s(parts[-1]) >= MIN_PART_S and span.start_s - parts[-1][-1].end_s >= MIN_PAUSE_S
        ):
            parts.append([])
        parts[-1].append(span)
    if len(parts) > 1 and _length_s(parts[-1]) < MIN_PART_S / 2:
        last = parts.pop()
        parts[-1] += last
    return parts


def language_runs(
    parts: Sequence[Sequence[TimeRange]], detected: Sequence[Sequence[tuple[str, float]]], end_s: float
) -> list[LanguageRun]:
    """Return the runs of one language in a segment of `end_s`, which meet in the middle of a pause.

    `parts`: its speech, as `parts_by_pauses` returns it. `detected`: for each part languages with their probabilities, the most
    probable first. An uncertain part is in the most probable of the languages that other parts are certain to have.
    """
    totals: dict[str, float] = {}
    for part, ranked in zip(parts, detected, strict=True):
        for language, probability in ranked:
            totals[language] = totals.get(language, 0.0) + probability * _length_s(part)
    main = max(totals, key=lambda language: totals[language])
    certain = {main, *(ranked[0][0] for ranked in detected if ranked[0][1] >= OTHER_LANGUAGE)}
    runs: list[LanguageRun] = []
    for at, (part, ranked) in enumerate(zip(parts, detected, strict=True)):
        probabilities = dict(ranked)
        language = max(certain, key=lambda one: (probabilities.get(one, 0.0), one == main, one))
        probability = probabilities.get(language, 0.0)
        until_s = end_s if at == len(parts) - 1 else (part[-1].end_s + parts[at + 1][0].start_s) / 2
        if runs and runs[-1].language == language:
            runs[-1] = replace(runs[-1], end_s=until_s, probability=max(runs[-1].probability, probability))
        else:
            runs.append(LanguageRun(runs[-1].end_s if runs else 0.0, until_s, language, probability))
    return runs


def _length_s(part: Sequence[TimeRange]) -> float:
    return sum(span.end_s - span.start_s for span in part)
