"""What the commands print."""

from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from subtitle.tables import print_job, span_line
from unit.job_facts import FACTS


@pytest.mark.parametrize(
    ("span", "line"),
    [
        ("5000 7250 lost with 3 workers", "0:05.0 to 0:07.2: lost with 3 workers"),
        ("3599999 3723400 no words", "59:59.9 to 1:02:03.4: no words"),
    ],
)
def test_stretches_of_speech_are_printed_as_positions(span: str, line: str) -> None:
    assert span_line(span) == line


def test_the_status_of_a_job_lists_speech_without_text() -> None:
    console = Console(file=io.StringIO(), width=80)
    job = replace(FACTS, state="done", unheard=("1000 2500 no words", "61000 62000 no words"))
    print_job(console, job)
    assert isinstance(console.file, io.StringIO)
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert lines[-2:] == ["unheard  0:01.0 to 0:02.5: no words", "unheard  1:01.0 to 1:02.0: no words"]
