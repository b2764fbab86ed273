"""When a cue comes and goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from subtitled.config.layout_limits import LayoutLimits


class SpokenInterval(Struct, frozen=True):
    """What a cue shows, and when that is said."""

    lines: tuple[str, ...]
    start_ms: int
    end_ms: int
    columns: int


def reading_ms(columns: int, columns_per_char: int, limits: LayoutLimits) -> int:
    """Return how long a cue of `columns` has to stay to be read."""
    if not limits.max_chars_per_s:
        return limits.min_ms
    per_1000_s = round(limits.max_chars_per_s * columns_per_char * 1000)
    return max(limits.min_ms, -(-columns * 1_000_000 // per_1000_s))


def times(
    cues: Sequence[SpokenInterval], limits: LayoutLimits, columns_per_char: int, until_ms: int | None = None
) -> Iterator[tuple[int, int]]:
    """Yield start and end of each cue: from its first word on, until it can have been read.

    A cue that is over too soon stays on in the silence after it; one that ends within `chain_ms` of the next stays
    until `gap_ms` before that. No cue ends later than `max_ms` after its start or, if there is time, than `until_ms`. Where
    speech leaves no time at all between two cues, the later one comes late: none overlap, none is without time.
    """
    glimpse_ms = max(1, limits.gap_ms)
    earliest = 0
    for cue, following in zip(cues, [*cues[1:], None], strict=False):
        start = max(cue.start_ms, earliest)
        latest = _least(
            start + limits.max_ms if limits.max_ms else None,
            following.start_ms - limits.gap_ms if following else until_ms,
        )
        end = max(cue.end_ms, start + reading_ms(cue.columns, columns_per_char, limits))
        if latest is not None:
            is_near = following is not None and following.start_ms - end < limits.chain_ms
            end = latest if is_near else min(end, latest)
        end = max(end, start + glimpse_ms)
        yield start, end
        earliest = end + limits.gap_ms


def _least(*times_ms: int | None) -> int | None:
    known = [time_ms for time_ms in times_ms if time_ms is not None]
    return min(known) if known else None
