"""All checks in order, by theme."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec.structs import replace

from subtitled.asr.cuda import Device
from subtitled.config import load as configuration
from subtitled.config.model_files import DEMO
from subtitled.config.schema import Config
from subtitled.core.config_mapping import model_specs
from subtitled.doctor import folders, host, model, remote_workers, sockets
from subtitled.doctor.daemon_user import find_daemon_user, program_finding, run_as
from subtitled.doctor.devices import DeviceProbe, InferenceProbe, NamedModel
from subtitled.doctor.finding import ChosenDevices, Finding, fault, ok, skipped
from subtitled.doctor.media import MediaProbe
from subtitled.doctor.packages import ImportProbe
from subtitled.doctor.pipeline_trace import PlannedSegment, ReadStage, TranscribeStage
from subtitled.doctor.subprocess_probe import run_probe
from subtitled.errors import ConfigError

PROBE_TIMEOUT_S = 120.0
"""Maximum time without a message of a child process; loading a model has the daemon's timeout."""
READ_TIMEOUT_S = 3600.0

Themed = Iterator[tuple[str, Finding]]


_MODEL_SOURCE = re.compile(r"model\.name|models\[\d+\]\.source")


def config_findings(error: ConfigError) -> list[Finding]:
    """Return all faults of a configuration."""
    return [
        fault("configuration", line, "correct it, then type: subtitled config check") for line in error.faults
    ]


