"""The child process of a trial: `python -m subtitled.doctor.trial NAME SETTINGS`."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from subtitled.doctor import devices, media, model, packages, pipeline_trace, ray_nodes
from subtitled.doctor.finding import Begun, Said, from_error, skipped

TRIALS: dict[str, tuple[type[Struct], Callable[[Any], Iterator[Said]]]] = {
    "packages": (packages.Imports, packages.imported),
    "gpus": (devices.Wanted, devices.found),
    "infer": (devices.Inference, devices.inferred),
    "hub": (model.Named, model.on_hub),
    "media": (media.Sound, media.heard),
    "ray": (ray_nodes.Asked, ray_nodes.reached),
    "read": (pipeline_trace.Reading, pipeline_trace.read),
    "transcribe": (pipeline_trace.Transcribing, pipeline_trace.transcribed),
}
"""Each with its settings; importing their modules loads nothing heavy."""


def main(argv: Sequence[str]) -> int:
    """Run one trial and print what it says, one JSON object a line, on the first standard output."""
    name, settings = argv
    # Libraries that print must not speak in between.
    out = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kind, run = TRIALS[name]
    begun = Begun(name=name, remedy="")
    try:
        for said in run(msgspec.json.decode(settings, type=kind)):
            begun = said if isinstance(said, Begun) else begun
            _say(out, said)
    except ImportError as error:
        _say(out, skipped(begun.name, f"cannot be tried without {error.name}: see packages"))
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        _say(out, from_error(begun.name, error, begun.remedy))
    # Threads of native libraries must not keep a finished trial alive.
    os._exit(0)


def _say(out: int, said: Said) -> None:
    data = msgspec.json.encode(said) + b"\n"
    while data:
        data = data[os.write(out, data) :]


if __name__ == "__main__":
    main(sys.argv[1:])
