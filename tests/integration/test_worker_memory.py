"""Memory of a CPU worker: it keeps what it frees, and measures what a model takes."""

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


_MEASURE = """
from subtitled.asr import memory
from subtitled.asr.model import load
from subtitled.core.protocol import EngineSettings
from subtitled.runtime.processes import keep_memory
from subtitled.workers.model_loader import load_model

def loaded():
    settings = EngineSettings(model="demo")
    return load_model(settings, device="cpu", cpu_threads=1, wants_digest=False, load=load)

keep_memory()
first = loaded()  # this measurement includes the libraries
blocks = [b"x" * 50_000 for _ in range(2000)]
del blocks  # as decoding does; malloc keeps the memory, and would give it to the model
model = loaded()
used = memory.used_bytes("cpu")
memory.trim()
trimmed = memory.used_bytes("cpu")
model.residence.unload()
print(model.memory_bytes, used - trimmed, trimmed - memory.used_bytes("cpu"))
"""


def test_measured_memory_of_a_model_is_what_it_keeps() -> None:
    """What decoding and reading the weights have freed is returned to the kernel before the measurements."""
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, check=True, text=True)
    measured, left_over, freed = map(int, done.stdout.split())
    assert measured > 1_000_000
    assert left_over < 0.1 * measured
    assert freed > 0.5 * measured
