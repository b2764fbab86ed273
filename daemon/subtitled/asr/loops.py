"""Repetitions in a decoded text: found anywhere, cut to one round.

Whisper gets stuck on a word or a phrase and repeats it until its window is full. Rounds are compared without case,
spaces and punctuation, and may differ slightly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from msgspec import Struct

MAX_ROUND = 64
"""Longest repeated phrase, in tokens; about 40 words."""
TOLERANCE = 5
"""One token in so many may differ between two rounds: none in rounds of up to four tokens."""


class Loop(Struct, frozen=True):
    """A phrase that is repeated in a sequence of tokens."""

    start: int
    """Index of its first token."""
    round_end: int
    """End of the first round."""
    end: int
    """End of the last round, which may be incomplete."""
    rounds: int
    """Complete rounds."""
    edits: int
    """Words that differ from the first round."""

    @property
    def score(self) -> int:
        """Words after the first round, less those that a difference could have brought in by chance."""
        return self.end - self.round_end - TOLERANCE * self.edits


def find_loop(words: Sequence[Hashable], repeats: int) -> Loop | None:
    """Return the best loop of at least `repeats` rounds; None where nothing is repeated so often.

    The first two rounds are equal; the others may differ by one word in `TOLERANCE`, or be that much longer or shorter.
    """
    best: Loop | None = None
    for size in range(1, min(MAX_ROUND, len(words) // max(2, repeats)) + 1):
        start = 0
        while start + repeats * size <= len(words):
            if words[start : start + size] != words[start + size : start + 2 * size]:
                start += 1
                continue
            loop = _follow(words, start, size)
            if loop.rounds >= repeats and (best is None or loop.score > best.score):
                best = loop
            start = max(start + 1, loop.end - size)
    return best


def _follow(words: Sequence[Hashable], start: int, size: int) -> Loop:
    """Return the loop whose first round is words[start : start + size], with all rounds that follow it."""
    first = words[start : start + size]
    end, rounds, edits = start + size, 1, 0
    while (following := _next_round(first, words[end : end + size + size // TOLERANCE])) is not None:
        end += following[0]
        edits += following[1]
        rounds += 1
    # The last round may be broken off.
    for at in range(min(size - 1, len(words) - end), 0, -1):
        if words[end : end + at] == first[:at]:
            end += at
            break
    return Loop(start, start + size, end, rounds, edits)


def _next_round(first: Sequence[Hashable], following: Sequence[Hashable]) -> tuple[int, int] | None:
    """Return how many of the `following` words are one more round, and how many differ; None where they are no round."""
    size, tolerance = len(first), len(first) // TOLERANCE
    if following[:size] == first:
        return size, 0
    lengths = range(max(1, size - tolerance), min(len(following), size + tolerance) + 1)
    found = min(((_distance(first, following[:length]), length) for length in lengths), default=None)
    return None if found is None or found[0] > tolerance else (found[1], found[0])


def _distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Return the Levenshtein distance of two sequences."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def cut_loops(
    parts: list[dict[str, Any]], spelling: Callable[[int], str], end_of_text: int, repeats: int
) -> list[dict[str, Any]] | None:
    """Return the timed parts of a window with each loop cut to its first round; None where nothing is repeated.

    Tokens from `end_of_text` on (timestamps) do not count, nor do those that `spelling` gives no letters for. The text
    before and after a loop stays, and so does the punctuation after it. A part that ends with a loop loses its closing
    timestamp.
    """
    tokens = [
        (place, at, word)
        for place, part in enumerate(parts)
        for at, token in enumerate(part["tokens"])
        if token < end_of_text and (word := spelling(token))
    ]
    removed: set[tuple[int, int]] = set()
    while (loop := find_loop([word for _, _, word in tokens], repeats)) is not None:
        # Punctuation between the rounds goes with them, as it stands between two of the removed tokens.
        first, last = tokens[loop.round_end][:2], tokens[loop.end - 1][:2]
        removed.update(
            (place, at)
            for place, part in enumerate(parts)
            for at in range(len(part["tokens"]))
            if first <= (place, at) <= last and part["tokens"][at] < end_of_text
        )
        del tokens[loop.round_end : loop.end]
    if not removed:
        return None
    kept = []
    for place, part in enumerate(parts):
        left = [token for at, token in enumerate(part["tokens"]) if (place, at) not in removed]
        spoken = [at for p, at, _ in tokens if p == place]
        if removed and max((at for p, at in removed if p == place), default=-1) > max(spoken, default=-1):
            # The closing timestamp is that of the last round: the end of the first one is left open.
            left = [token for at, token in enumerate(left) if token < end_of_text or at == 0]
        if any(token < end_of_text and spelling(token) for token in left):
            kept.append({**part, "tokens": left})
    return kept