class Checks:
    """The checks of one valid configuration, and of what it names."""

    def __init__(self, config: Config, config_file: str | None, environ: Mapping[str, str]) -> None:
        self._config = config
        self._file = config_file
        self._environ = environ
        self._account = find_daemon_user(config.state.dir)
        self._child_environ = dict(environ)
        if self._account.uid != os.geteuid():
            # The unit's folder for downloads, instead of root's.
            models = {"HF_HOME": f"{config.state.dir}/models"}
            self._child_environ = {**models, **environ, "HOME": self._account.home}
        self._devices: tuple[Device, ...] = ()

    def machine(self) -> Themed:
        """Check the machine."""
        began = time.time() - time.monotonic()
        yield from _of("host", host.check())
        yield from _of(
            "host", [self._user(), *run_as(self._account, lambda: [program_finding(self._account)])]
        )
        yield from _of(
            "configuration", [ok("configuration", self._file or "no file: every key has its default")]
        )
        found = list(folders.check(self._config, self._account))
        yield from _of("folders", found)
        yield from _of("folders", self._load_faults(found))
        yield from _of("sockets", sockets.check(self._config, self._account))
        yield from _of("keys", sockets.check_server_key(self._config, self._account))
        yield from _of("packages", self._probe("packages", ImportProbe()))
        yield from _of("media", self._probe("media", self._media_probe()))
        present: list[str] = []
        for checked in model.checked_models(self._config):
            model_findings = list(self._model_findings(checked))
            yield from _of("model", model_findings)
            if all(finding.state == "ok" for finding in model_findings):
                present.append(checked.label)
        yield from _of("devices", self._find_devices())
        yield from _of("devices", self._inference_findings(present))
        if (jump := host.jump_finding(time.time() - time.monotonic(), began)) is not None:
            yield "host", jump

    def cluster(self) -> Themed:
        """Check the workers on other hosts."""
        yield from _of("cluster", remote_workers.check(self._config))
        if self._config.pool.engine == "ray":
            yield from _of("cluster", self._probe("ray", remote_workers.ray_probe_of(self._config)))

    def file(self, path: str) -> Themed:
        """Process one file through every stage, on the first device."""
        with tempfile.TemporaryDirectory(prefix="subtitled-doctor-") as folder:
            pcm = str(Path(folder, "segment"))
            reading = ReadStage(
                path=os.fspath(Path(path).absolute()),
                sound=self._media_probe(),
                max_segment_s=self._config.segments.max_segment_s,
                window_s=window_s(self._config.model.name),
                into=pcm,
            )
            yield from _of("file", self._probe("read", reading, timeout_s=READ_TIMEOUT_S))
            if not Path(f"{pcm}.plan").exists():
                return
            cut = msgspec.json.decode(Path(f"{pcm}.plan").read_bytes(), type=PlannedSegment)
            yield from _of("file", [f for f in self._find_devices() if f.state == "fault"])
            if not self._devices:
                yield "file", skipped("engine", "there is no device")
                return
            transcribing = TranscribeStage(
                device=self._inference_probe(self._devices[0]),
                source=pcm,
                plan=cut.plan,
                offset_samples=cut.offset_samples,
            )
            yield from _of("file", self._probe("transcribe", transcribing, device=self._devices[0]))

    def _user(self) -> Finding:
        account = self._account
        text = f"folders and keys are checked as {account.name} ({account.why})"
        return ok("user", f"{text}, by root" if os.geteuid() == 0 and account.uid else text)

    def _load_faults(self, found: list[Finding]) -> Iterator[Finding]:
        """Yield further faults of the folders that loading the configuration finds, such as links into an inbox."""
        if any(finding.state == "fault" for finding in found):
            return
        try:
            configuration.load_config(self._file, self._environ)
        except ConfigError as error:
            yield from (
                line
                for line in config_findings(error)
                if not _MODEL_SOURCE.match(line.message)  # `model.check` finds it
            )

    def _media_probe(self) -> MediaProbe:
        return MediaProbe(vad=self._config.vad, min_speech_ms=self._config.segments.min_speech_ms)

    def _model_findings(self, checked: model.CheckedModel) -> Iterator[Finding]:
        if not self._config.pool.devices:
            yield skipped(checked.label, "no device on this host uses it")
            return
        yield from model.check(checked, self._account, partial(self._probe, "hub"))

    def _find_devices(self) -> Iterator[Finding]:
        wanted = DeviceProbe(
            devices=self._config.pool.devices, visible=self._environ.get("CUDA_VISIBLE_DEVICES")
        )
        for message in run_probe("gpus", wanted, timeout_s=PROBE_TIMEOUT_S, environ=self._environ):
            match message:
                case ChosenDevices(devices=devices):
                    self._devices = devices
                case Finding():
                    yield message

    def _inference_findings(self, present: Collection[str]) -> Iterator[Finding]:
        """Try all devices concurrently, as the daemon uses them; `present`: labels of the models that are complete."""
        is_model_there = "model" in present
        if not self._devices:
            yield skipped("devices", "there is no device")
            return

        def tried(device: Device) -> list[Finding]:
            inference = self._inference_probe(device, is_model_there=is_model_there)
            others = tuple(
                NamedModel(name=spec.name, source=spec.engine.model, compute_type=spec.engine.compute_type)
                for spec in model_specs(self._config)
                if spec.engine is not None and f"model {spec.name}" in present and spec.may_be_on(device.slot)
            )
            inference = replace(inference, others=others)
            return list(self._probe("infer", inference, device=device))

        with ThreadPoolExecutor(len(self._devices)) as threads:
            for findings in threads.map(tried, self._devices):
                yield from findings
        if not is_model_there:
            yield skipped("speed", "the model is missing: see model")

    def _inference_probe(self, device: Device, *, is_model_there: bool = True) -> InferenceProbe:
        settings = self._config.model
        cpu_slots = sum(other.kind == "cpu" for other in self._devices)
        return InferenceProbe(
            slot=device.slot,
            kind=device.kind,
            model=settings.name,
            compute_type=settings.compute_type,
            cpu_threads=settings.cpu_threads or max(1, (os.cpu_count() or 1) // max(1, cpu_slots)),
            beam_size=settings.beam_size,
            is_model_there=is_model_there,
            is_daemon_there=sockets.is_running(self._config),
        )

    def _probe(
        self,
        probe: str,
        settings: msgspec.Struct,
        *,
        timeout_s: float | None = None,
        device: Device | None = None,
    ) -> Iterator[Finding]:
        timeout_s = timeout_s or (self._config.recovery.start_timeout_s if device else PROBE_TIMEOUT_S)
        visible = device.visible if device else None
        # The model exists: the doctor does not look for a newer one.
        offline = {"HF_HUB_OFFLINE": "1"} if device else {}
        for message in run_probe(
            probe,
            settings,
            timeout_s=timeout_s,
            environ={**self._child_environ, **offline},
            visible_devices=visible,
        ):
            if isinstance(message, Finding):
                yield message


def window_s(name: str) -> float:
    """Return the window of a model according to its files; default: 30 s."""
    folder = Path(str(files("subtitled") / "demo" / "model")) if name == DEMO else Path(name)
    try:
        found = json.loads((folder / "preprocessor_config.json").read_bytes())["chunk_length"]
    except (OSError, ValueError, KeyError):
        return 30.0
    return float(found)


def _of(theme: str, findings: Iterator[Finding] | list[Finding]) -> Themed:
    return ((theme, finding) for finding in findings)
