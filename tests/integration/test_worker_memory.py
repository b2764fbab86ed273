"""A CPU worker keeps the memory that it frees."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import resource, sys
from subtitled.runtime.processes import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * (100 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults_at_the_second_use(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, check=True, text=True)
    return int(done.stdout)


def test_memory_that_is_kept_costs_no_page_faults_when_it_is_used_again() -> None:
    """100 MiB are 25,600 pages, or 50 huge ones."""
    assert _faults_at_the_second_use("keep") < 25 <= _faults_at_the_second_use("let go")
