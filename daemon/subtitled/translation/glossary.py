"""The glossary: terms with their translations, from `names.toml`."""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from typing import TYPE_CHECKING

from subtitled.cues.text import clean
from subtitled.errors import SubtitledError
from subtitled.languages import code_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_TERMS = 1000
MAX_CHARS = 200
_LONG_KEY = re.compile(
    r"""(?:^|[{,\[])[ \t]*(?:(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*\.[ \t]*){8}""", re.MULTILINE
)
"""A key of many parts: the parser takes time by the square of their number."""
_SPACED = re.compile(r"[^\W_]")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Scripts without spaces, in which a term may stand inside other letters; Korean particles are attached to words too."""


class GlossaryError(SubtitledError):
    """A glossary is invalid; the message names the entry and the remedy."""


class Glossary:
    """The terms of a `names.toml`, for all target languages.

    Entries at the top apply to every target; a table with the name of a language has those for it alone::

        "Ada Lovelace" = "Ada Lovelace"

        [zh-TW]
        "Ada Lovelace" = "愛達·勒芙蕾絲"
    """

    def __init__(self, text: str) -> None:
        """Raise GlossaryError for a text that is not a valid glossary."""
        if found := _LONG_KEY.search(text):
            line = text.count("\n", 0, found.start()) + 1
            raise GlossaryError(f"line {line}: a key with too many parts; write a term with dots in quotes")
        try:
            data = tomllib.loads(text)
        except RecursionError:
            raise GlossaryError(
                "not valid TOML: nested too deeply; a translation is a text in quotes"
            ) from None
        except ValueError as error:  # also for a number of thousands of digits
            raise GlossaryError(f"not valid TOML: {str(error)[:200]}") from None
        self._all: dict[str, str] = {}
        self._of: dict[str, dict[str, str]] = {}
        for name, value in data.items():
            if isinstance(value, dict):
                if code_of(name) is None:
                    raise GlossaryError(
                        f'[{name[:40]}] is not a language; write a code such as "ja" or "zh-TW"'
                    )
                table = self._of.setdefault(name.lower(), {})
                for term, translation in value.items():
                    _add(table, term, translation)
            else:
                _add(self._all, name, value)
        total = len(self._all) + sum(map(len, self._of.values()))
        if total > MAX_TERMS:
            raise GlossaryError(f"{total} terms are not allowed (up to {MAX_TERMS})")

    def with_terms(self, other: Glossary) -> Glossary:
        """Return both glossaries as one; the terms of `other` go before its own."""
        both = Glossary("")
        both._all = {**self._all, **other._all}
        both._of = {
            name: {**self._of.get(name, {}), **other._of.get(name, {})} for name in (*self._of, *other._of)
        }
        return both

    def terms(self, target: str) -> tuple[tuple[str, str], ...]:
        """Return the terms with their translations into `target`.

        A table for the target itself comes before one for its language ([zh] for "zh-TW"), and both before the entries at the top.
        """
        primary = target.partition("-")[0].lower()
        found = {**self._all, **self._of.get(primary, {}), **self._of.get(target.lower(), {})}
        return tuple(found.items())


def terms_in(terms: Iterable[tuple[str, str]], texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the terms that occur in any of `texts`, longest first."""
    folded = " ".join(texts).casefold()
    likely = (pair for pair in terms if pair[0].split()[0].casefold() in folded)  # far faster than a pattern
    found = [pair for pair in likely if any(contains(text, pair[0]) for text in texts)]
    return tuple(sorted(found, key=lambda pair: -len(pair[0])))


def contains(text: str, term: str) -> bool:
    """Return whether a term occurs in a text, in any case; where the script has spaces, as whole words."""
    return _pattern(term).search(text) is not None


def replaced(text: str, terms: Iterable[tuple[str, str]]) -> str:
    """Return a text with terms replaced by their translations."""
    for term, translation in terms:
        text = _pattern(term).sub(lambda _, found=translation: found, text)  # type: ignore[misc]
    return text


@lru_cache(4096)
def _pattern(term: str) -> re.Pattern[str]:
    words = r"\s+".join(map(re.escape, term.split()))
    first, last = (bool(_SPACED.match(char)) and not _UNSPACED.match(char) for char in (term[0], term[-1]))
    left = r"(?<![^\W_])" if first else ""
    # Hangul particles follow a name directly, and so may a possessive.
    right = r"(?![^\W_])" if last and not "\uac00" <= term[-1] <= "\ud7a3" else ""
    return re.compile(left + words + right, re.IGNORECASE)


def _add(table: dict[str, str], term: str, translation: object) -> None:
    if not isinstance(translation, str):
        raise GlossaryError(f"{term[:40]!r}: a translation is a text in quotes")
    term, translation = clean(term), clean(translation)
    if not term or not translation:
        raise GlossaryError(f"{term[:40]!r} = {translation[:40]!r}: neither side may be empty")
    if max(len(term), len(translation)) > MAX_CHARS:
        raise GlossaryError(f"{term[:40]!r}: up to {MAX_CHARS} characters are allowed on each side")
    table[term] = translation
