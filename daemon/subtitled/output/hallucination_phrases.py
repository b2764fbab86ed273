"""The phrases that models write and nobody says, as they are listed in `hallucination_phrases.toml`."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path

from subtitled.cues.hallucination_filter import HallucinationRules, comparable

BOOK = Path(__file__).with_name("hallucination_phrases.toml")


@lru_cache
def rules_for(language: str | None, *, is_unsaid_dropped: bool, are_marks_kept: bool) -> HallucinationRules:
    """Return what is left out in a language (Whisper's code); the file is read once."""
    outros, marks = _book()
    return HallucinationRules(
        stock=outros.get(language or "", frozenset()) if is_unsaid_dropped else frozenset(),
        marks=frozenset() if are_marks_kept else marks,
        is_loop_cut=is_unsaid_dropped,
    )


@lru_cache
def _book() -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    book = tomllib.loads(BOOK.read_text("utf-8"))
    outros = {language: frozenset(map(comparable, phrases)) for language, phrases in book["outros"].items()}
    return outros, frozenset(map(comparable, book["marks"]["words"]))
