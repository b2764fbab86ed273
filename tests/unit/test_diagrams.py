"""The state diagrams in docs/reliability.md show the transition tables, row for row."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from subtitled.core.states import JOB, SEGMENT, WORKER

if TYPE_CHECKING:
    from enum import Enum

_ROOT = Path(__file__).parents[2]
_TOOL = _ROOT / "tools" / "draw_states.py"
_PAGE = _ROOT / "docs" / "reliability.md"
_TABLES: dict[str, dict[tuple[Any, Any], Any]] = {"job": JOB, "segment": SEGMENT, "worker": WORKER}


def _diagram(name: str) -> str:
    found = re.search(rf"<!-- states: {name} -->\n(.*?)<!-- /states -->", _PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def _check(path: Path) -> int:
    return subprocess.run([sys.executable, str(_TOOL), "--check", str(path)], check=False).returncode


@pytest.mark.parametrize("name", _TABLES)
def test_a_diagram_has_the_rows_of_its_table_and_no_others(name: str) -> None:
    drawn = {
        (before, event, after)
        for before, after, events in re.findall(r"^ +(\w+) --> (\w+): (.+)$", _diagram(name), re.MULTILINE)
        for event in events.split(", ")
    }
    rows = {(before.name, event.value, after.name) for (before, event), after in _TABLES[name].items()}
    assert drawn == rows


@pytest.mark.parametrize("name", _TABLES)
def test_a_diagram_ends_in_the_states_that_nothing_leads_out_of(name: str) -> None:
    table = _TABLES[name]
    left: set[Enum] = {before for before, _ in table}
    ends = {state.name for state in table.values() if state not in left}
    assert set(re.findall(r"(\w+) --> \[\*\]", _diagram(name))) == ends


def test_the_tool_would_draw_the_document_as_it_is() -> None:
    assert _check(_PAGE) == 0


def test_the_tool_notices_a_missing_row(tmp_path: Path) -> None:
    copy = tmp_path / "reliability.md"
    copy.write_text(_PAGE.read_text("utf-8").replace("DONE --> PENDING: language_changed\n", ""), "utf-8")
    assert _check(copy) == 1
