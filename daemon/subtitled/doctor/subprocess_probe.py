"""Probes in child processes, so that a crash or a hang of native code becomes a finding.

The child is `python -m subtitled.doctor.subprocess_probe NAME SETTINGS`.
"""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import msgspec
from msgspec import Struct

from subtitled.doctor import devices, media, model, packages, pipeline_trace, remote_workers
from subtitled.doctor.finding import (
    ChosenDevices,
    Finding,
    ProbeMessage,
    ProbeStarted,
    fault,
    from_error,
    skipped,
)
from subtitled.runtime.processes import describe_status

ERROR_TAIL_BYTES = 4096
_decoder = msgspec.json.Decoder(ProbeMessage)


def run_probe(
    probe: str,
    settings: Struct,
    *,
    timeout_s: float,
    environ: Mapping[str, str] = os.environ,
    visible_devices: str | None = None,
) -> Iterator[Finding | ChosenDevices]:
    """Run a probe of `PROBES` in a child process and yield its messages as they come.

    If the process fails, or sends nothing for `timeout_s`, its current step gets a fault.
    """
    own = {} if visible_devices is None else {"CUDA_VISIBLE_DEVICES": visible_devices}
    command = [
        sys.executable,
        "-m",
        "subtitled.doctor.subprocess_probe",
        probe,
        msgspec.json.encode(settings).decode(),
    ]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, env={**environ, **own}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        started = ProbeStarted(name=probe, remedy="see its message")
        how = ""
        try:
            for line in _lines(process, timeout_s):
                match _decoder.decode(line):
                    case ProbeStarted() as started:
                        pass
                    case message:
                        yield message
            status = process.wait(timeout_s)
            how = describe_status(status) if status else ""
        except (TimeoutError, subprocess.TimeoutExpired):
            how = f"not done within {timeout_s:g} s"
        finally:
            process.kill()
        if how:
            yield fault(started.name, f"{how}{_last_error_line(errors)}", started.remedy)


def _lines(process: subprocess.Popen[bytes], timeout_s: float) -> Iterator[bytes]:
    """Yield the lines of a process's output; raises TimeoutError after `timeout_s` without one."""
    assert process.stdout is not None  # noqa: S101 - asked for above
    file, rest = process.stdout.fileno(), b""
    deadline = time.monotonic() + timeout_s
    while True:
        if not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        data = os.read(file, 65_536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        deadline = time.monotonic() + timeout_s


def _last_error_line(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - ERROR_TAIL_BYTES))
    lines = errors.read().decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last}" if last else ""


PROBES: dict[str, tuple[type[Struct], Callable[[Any], Iterator[ProbeMessage]]]] = {
    "packages": (packages.ImportProbe, packages.probe_packages),
    "gpus": (devices.DeviceProbe, devices.probe_gpus),
    "infer": (devices.InferenceProbe, devices.probe_inference),
    "hub": (model.CheckedModel, model.probe_hub),
    "media": (media.MediaProbe, media.probe_media),
    "ray": (remote_workers.RayProbe, remote_workers.probe_ray),
    "read": (pipeline_trace.ReadStage, pipeline_trace.probe_read),
    "transcribe": (pipeline_trace.TranscribeStage, pipeline_trace.probe_transcribe),
}
"""Each with its settings; importing their modules loads no heavy library."""


def main(argv: Sequence[str]) -> int:
    """Run one probe and print its messages, one JSON object per line, on standard output."""
    name, settings = argv
    # Output of libraries goes to standard error.
    out = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kind, run = PROBES[name]
    started = ProbeStarted(name=name, remedy="")
    try:
        for message in run(msgspec.json.decode(settings, type=kind)):
            started = message if isinstance(message, ProbeStarted) else started
            _send(out, message)
    except ImportError as error:
        _send(out, skipped(started.name, f"not possible without {error.name}: see packages"))
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        _send(out, from_error(started.name, error, started.remedy))
    # Threads of native libraries must not keep the process alive.
    os._exit(0)


def _send(out: int, message: ProbeMessage) -> None:
    data = msgspec.json.encode(message) + b"\n"
    while data:
        data = data[os.write(out, data) :]


if __name__ == "__main__":
    main(sys.argv[1:])
