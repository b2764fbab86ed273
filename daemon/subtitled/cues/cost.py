"""What it costs to break a line."""

from __future__ import annotations

from enum import IntEnum


class BreakCost(IntEnum):
    """Of a break between two words, by what they are to each other.

    The order is that of the Netflix Timed Text Style Guides, "Line Treatment"; the numbers are set by eye, on the examples in
    tests/unit/test_layout_examples.py.
    """

    TURN = -60
    """Before a dialogue dash: the next speaker likes a line of its own."""
    SENTENCE = 0
    CLAUSE = 10
    COMMA = 20
    CONJUNCTION = 35
    """Before a conjunction or a relative pronoun."""
    PREPOSITION = 50
    PHRASE = 60
    """Before an article, a pronoun, an auxiliary: a part of the sentence begins."""
    PLAIN = 75
    MODIFIER = 130
    """Between an adjective and its noun, a number and the words after its unit."""
    LEANING = 200
    """Between a word and what it belongs to: after an article or a preposition, inside a name, after a number."""
    INSIDE = 400
    """Inside a word that is wider than a line."""
