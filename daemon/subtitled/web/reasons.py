"""The codes of reasons and errors, found by their English text, which the daemon sends and stores."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import islice

from markupsafe import Markup, escape
from msgspec import Struct

from subtitled.web.i18n import DEFAULT_LANGUAGE, Translator, catalogs

PREFIX = "reason."
NESTED = frozenset({"cause", "remedy", "whose"})
"""Parameters that are reasons themselves."""
MAX_DEPTH = 5
MAX_PARTS = 8
"""Places where a text without a code is divided."""
MAX_CHARS = 4000
"""A longer text is not translated."""


class Reason(Struct, frozen=True):
    """A reason or error: its message is `reason.CODE` of each language."""

    code: str
    params: Mapping[str, str]


class _Template(Struct, frozen=True):
    """The English text of a code: `literals` around the values of `names`, one literal more than names."""

    code: str
    literals: tuple[str, ...]
    names: tuple[str, ...]

    def match(self, text: str) -> dict[str, str] | None:
        """Return the values in a text, each as short as possible; None if it is not of this template. Takes linear time."""
        *begin, end = self.literals
        if not self.names:
            return {} if text == end else None
        if not (text.startswith(begin[0]) and text.endswith(end)):
            return None
        at, last, values = len(begin[0]), len(text) - len(end), []
        for literal in begin[1:]:
            found = text.find(literal, at, last)
            if found < 0:
                return None
            values.append(text[at:found])
            at = found + len(literal)
        return dict(zip(self.names, (*values, text[at:last]), strict=True)) if at <= last else None


@lru_cache(maxsize=4096)
def parse(text: str) -> Reason | None:
    """Return the code and parameters of a text; None if it has no code."""
    for template in _templates():
        if (params := template.match(text)) is not None:
            return Reason(template.code, params)
    return None


def translate(t: Translator, text: str) -> str:
    """Return a reason in the page's language; parts without a code stay as they are."""
    if not text or t.language == DEFAULT_LANGUAGE or len(text) > MAX_CHARS:
        return text
    return _translate(t.language, text, 0)


def marked_up(t: Translator, text: str) -> Markup:
    """Return a reason as HTML; one that has no translation is marked as English."""
    translated = translate(t, text)
    if translated == text and t.language != DEFAULT_LANGUAGE:
        return Markup('<span lang="{}">{}</span>').format(DEFAULT_LANGUAGE, text)
    return escape(translated)


@lru_cache(maxsize=4096)
def _translate(language: str, text: str, depth: int) -> str:
    if depth == MAX_DEPTH:
        return text
    t, reason = Translator(language), parse(text)
    if reason is not None:
        params = {name: _param(t, name, value, depth) for name, value in reason.params.items()}
        return t(PREFIX + reason.code, **params)
    # `SUBJECT: REASON` and `REASON; REMEDY`, whose parts have codes.
    for separator, shown in (("; ", t("page.semicolon")), (": ", t("page.colon"))):
        for found in islice(re.finditer(separator, text), MAX_PARTS):
            before, after = text[: found.start()], text[found.end() :]
            translated = _translate(language, after, depth + 1)
            has_code = parse(before) is not None
            if translated != after or (separator == "; " and has_code):
                return (_translate(language, before, depth + 1) if has_code else before) + shown + translated
    return text


def _param(t: Translator, name: str, value: str, depth: int) -> str:
    if name in NESTED:
        return _translate(t.language, value, depth + 1)
    if name == "state":
        return t.lookup("state", value)
    if name == "task":
        return t.lookup("task", value)
    if name.startswith("language"):
        return t.language_name(value.strip("'"))
    # The daemon quotes names as Python does: those that contain ' in ".
    return t("page.quote", text=value[1:-1]) if re.fullmatch("'[^']*'|\"[^\"]*\"", value) else value


@cache
def _templates() -> tuple[_Template, ...]:
    """Return the templates, those with the most text of their own first."""
    english = catalogs()[DEFAULT_LANGUAGE]
    found = (
        _template(key.removeprefix(PREFIX), text) for key, text in english.items() if key.startswith(PREFIX)
    )
    return tuple(sorted(found, key=lambda template: -sum(map(len, template.literals))))


def _template(code: str, text: str) -> _Template:
    literals, names = [""], list[str]()
    for literal, name in _pieces(text):
        literals[-1] += literal
        if name:
            names.append(name)
            literals.append("")
    return _Template(code, tuple(literals), tuple(names))


def _pieces(text: str) -> Iterator[tuple[str, str | None]]:
    return ((literal, name) for literal, name, _, _ in string.Formatter().parse(text))
