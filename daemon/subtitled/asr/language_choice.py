"""The language of a segment whose detection is uncertain: the one in which its parts are decoded with most certainty.

Whisper detects the language from the first token alone. Its decoder knows better: on a French greeting detected as Polish
(0.43; French 0.04) the mean log-probability of a token is -0.76 in French, -0.91 in Russian and -1.16 in Polish. The
parts between seams are decoded apart, because text that repeats itself within a window looks certain in any language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

UNCERTAIN = 0.5
"""A language detected with a lower probability is checked by decoding."""
MAX_CANDIDATES = 5
"""The most probable languages that are tried."""
MAX_PARTS = 2
"""The longest parts of a segment that are decoded to compare languages."""


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
