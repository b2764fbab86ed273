"""The form of the limits that a job's cues are laid out within."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from subtitle.messages import LayoutOptions
from subtitled.config.layout_limits import LayoutLimits
from subtitled.http.errors import RequestError

PROFILE = "profile"
NUMBERS = ("max_chars", "max_lines", "max_chars_per_s", "min_ms", "max_ms", "gap_ms")
"""What the form has a field for, in its order; an empty one leaves a limit as it is."""


def asked_of(query: Mapping[str, str]) -> dict[str, str]:
    """Return what a form asks for: its fields that are not empty."""
    return {name: text for name in (PROFILE, *NUMBERS) if (text := query.get(name, "").strip()[:20])}


def layout_for(asked: Mapping[str, str], made: LayoutLimits | None) -> LayoutOptions:
    """Return the layout that a form asks for; raises RequestError.

    Without a profile its numbers are in place of those that the job's cues were made within, `made`.
    """
    kept = {} if PROFILE in asked or made is None else _as_options(made)
    try:
        layout = msgspec.convert({**kept, **asked}, LayoutOptions, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(400, "bad_format", f"{error}; change it in the form, or leave it empty") from None
    if layout.gap_ms is None or layout.chain_ms is None:
        return layout
    # Cues cannot be closed up to more than the distance at which they are.
    return msgspec.structs.replace(layout, chain_ms=max(layout.chain_ms, layout.gap_ms))


def _as_options(made: LayoutLimits) -> dict[str, Any]:
    """Return limits as options. Without a width of lines there are no limits at all but those asked for."""
    found: dict[str, Any] = {PROFILE: "default" if made.max_chars else "raw"}
    return found | {
        name: value for name, value in msgspec.structs.asdict(made).items() if _is_option(name, value)
    }


def _is_option(name: str, value: float) -> bool:
    """Say whether a client may ask for a limit: a configuration may have others, and 0 for none."""
    try:
        msgspec.convert({name: value}, LayoutOptions)
    except msgspec.ValidationError:
        return False
    return value > 0
