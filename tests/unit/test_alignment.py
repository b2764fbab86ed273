"""A phrase's edges are where the model's timestamp tokens put them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from msgspec import Struct

from subtitled.asr.alignment import keep_edges

if TYPE_CHECKING:
    from faster_whisper.tokenizer import Tokenizer


class Tokens(Struct):
    """As much of a tokenizer as edges need."""

    timestamp_begin: int = 1000


@pytest.mark.parametrize(
    ("tokens", "end_s", "edges"),
    [
        pytest.param([1010, 5, 6, 1100], 12.0, (10.2, 12.0), id="both are said"),
        pytest.param([1000, 5, 6, 1100], 12.0, (10.0, 12.0), id="it starts with the window"),
        pytest.param([5, 6, 1100], 12.0, (10.0, 12.0), id="no start is said"),
        pytest.param([1010, 5, 6], 10.2, (10.2, 13.0), id="no end is said, and the start was taken for it"),
        pytest.param([1100, 5, 6, 1100], 12.0, (10.0, 12.0), id="no time would be left"),
        pytest.param([1200, 5, 6, 1250], 15.0, (10.0, 15.0), id="it is said to start beyond the audio"),
    ],
)
def test_the_only_phrase_of_a_window_has_the_edges_of_its_tokens(
    tokens: list[int], end_s: float, edges: tuple[float, float]
) -> None:
    """The window is from 10 to 13 s; faster-whisper has its only phrase begin with it."""
    part: dict[str, Any] = {"start": 10.0, "end": end_s, "tokens": tokens}
    keep_edges(part, cast("Tokenizer", Tokens()), start_s=10.0, end_s=13.0)
    assert (part["start"], part["end"]) == pytest.approx(edges)
