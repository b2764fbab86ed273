"""Optimal breaks between cues and between lines.

The cost of a cue is the sum of

- `CUE`, which limits the number of cues;
- `CUE_BREAK` times the squared cost of the break at its end (`break_costs`), reduced by a pause there;
- `SENTENCE_START` for each sentence that begins inside it, and `PAUSE` for each millisecond of a pause inside it;
- `LINE` for each line after the first, the squared cost of the break before it, and the difference of each line from the mean width; a
  line that is longer than those below it costs more;
- `TOO_SHORT` and more for a cue that ends before `min_ms`, `TOO_FAST` and more for one that ends before it can be
  read, `AVOIDABLY_FAST` if its words are not spoken faster than they can be read;
- `ORPHAN` for a few letters alone that are not a sentence.

A break inside a word costs more than any of these. Dynamic programming finds the least sum over a stretch of speech.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from msgspec import Struct

from subtitled.cues.break_costs import BreakCost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from subtitled.config.layout_limits import LayoutLimits

CUE = 80.0
CUE_BREAK = 6.0
LEAST_RELIEF = 0.4
"""Smallest factor of the cost of a break, with a long pause."""
SENTENCE_START = 90.0
PAUSE = 0.05
LINE = 10.0
COST_SCALE = 100.0
"""The cost of `BreakCost` 100 for a line."""
UNEVEN = 80.0
TOP_HEAVY = 1.3
TOO_SHORT = 150.0
TOO_FAST = 20.0
AVOIDABLY_FAST = 300.0
SHORT_BY = 0.1
ORPHAN = 60.0
_ORPHAN_COLUMNS = 10
_LONG_PAUSE_MS = 3000
"""The cost of a break falls with its pause, to zero at this length if there were no LEAST_RELIEF."""
TURN = float(BreakCost.TURN)
_NEVER = float("inf")
_Lines = tuple[tuple[int, ...], float]
"""The unit before which each line ends, and the cost."""


class LayoutUnit(Struct, frozen=True):
    """A word, or another unbreakable piece of text, with its times; `text` includes the space before it."""

    text: str
    start_ms: int
    end_ms: int
    columns: int
    """Width of its text, stripped."""
    space: int
    """Columns of the space before it, which is dropped at the start of a line."""
    cost: int
    """Cost of a line break before it."""


class CueGroup(Struct, frozen=True):
    """One cue: the units from `start`; each line ends before the unit in `ends`."""

    start: int
    ends: tuple[int, ...]


class _CueLines(Struct, frozen=True):
    """The lines of one cue that is being split."""

    mean: float
    """Width that each line should have."""
    least_break: float
    """Least cost of a line after the first."""
    known: dict[tuple[int, int], _Lines]
    """Best lines from a unit on, by their number."""


class CueOptimizer:
    """Groups the units of one stretch of speech; `next_ms` is the start of the speech after it, if any."""

    def __init__(
        self, units: Sequence[LayoutUnit], limits: LayoutLimits, columns_per_char: int, next_ms: int | None
    ) -> None:
        self._limits = limits
        self._line = limits.max_chars * columns_per_char
        self._uneven = UNEVEN / self._line
        self._ms_per_column = (
            1000 / (limits.max_chars_per_s * columns_per_char) if limits.max_chars_per_s else 0.0
        )
        self._starts = [unit.start_ms for unit in units] + ([next_ms] if next_ms is not None else [])
        self._ends = [unit.end_ms for unit in units]
        # Squared, so that one bad break costs more than two good ones.
        self._costs = [
            unit.cost * abs(unit.cost) / COST_SCALE if unit.cost > 0 else float(unit.cost) for unit in units
        ]
        self._spaces = [unit.space for unit in units]
        # Prefix sums: the sum over any run of units is a difference of two.
        self._columns = [0, *accumulate(unit.space + unit.columns for unit in units)]
        sentence_starts = (SENTENCE_START if unit.cost <= BreakCost.SENTENCE else 0.0 for unit in units)
        self._sentence_starts = [
            0.0,
            *accumulate(start + pause for start, pause in zip(sentence_starts, self._pauses(), strict=True)),
        ]
        self._turns = [0, *accumulate(unit.cost < 0 for unit in units)]

    def best(self) -> list[CueGroup]:
        """Return the groups of least cost, in order."""
        count = len(self._ends)
        found: list[CueGroup] = [CueGroup(0, ())] * count
        # Least cost of the cues from each unit, with the break before it.
        costs = [0.0] * (count + 1)
        for start in range(count - 1, -1, -1):
            least = _NEVER
            for cost, end, least_break in sorted(self._cues_from(start, costs)):
                if cost >= least:
                    break
                lines, lines_cost = self._lines(start, end, least - cost, least_break)
                if cost + lines_cost < least:
                    least = cost + lines_cost
                    found[start] = CueGroup(start, lines)
            costs[start] = least + self._break_cost(start)
        groups: list[CueGroup] = []
        at = 0
        while at < count:
            groups.append(found[at])
            at = found[at].ends[-1]
        return groups

    def _pauses(self) -> Iterator[float]:
        """Yield the cost of having the pause before each unit inside a cue."""
        yield 0.0
        for end, start in zip(self._ends, self._starts[1 : len(self._ends)], strict=False):
            yield PAUSE * max(0, start - end)

    def _cues_from(self, start: int, costs: list[float]) -> Iterator[tuple[float, int, float]]:
        """Yield for each cue from unit `start` a lower bound of the cost from there on, its end, its least break cost."""
        limits = self._limits
        left = self._columns[start] + self._spaces[start]
        widest = left + (self._line + 2) * limits.max_lines
        begins = self._starts[start]
        longest_ms = limits.max_ms or _NEVER
        fixed = CUE - self._sentence_starts[start + 1]
        least_break = _NEVER
        for end in range(start + 1, len(costs)):
            if end > start + 1 and (self._columns[end] > widest or self._ends[end - 1] - begins > longest_ms):
                return
            cost = (
                costs[end]
                + fixed
                + self._sentence_starts[end]
                + TURN * (self._turns[end] - self._turns[start + 1])
            )
            columns = self._columns[end] - left
            if columns < _ORPHAN_COLUMNS and not (
                self._begins_sentence(start) and self._begins_sentence(end)
            ):
                cost += ORPHAN
            until = self._starts[end] - limits.gap_ms - begins if end < len(self._starts) else longest_ms
            available_ms = min(until, longest_ms)
            needed_ms = columns * self._ms_per_column
            if available_ms < limits.min_ms:
                cost += TOO_SHORT + 4 * SHORT_BY * (limits.min_ms - available_ms)
            if available_ms < needed_ms and needed_ms > limits.min_ms:
                is_avoidable = self._ends[end - 1] - begins >= needed_ms
                cost += TOO_FAST + (AVOIDABLY_FAST if is_avoidable else 0.0)
                cost += SHORT_BY * (needed_ms - max(available_ms, limits.min_ms))
            yield cost, end, least_break
            if end < len(self._costs):
                least_break = min(least_break, max(0.0, self._costs[end]))

    def _break_cost(self, at: int) -> float:
        """Return the cost of a cue's end before unit `at`."""
        pause_ms = self._starts[at] - self._ends[at - 1] if at else 0
        return (
            CUE_BREAK * max(0.0, self._costs[at]) * max(LEAST_RELIEF, 1 - max(0, pause_ms) / _LONG_PAUSE_MS)
        )

    def _begins_sentence(self, at: int) -> bool:
        return at == len(self._costs) or self._costs[at] <= BreakCost.SENTENCE

    def _lines(self, start: int, end: int, limit: float, least_break: float) -> _Lines:
        """Return the best lines: the fewest, or more if the speaker changes inside; cost `limit` or more: not better."""
        width = self._width(start, end)
        turns = self._turns[end] - self._turns[start + 1]
        if width <= self._line and not turns:
            return (end,), 0.0
        if (LINE + least_break) * (-(-width // self._line) - 1) >= limit:
            return (), _NEVER
        least_line = TURN if turns else LINE + least_break
        best: _Lines = ((), _NEVER)
        for count in range(1 if width <= self._line else 2, self._limits.max_lines + 1):
            lines, cost = self._split(start, end, count, _CueLines(width / count, least_line, {}))
            if cost < best[1]:
                best = lines, cost
            if best[1] < _NEVER and count > turns:
                break
        # `_cues_from` has subtracted it already.
        return best[0], best[1] - TURN * turns

    def _split(self, start: int, end: int, count: int, cue: _CueLines) -> _Lines:
        """Return the best `count` lines of a cue from its unit `start` to `end`."""
        columns = self._columns
        left = columns[start] + self._spaces[start]
        if count == 1:
            width = columns[end] - left
            return ((end,), self._uneven * abs(width - cue.mean)) if width <= self._line else ((), _NEVER)
        if (found := cue.known.get((start, count))) is not None:
            return found
        best: _Lines = ((), _NEVER)
        room = columns[end] - self._line * (count - 1) - 2 * count
        first = max(start + 1, bisect_left(columns, room, start, end))
        last = bisect_right(columns, left + self._line, start, end) - 1
        below_least = (count - 2) * cue.least_break
        for middle in range(last, first - 1, -1):
            uneven = self._uneven * (columns[middle] - left - cue.mean)
            own = LINE + self._costs[middle] + (uneven * TOP_HEAVY if uneven > 0 else -uneven)
            if own + below_least >= best[1]:
                continue
            below, cost = self._split(middle, end, count - 1, cue)
            if cost + own < best[1]:
                best = (middle, *below), cost + own
        cue.known[start, count] = best
        return best

    def _width(self, start: int, end: int) -> int:
        return self._columns[end] - self._columns[start] - self._spaces[start]
