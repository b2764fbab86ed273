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
from subtitled.doctor.finding import ProbeStarted, Said, from_error, skipped

TRIALS: dict[str, tuple[type[Struct], Callable[[Any], Iterator[Said]]]] = {
    "packages": (packages.ImportProbe, packages.imported),
    "gpus": (devices.DeviceProbe, devices.found),
    "infer": (devices.InferenceResult, devices.inferred),
    "hub": (model.HubModelProbe, model.on_hub),
    "media": (media.SpeechSample, media.heard),
    "ray": (ray_nodes.RayProbe, ray_nodes.reached),
    "read": (pipeline_trace.ReadStage, pipeline_trace.read),
    "transcribe": (pipeline_trace.TranscribeStage, pipeline_trace.transcribed),
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
    begun = ProbeStarted(name=name, remedy="")
    try:
        for said in run(msgspec.json.decode(settings, type=kind)):
            begun = said if isinstance(said, ProbeStarted) else begun
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
