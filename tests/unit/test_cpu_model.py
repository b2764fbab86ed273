"""Calls of a model on a CPU: alone with all threads, several at once with a stream each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from subtitled.asr.cpu_model import CpuModel
from subtitled.asr.model import load


class Calls:
    """A model whose calls wait until `go` is set."""

    device = "cpu"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.is_loaded = True
        self.go = threading.Event()

    def encode(self, name: str) -> str:
        """Return the name once the call may end."""
        self.seen.append(name)
        if not self.go.wait(10):
            raise TimeoutError
        return name

    def unload_model(self) -> None:
        """Note it."""
        self.is_loaded = False


def test_a_call_alone_has_all_threads_and_calls_beside_it_a_stream_each() -> None:
    streams, whole = Calls(), Calls()
    streams.go.set()
    model: Any = CpuModel(streams, whole)
    first = threading.Thread(target=model.encode, args=("first",))
    first.start()
    while not whole.seen:
        pass
    assert model.encode("beside") == "beside"
    whole.go.set()
    first.join()
    assert model.encode("last") == "last"
    assert (whole.seen, streams.seen) == (["first", "last"], ["beside"])


def test_both_forms_are_unloaded_and_the_rest_is_that_of_the_model() -> None:
    streams, whole = Calls(), Calls()
    model = CpuModel(streams, whole)
    assert model.device == "cpu"
    model.unload_model()
    assert not streams.is_loaded
    assert not whole.is_loaded


@pytest.mark.parametrize(("given", "found"), [({}, "50000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_of_openmp_do_not_spin_for_long_unless_that_is_configured(
    given: dict[str, str], found: str
) -> None:
    """It is set before CTranslate2 is imported, which reads it."""
    asked = (
        "import os, sys; import subtitled.asr.model\n"
        "print(os.environ['GOMP_SPINCOUNT'], 'ctranslate2' in sys.modules)"
    )
    environ = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | given
    done = subprocess.run(
        [sys.executable, "-c", asked], check=True, capture_output=True, text=True, env=environ
    )
    assert done.stdout.split() == [found, "False"]


@pytest.mark.parametrize("streams", [1, 2])
def test_loading_leaves_no_threads_of_openmp_behind(streams: int) -> None:
    """Beside CTranslate2's own, one for each stream and one for the whole; with more, OpenMP's threads wait more slowly."""
    expected = streams + 1 if streams > 1 else 1
    counted = (
        "import os, time, faster_whisper\n"
        "from subtitled.asr.model import load\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = threads()\n"
        f"model = load('demo', device='cpu', compute_type='int8', cpu_threads=4, streams={streams})\n"
        f"for _ in range(100): threads() - before > {expected} and time.sleep(0.05)\n"
        "print(threads() - before)"
    )
    done = subprocess.run([sys.executable, "-c", counted], check=True, capture_output=True, text=True)
    assert int(done.stdout) == expected


def test_a_cpu_with_several_streams_has_both_forms() -> None:
    model = load("demo", device="cpu", compute_type="int8", cpu_threads=2, streams=2).model
    assert isinstance(model, CpuModel)
    assert (model._streams.num_workers, model._whole.num_workers) == (2, 1)
    model.unload_model()
    assert not model._streams.model_is_loaded
    assert not model._whole.model_is_loaded
    model.load_model()
    assert model.model_is_loaded
