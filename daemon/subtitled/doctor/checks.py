"""All checks in their order, theme by theme."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path

import msgspec

from subtitled.asr.cuda import Device
from subtitled.asr.model import DEMO
from subtitled.config import load as configuration
from subtitled.config.schema import Config
from subtitled.doctor import folders, host, keys, model, remote_workers, sockets
from subtitled.doctor.daemon_user import daemons_account, program_finding, run_as
from subtitled.doctor.devices import DeviceProbe, InferenceResult
from subtitled.doctor.finding import ChosenDevices, Finding, fault, ok, skipped
from subtitled.doctor.media import SpeechSample
from subtitled.doctor.packages import ImportProbe
from subtitled.doctor.pipeline_trace import PlannedSegment, ReadStage, TranscribeStage
from subtitled.doctor.ray_nodes import asked_of
from subtitled.doctor.subprocess_probe import attempt
from subtitled.errors import ConfigError

SILENCE_S = 120.0
"""Longest wait for a child process to say something; loading a model has the daemon's own time for it."""
READING_S = 3600.0

Themed = Iterator[tuple[str, Finding]]


def config_findings(error: ConfigError) -> list[Finding]:
    """Return the faults of a configuration, all at once."""
    return [
        fault("configuration", line, "correct that; `subtitled config check` looks again")
        for line in error.faults
    ]


