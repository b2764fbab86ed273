"""The short form of chaos: sixteen files under faults, and nothing is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from integration.chaos import chaos

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.long
def test_nothing_is_lost_or_done_twice_when_processes_are_killed_at_random(tmp_path: Path) -> None:
    """Every file has its subtitles, once, with the text of an undisturbed run."""
    tally = chaos.run(tmp_path, count=16, minutes=0, pause_s=1.0, seed=20260101)
    assert not tally.losses, str(tally)
    assert tally.faults
