"""`subtitled transcribe`: subtitles for files, by the running daemon or by a private one for the time of the command."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace

from subtitle import Client, JobOptions, SubtitleError
from subtitle.client import JobHandle
from subtitle.command_group import InputError, os_error_text
from subtitle.commands.connection_options import CommandExitCode
from subtitle.commands.submit import SubmitRun, find_files, with_unique_names
from subtitle.progress import ENDED
from subtitle.requests import OnProgress
from subtitled.asr.cuda import find_devices
from subtitled.config import schema
from subtitled.config.checks import LANGUAGES
from subtitled.config.load import to_toml
from subtitled.config.model_files import can_translate, fault_of, is_convertible, is_folder
from subtitled.languages import option_of
from subtitled.log import DAEMON_READY, MODEL_DOWNLOADING, MODEL_MISSING, WORKER_BROKEN
from subtitled.network.sockets import is_served
from subtitled.standalone.private_daemon import PrivateDaemon, PrivateDaemonError

CPU_MODEL, GPU_MODEL, GPU_TRANSLATION_MODEL = "base", "large-v3-turbo", "large-v3"
CPU_NOTE = (
    "No GPU found: the CPU transcribes with the model base (145 MB). More accurate, for about 3 times the time: "
    "--model small (484 MB); 10 times: --model medium (1.5 GB)."
)
MAX_PRIORITY = 100
POLL_S = 0.25
FAILURE_SIGNAL = signal.SIGUSR1
FAILURE_SIGNAL_S = 5.0
PING_TIMEOUT_S = 2.0


class TranscribeRequest(Struct, frozen=True, kw_only=True):
    """What to transcribe, and how."""

    files: tuple[Path, ...]
    options: JobOptions
    model: str | None
    """None: by the devices of this machine."""
    output: Path | None
    """None: beside each file."""
    is_forced: bool
    is_private: bool
    """Use a private daemon even if one runs."""


def transcribe(request: TranscribeRequest, endpoints: Sequence[str]) -> int:
    """Transcribe files and return the exit status; `endpoints` are the sockets of the configured daemon.

    Raises UsageError, before anything is started, for files and options that cannot work.
    """
    check_options(request)
    files = find_files(request.files, request.output, is_saving=True)
    endpoint = None if request.is_private else running_daemon(endpoints, request.model)
    if endpoint is not None:
        return _use_daemon(endpoint, request, files)
    is_translated = "translate" in (request.options.tasks or (request.options.task,))
    model = request.model or default_model(is_translated=is_translated)
    check_model(model, is_translated=is_translated)
    try:
        return _use_private_daemon(model, request, files)
    except KeyboardInterrupt:
        # While the daemon starts or stops; `SubmitRun` reports an interrupt while files are submitted and transcribed.
        click.echo("subtitled: interrupted; repeat the command to resume", err=True)
        return CommandExitCode.INTERRUPTED


def check_options(request: TranscribeRequest) -> None:
    """Raise UsageError for formats and languages that do not exist."""
    unknown = [fmt for fmt in request.options.formats if fmt not in schema.FORMATS]
    if unknown:
        raise InputError(f"format {unknown[0]!r} is not supported; use {', '.join(schema.FORMATS)}")
    language = option_of(request.options.language)
    if language not in {"auto", "multi", *LANGUAGES}:
        raise InputError(
            f'language {language!r} is not supported; use "auto", "multi" or one of {" ".join(LANGUAGES)}'
        )


def check_model(model: str, *, is_translated: bool) -> None:
    """Raise UsageError for a model folder that is not a model, and a model that cannot translate."""
    if is_folder(model) and not is_convertible(Path(model)):
        why = fault_of(Path(model).absolute())
        if why is not None:
            raise InputError(f"--model {model}: {why}")
    if is_translated and not can_translate(model):
        raise InputError(f"the model {model} cannot translate; use --model medium or --model large-v3")


def default_model(*, is_translated: bool) -> str:
    """Return the model for this machine's devices, and print a note about the choice for a CPU."""
    devices = find_devices("auto", os.environ.get("CUDA_VISIBLE_DEVICES"))
    if any(device.kind == "cuda" for device in devices):
        names = ", ".join(device.name for device in devices)
        model = GPU_TRANSLATION_MODEL if is_translated else GPU_MODEL
        click.echo(f"Using {names} with the model {model}.", err=True)
        return model
    click.echo(CPU_NOTE, err=True)
    return CPU_MODEL


