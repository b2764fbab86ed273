"""The form of the limits that a job's cues are laid out within."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from subtitle.messages import LayoutOptions
from subtitled.cues.limits import Limits
from subtitled.http.faults import RequestError

PROFILE = "profile"
NUMBERS = ("max_chars", "max_lines", "max_chars_per_s", "min_ms", "max_ms", "gap_ms")
"""What the form has a field for, in its order; an empty one leaves a limit as it is."""


def asked_of(query: Mapping[str, str]) -> dict[str, str]:
    """Return what a form asks for: its fields that are not empty."""
    return {name: text for name in (PROFILE, *NUMBERS) if (text := query.get(name, "").strip()[:20])}


def layout_for(asked: Mapping[str, str], made: Limits | None) -> LayoutOptions:
    """Return the layout that a form asks for; raises RequestError.

    Without a profile its numbers are in place of those that the job's cues were made within, `made`.
    """
    kept = {} if PROFILE in asked or made is None else _as_options(made)
    try:
        return msgspec.convert({**kept, **asked}, LayoutOptions, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(400, "bad_format", f"{error}; change it in the form, or leave it empty") from None


def _as_options(made: Limits) -> dict[str, Any]:
    """Return limits as options; 0 is none of a line's width or of a cue's length, and only `raw` has that."""
    found: dict[str, Any] = {PROFILE: "default" if made.max_chars else "raw"}
    return found | {name: value for name, value in msgspec.structs.asdict(made).items() if value}
