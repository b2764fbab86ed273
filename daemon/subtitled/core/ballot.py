"""The vote on a file's language."""

from __future__ import annotations

VOTES = 4
"""Segments with speech whose answers settle a file's language (peers' users suffer from one musical intro deciding)."""


class Ballot:
    """Languages heard in a job's segments, weighted by the model's probability."""

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, language: str, probability: float) -> None:
        """Count one segment's answer."""
        self._weights[language] = self._weights.get(language, 0.0) + probability
        self._counts[language] = self._counts.get(language, 0) + 1

    @property
    def votes(self) -> int:
        """How many answers were counted."""
        return sum(self._counts.values())

    @property
    def is_enough(self) -> bool:
        """The vote may be settled though more segments are to come."""
        return self.votes >= VOTES

    def verdict(self) -> tuple[str, float] | None:
        """Return the winner and its mean probability; None when nobody voted. Ties go to the lesser code."""
        if not self._weights:
            return None
        winner = min(self._weights, key=lambda language: (-self._weights[language], language))
        return winner, self._weights[winner] / self._counts[winner]