def running_daemon(endpoints: Sequence[str], model: str | None) -> str | None:
    """Return the local socket of a running daemon with this model, and print that it is used; None without one."""
    for endpoint in endpoints:
        path = endpoint.removeprefix("ipc://")
        if path == endpoint or not is_served(Path(path)):
            continue
        try:
            with Client(endpoint, timeout_s=PING_TIMEOUT_S) as client:
                welcome = client.ping()
        except SubtitleError:
            continue
        if model is not None and model not in {welcome.model, *welcome.models}:
            models = ", ".join(welcome.models or (welcome.model,))
            click.echo(
                f"A daemon runs with the model {models}; starting a private one for --model {model}.",
                err=True,
            )
            return None
        click.echo(f"Using the running daemon at {path} with the model {model or welcome.model}.", err=True)
        return endpoint
    return None


def state_folder(model: str) -> Path:
    """Return the folder of the private daemon for a model, created if missing: below XDG_STATE_HOME. Raises InputError."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", model).strip("-.")[-40:]
    folder = Path(base, "subtitled", "transcribe", f"{name}-{digest}").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        why = os_error_text(error)
        raise InputError(
            f"{why}; set XDG_STATE_HOME to a folder for finished segments and the log"
        ) from error
    return folder


def private_config(daemon: PrivateDaemon, model: str, files: Sequence[Path]) -> schema.Config:
    """Return the configuration of the private daemon: default settings, no inbox, no network."""
    folders = tuple(dict.fromkeys(os.path.realpath(file.parent) for file in files))
    return schema.Config(
        model=schema.ModelConfig(name=str(Path(model).absolute()) if is_folder(model) else model),
        recovery=schema.RecoveryConfig(stop_timeout_s=5.0),
        inbox=(),
        listen=schema.ListenConfig(clients=(daemon.endpoint,), workers=daemon.workers_endpoint, metrics=""),
        uploads=schema.UploadsConfig(paths=folders),
        state=schema.StateConfig(dir=str(daemon.folder / "state")),
        log=schema.LogConfig(format="json"),
    )


def _use_daemon(endpoint: str, request: TranscribeRequest, files: Sequence[Path]) -> int:
    with Client(endpoint) as client:

        def send(path: Path, options: JobOptions, on_progress: OnProgress) -> JobHandle:
            return client.submit(path, options=options, on_progress=on_progress)

        def hint(*words: str) -> str:
            return shlex.join(["subtitle", *words, "--server", endpoint])

        options = replace(request.options, model=request.model or "")
        run = SubmitRun(client, options, send, hint=hint, program="subtitled")
        return run.run(
            with_unique_names(files), is_waiting=True, output=request.output, is_forced=request.is_forced
        )


def _use_private_daemon(model: str, request: TranscribeRequest, files: Sequence[Path]) -> int:
    folder = state_folder(model)
    with _lock(folder), PrivateDaemon(folder) as daemon:
        daemon.start(to_toml(private_config(daemon, model, files)))
        with Client(daemon.endpoint, timeout_s=20.0) as client:
            daemon.wait_until_ready(client, with_workers=False)
            priorities = _Priorities(client, files)

            def send(path: Path, options: JobOptions, _on_progress: OnProgress) -> JobHandle:
                real = os.path.realpath(path)
                return client.submit_path(real, options=replace(options, priority=priorities.of(real)))

            run = SubmitRun(
                client,
                request.options,
                send,
                hint=lambda *_words: "",
                program="subtitled",
                resume_hint="finished subtitles are saved; repeat the command to resume",
            )
            run.shown.note(f"loading the model {model}")
            try:
                with _monitor(daemon, run):
                    return run.run(
                        with_unique_names(files),
                        is_waiting=True,
                        output=request.output,
                        is_forced=request.is_forced,
                    )
            except PrivateDaemonError as error:
                click.echo(f"subtitled: {error}", err=True)
                return CommandExitCode.UNREACHABLE


class _Priorities:
    """Chooses priorities so that the files of this call run before those of an interrupted earlier call.

    Jobs of an earlier call keep their results: repeating that call resumes them.
    """

    def __init__(self, client: Client, files: Sequence[Path]) -> None:
        jobs = client.list(limit=1000)
        wanted = {os.path.realpath(file) for file in files}
        self._known = {job.source: job.priority for job in reversed(jobs)}
        others = [job.priority for job in jobs if job.state not in ENDED and job.source not in wanted]
        self._new = min(max(others, default=-1) + 1, MAX_PRIORITY)

    def of(self, path: str) -> int:
        """Return the priority of a file: that of its earlier job, else above all unfinished jobs of others."""
        return self._known.get(path, self._new)


class _Monitor(threading.Thread):
    """Reads the private daemon's log: shows downloads, and ends the main thread's wait if no work is possible.

    The main thread gets a signal, whose handler raises PrivateDaemonError there. SIGINT would not do: it is ignored in
    background jobs of a shell, and would be taken for Ctrl-C.
    """

    def __init__(self, daemon: PrivateDaemon, run: SubmitRun) -> None:
        super().__init__(daemon=True)
        self.failure = ""
        self._private = daemon
        self._run = run
        self._stopping = threading.Event()

    def run(self) -> None:
        """Poll the log until `close`; after a failure, send the signal until then."""
        while not self.failure and not self._stopping.wait(POLL_S):
            try:
                self._private.check()
                for event in self._private.new_events():
                    self._process(event)
            except (PrivateDaemonError, SubtitleError, OSError) as error:
                self.failure = str(error)
        # Repeated, since an exception is lost in a callback whose exceptions are ignored.
        while not self._stopping.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, FAILURE_SIGNAL)
            self._stopping.wait(FAILURE_SIGNAL_S)

    def raise_failure(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle the signal: raise PrivateDaemonError, but not after `close`."""
        if self.failure and not self._stopping.is_set():
            raise PrivateDaemonError(self.failure)

    def close(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self.join()

    def _process(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case name if name == MODEL_DOWNLOADING:
                total = f" of {event['total_mb']:.0f}" if "total_mb" in event else ""
                done = f": {event['done_mb']:.0f}{total} MB" if "done_mb" in event else ""
                self._run.shown.note(f"downloading the model {event.get('model', '')}{done}")
            case name if name == DAEMON_READY:
                self._run.shown.note("")
            case name if name == MODEL_MISSING:
                self.failure = f"the model is not available: {event.get('cause')}; give a folder with a model: --model FOLDER"
            case name if name == WORKER_BROKEN and self._is_all_broken():
                self.failure = (
                    f"no device can transcribe: {event.get('cause')}; `subtitled doctor` has remedies"
                )
            case _:
                pass

    def _is_all_broken(self) -> bool:
        with Client(self._private.endpoint) as client:
            workers = [worker for worker in client.stats().workers if worker.role == "transcribe"]
        return all(worker.state == "broken" for worker in workers)


@contextmanager
def _monitor(daemon: PrivateDaemon, run: SubmitRun) -> Iterator[None]:
    """Raise PrivateDaemonError in the `with` block, run by the main thread, when no work is possible."""
    monitor = _Monitor(daemon, run)
    previous = signal.signal(FAILURE_SIGNAL, monitor.raise_failure)
    monitor.start()
    try:
        yield
    finally:
        monitor.close()
        signal.signal(FAILURE_SIGNAL, previous)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; waits for another one."""
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            click.echo("Waiting for another `subtitled transcribe` with this model to end.", err=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
