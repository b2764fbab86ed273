"""The benchmarks run; what they measure is no matter for a test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(_BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_overhead_compares_three_ways_that_all_understand_the_recording() -> None:
    table = _run("overhead.py", "--minutes", "1", "--repeat", "1")
    wrong = dict(re.findall(r"^(daemon|pipeline|pipeline, plain) .*\((\d+\.\d) %\)$", table, re.MULTILINE))
    assert set(wrong) == {"daemon", "pipeline", "pipeline, plain"}, table
    assert all(float(percent) <= 5 for percent in wrong.values()), table
    assert re.search(r"^daemon / pipeline: wall \d+\.\d\d, cpu \d+\.\d\d$", table, re.MULTILINE), table


def test_ingest_measures_each_kind_of_file() -> None:
    table = _run("ingest.py", "--minutes", "0.2", "--hours", "0.01", "--repeat", "1")
    assert re.findall(r"^(\S+\.\w+) ", table, re.MULTILINE) == ["a.wav", "a.m4a", "a.flac", "long.flac"], (
        table
    )


def test_upload_measures_each_way() -> None:
    table = _run("upload.py", "--short")
    ways = ["cp + sha256sum", "raw PUSH/PULL", "ipc", "tcp", "tcp, key"]
    assert re.findall(r"^(\S.*?)  +\d+  +\d+-\d+", table, re.MULTILINE) == ways, table
    assert len(re.findall(r"MB( +\d+\.\d ms){3}$", table, re.MULTILINE)) == 4, table