class Checks:
    """The checks of one configuration, which is free of faults but for what it names."""

    def __init__(self, config: Config, config_file: str | None, environ: Mapping[str, str]) -> None:
        self._config = config
        self._file = config_file
        self._environ = environ
        self._account = daemons_account(config.state.dir)
        self._child_environ = dict(environ)
        if self._account.uid != os.geteuid():
            # Where the unit has the daemon keep what it downloads; not where root would.
            models = {"HF_HOME": f"{config.state.dir}/models"}
            self._child_environ = {**models, **environ, "HOME": self._account.home}
        self._devices: tuple[Device, ...] = ()

    def whole(self) -> Themed:
        """Check the machine."""
        began = time.time() - time.monotonic()
        yield from _of("host", host.check())
        yield from _of(
            "host", [self._user(), *run_as(self._account, lambda: [program_finding(self._account)])]
        )
        yield from _of(
            "configuration", [ok("configuration", self._file or "none: every key has its default")]
        )
        found = list(folders.check(self._config, self._account))
        yield from _of("folders", found)
        yield from _of("folders", self._refusals(found))
        yield from _of("sockets", sockets.check(self._config, self._account))
        yield from _of("keys", keys.check(self._config, self._account))
        yield from _of("packages", self._attempt("packages", ImportProbe()))
        yield from _of("media", self._attempt("media", self._sound()))
        files_of_model = list(self._files_of_model())
        yield from _of("model", files_of_model)
        yield from _of("devices", self._found_devices())
        yield from _of("devices", self._inferred(all(finding.state == "ok" for finding in files_of_model)))
        if (jump := host.jump_finding(time.time() - time.monotonic(), began)) is not None:
            yield "host", jump

    def cluster(self) -> Themed:
        """Check what concerns workers on other hosts."""
        yield from _of("cluster", remote_workers.check(self._config))
        if self._config.pool.engine == "ray":
            yield from _of("cluster", self._attempt("ray", asked_of(self._config)))

    def file(self, path: str) -> Themed:
        """Take one file through every stage, on the first device."""
        with tempfile.TemporaryDirectory(prefix="subtitled-doctor-") as folder:
            pcm = str(Path(folder, "segment"))
            reading = ReadStage(
                path=os.fspath(Path(path).absolute()),
                sound=self._sound(),
                max_segment_s=self._config.segments.max_segment_s,
                window_s=window_s(self._config.model.name),
                into=pcm,
            )
            yield from _of("file", self._attempt("read", reading, silence_s=READING_S))
            if not Path(f"{pcm}.plan").exists():
                return
            cut = msgspec.json.decode(Path(f"{pcm}.plan").read_bytes(), type=PlannedSegment)
            yield from _of("file", [f for f in self._found_devices() if f.state == "fault"])
            if not self._devices:
                yield "file", skipped("engine", "there is no device")
                return
            transcribing = TranscribeStage(
                device=self._inference(self._devices[0]),
                source=pcm,
                plan=cut.plan,
                offset_samples=cut.offset_samples,
            )
            yield from _of("file", self._attempt("transcribe", transcribing, device=self._devices[0]))

    def _user(self) -> Finding:
        account = self._account
        text = f"folders and keys are looked at as {account.name} ({account.why})"
        return ok("user", f"{text}, by root" if os.geteuid() == 0 and account.uid else text)

    def _refusals(self, found: list[Finding]) -> Iterator[Finding]:
        """Yield what the daemon would refuse of the folders, where nothing worse was found: links that lead astray."""
        if any(finding.state == "fault" for finding in found):
            return
        try:
            configuration.load_config(self._file, self._environ)
        except ConfigError as error:
            yield from (line for line in config_findings(error) if "model.name" not in line.what)

    def _sound(self) -> SpeechSample:
        vad = self._config.vad
        return SpeechSample(
            threshold=vad.threshold,
            min_silence_ms=vad.min_silence_ms,
            pad_ms=vad.pad_ms,
            min_speech_ms=self._config.segments.min_speech_ms,
        )

    def _files_of_model(self) -> Iterator[Finding]:
        if not self._config.pool.devices:
            yield skipped("model", "no device of this host loads it")
            return
        yield from model.check(self._config.model.name, self._account, partial(self._attempt, "hub"))

    def _found_devices(self) -> Iterator[Finding]:
        wanted = DeviceProbe(
            devices=self._config.pool.devices, visible=self._environ.get("CUDA_VISIBLE_DEVICES")
        )
        for said in attempt("gpus", wanted, silence_s=SILENCE_S, environ=self._environ):
            match said:
                case ChosenDevices(devices=devices):
                    self._devices = devices
                case Finding():
                    yield said

    def _inferred(self, is_model_there: bool) -> Iterator[Finding]:
        """Try all devices at once, as the daemon works on them."""
        if not self._devices:
            yield skipped("devices", "there is none to try")
            return

        def tried(device: Device) -> list[Finding]:
            inference = self._inference(device, is_model_there=is_model_there)
            return list(self._attempt("infer", inference, device=device))

        with ThreadPoolExecutor(len(self._devices)) as threads:
            for findings in threads.map(tried, self._devices):
                yield from findings
        if not is_model_there:
            yield skipped("speed", "the model is not there: see model")

    def _inference(self, device: Device, *, is_model_there: bool = True) -> InferenceResult:
        settings = self._config.model
        cpu_slots = sum(other.kind == "cpu" for other in self._devices)
        return InferenceResult(
            slot=device.slot,
            kind=device.kind,
            model=settings.name,
            compute_type=settings.compute_type,
            cpu_threads=settings.cpu_threads or max(1, (os.cpu_count() or 1) // max(1, cpu_slots)),
            beam_size=settings.beam_size,
            is_model_there=is_model_there,
            is_daemon_there=sockets.is_running(self._config),
        )

    def _attempt(
        self,
        trial: str,
        settings: msgspec.Struct,
        *,
        silence_s: float | None = None,
        device: Device | None = None,
    ) -> Iterator[Finding]:
        silence_s = silence_s or (self._config.recovery.start_timeout_s if device else SILENCE_S)
        visible = device.visible if device else None
        # The model is there: to ask the hub for a newer one is not for the doctor.
        offline = {"HF_HUB_OFFLINE": "1"} if device else {}
        for said in attempt(
            trial,
            settings,
            silence_s=silence_s,
            environ={**self._child_environ, **offline},
            visible_devices=visible,
        ):
            if isinstance(said, Finding):
                yield said


def window_s(name: str) -> float:
    """Return how much a model sees at once, by its files; 30 s where they do not say."""
    folder = Path(str(files("subtitled") / "demo" / "model")) if name == DEMO else Path(name)
    try:
        found = json.loads((folder / "preprocessor_config.json").read_bytes())["chunk_length"]
    except (OSError, ValueError, KeyError):
        return 30.0
    return float(found)


def _of(theme: str, findings: Iterator[Finding] | list[Finding]) -> Themed:
    return ((theme, finding) for finding in findings)
