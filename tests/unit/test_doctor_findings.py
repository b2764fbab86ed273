"""The doctor's findings from given facts, each fault with its remedy."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from subtitle import Welcome
from subtitle.messages import OpenFile, WorkerFacts
from subtitled.config.model_files import folder_of
from subtitled.config.schema import Config, NamedModelConfig
from subtitled.doctor.checks import Checks
from subtitled.doctor.devices import (
    compute_type_finding,
    driver_finding,
    free_memory_finding,
    library_findings,
    speed_finding,
)
from subtitled.doctor.finding import Finding, as_json, fault, from_error, ok, print_lines, summary, warning
from subtitled.doctor.folders import space_finding, watches_finding, writing_finding
from subtitled.doctor.host import clock_finding, files_finding, jump_finding, kernel_finding, python_finding
from subtitled.doctor.media import ffmpeg_finding, vad_finding
from subtitled.doctor.model import CheckedModel, endpoint_finding, folder_finding
from subtitled.doctor.packages import missing_finding, required_packages, satisfies, version_finding
from subtitled.doctor.sockets import RunningDaemon, port_finding, running_findings
from subtitled.errors import ModelError
from subtitled.version import VERSION
from unit.server_stats import STATS

MIB = 2**20


def has(finding: Finding | None, state: str, what: str, remedy: str = "") -> None:
    """Hold a finding to its state, and to parts of its two texts."""
    assert finding is not None
    assert (finding.state, what in finding.message, remedy in finding.remedy) == (state, True, True), finding
    assert bool(finding.remedy) == (state in {"warning", "fault"}), finding


def test_the_packages_of_an_extra_are_read_from_the_metadata() -> None:
    lines = [
        "click>=8.1",
        "av>=13; extra == 'daemon'",
        "zz-top<5,>=4.5; extra == 'daemon'",
        "oc; extra == 'zh'",
    ]
    assert required_packages(lines, "daemon") == {"av": ">=13", "zz-top": "<5,>=4.5"}
    assert required_packages(lines, "zh") == {"oc": ""}


@pytest.mark.parametrize(
    ("version", "specifier", "is_good"),
    [
        ("4.5", "<5,>=4.5", True),
        ("4.5.0", ">=4.5", True),
        ("4.10.1", "<5,>=4.5", True),
        ("5.0", "<5,>=4.5", False),
        ("4.4.9", ">=4.5", False),
        ("2.0rc1", ">=1", True),
        ("1", "", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, specifier: str, *, is_good: bool) -> None:
    assert satisfies(version, specifier) is is_good
    finding = version_finding("av", version, specifier, "python")
    assert (finding is None) is is_good


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    has(missing_finding(["av>=13"], "/x/python"), "fault", "not installed: av>=13", "--no-deps 'av>=13'")
    has(missing_finding(["a", "b", "c", "d"], "/x/python"), "fault", "a, b, c, d", "-r requirements.lock")
    has(
        version_finding("av", "12.3", ">=13", "python"),
        "fault",
        "12.3, >=13",
        "pip install --no-deps 'av>=13'",
    )


def test_unsupported_compute_type_is_a_fault() -> None:
    has(compute_type_finding("cpu0", "auto", {"int8"}), "ok", "int8")
    has(compute_type_finding("gpu0", "float16", {"float16", "int8"}), "ok", "float16, int8")
    has(
        compute_type_finding("cpu0", "float16", {"int8", "float32"}),
        "fault",
        'model.compute_type = "float16": the device supports float32, int8',
        'set model.compute_type = "auto"',
    )


def test_library_that_cannot_be_loaded_is_a_fault() -> None:
    (found,) = library_findings("gpu0", ["libc.so.6", "libnobodyhasthis.so.12"])
    has(found, "fault", "libnobodyhasthis.so.12 cannot be loaded", "pip install --no-deps nvidia-cublas-cu12")


def test_an_old_driver_is_a_fault() -> None:
    has(driver_finding("550.1, CUDA 12.4", 12), "ok", "550.1")
    has(driver_finding("470.1, CUDA 11.4", 11), "fault", "requires CUDA 12", "525")


def test_slow_device_or_empty_transcription_is_a_warning() -> None:
    has(speed_finding("gpu0", 10.0, 0.5, phrases=3), "ok", "20.0x real time")
    has(speed_finding("cpu0", 10.0, 20.0, phrases=3), "warning", "0.5x real time", "smaller model")
    has(speed_finding("cpu0", 10.0, 1.0, phrases=0), "warning", "without text", "--file")


def test_a_model_folder_without_a_file_is_a_fault_that_names_it() -> None:
    whole = ["model.bin", "config.json", "tokenizer.json", "vocabulary.json"]
    has(folder_finding("/m", whole), "ok", "/m: config.json")
    for left_out in whole:
        files = [name for name in whole if name != left_out]
        has(folder_finding("/m", files), "fault", f"/m has no {left_out}")


def test_translation_model_without_a_file_is_a_fault_and_a_whole_one_names_its_languages(
    tmp_path: Path,
) -> None:
    source = str(folder_of("demo-translation"))
    folder = tmp_path / "text"
    shutil.copytree(source, folder)
    model = CheckedModel(source=str(folder), label="model text")
    has(
        folder_finding(str(folder), [file.name for file in folder.iterdir()], model),
        "ok",
        "translates into eng_Latn, zho_Hans",
    )
    (folder / "tokenizer.json").unlink()
    has(
        folder_finding(str(folder), [file.name for file in folder.iterdir()], model),
        "fault",
        "no tokenizer",
        "another one",
    )


class ModelList(BaseHTTPRequestHandler):
    """Lists a model to those who have the key."""

    def do_GET(self) -> None:
        """Answer a request."""
        key, body = self.headers.get("Authorization"), b'{"data": [{"id": "tiny"}]}'
        self.send_response({"Bearer secret": 200, "Bearer moved": 302}.get(key or "", 401))
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_an_endpoint_is_asked_for_its_models(tmp_path: Path) -> None:
    key = tmp_path / "key"
    with ThreadingHTTPServer(("127.0.0.1", 0), ModelList) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1/"
        model = NamedModelConfig(name="llm", endpoint=url, endpoint_model="tiny", api_key_file=str(key))
        has(endpoint_finding(model, "model llm"), "fault", "No such file", "api_key_file")
        for content, state, text in (
            ("secret\n", "ok", "has tiny"),
            ("wrong", "fault", "answers 401"),
            ("moved", "fault", "answers 302"),
        ):
            key.write_text(content)
            has(endpoint_finding(model, "model llm"), state, text)
        key.write_text("secret")
        other = replace(model, endpoint_model="large")
        has(endpoint_finding(other, "model llm"), "warning", "does not list large", "one of tiny")
        server.shutdown()
    has(endpoint_finding(model, "model llm"), "fault", "does not answer", "start the endpoint's server")


def test_models_that_do_not_fit_at_once_are_a_warning() -> None:
    has(free_memory_finding("gpu0", [1000 * MIB, 500 * MIB], 2000 * MIB), "ok", "all 2 models need 1500 MiB")
    has(
        free_memory_finding("gpu0", [1000 * MIB, 1500 * MIB], 2000 * MIB),
        "warning",
        "2000 MiB are free",
        "devices",
    )


def test_space_below_the_reserve_is_a_fault() -> None:
    has(space_finding("/s", 300 * MIB, 256 * MIB), "ok", "300 MiB free")
    has(space_finding("/s", 100 * MIB, 256 * MIB), "fault", "state.reserve_mb = 256", "free 156 MiB")
    has(space_finding("/s", None, 1), "warning", "unknown")


def test_more_folders_than_watches_are_a_fault() -> None:
    has(watches_finding(7, 8192), "ok", "7 folders")
    has(watches_finding(9000, 8192), "fault", "9000 folders", "sysctl -w fs.inotify.max_user_watches=18000")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "type: chown joe /o && chmod u+rwx /o"),
        (errno.EROFS, "remount,rw"),
        (errno.ENOSPC, "free some space"),
        (errno.EIO, "dmesg"),
    ],
)
def test_a_folder_that_cannot_be_written_has_the_remedy_of_its_cause(number: int, remedy: str) -> None:
    error = OSError(number, os.strerror(number))
    has(writing_finding("output /o", "/o", error, "joe"), "fault", "joe cannot write", remedy)


def test_port_is_free_or_used_by_the_daemon_or_by_another_program() -> None:
    taken = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    has(port_finding("p", None, is_running=False), "ok", "free")
    has(port_finding("p", taken, is_running=True), "ok", "served")
    has(port_finding("p", taken, is_running=False), "fault", "another program", "ss -ltnp")
    away = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    has(port_finding("p", away, is_running=False), "fault", "cannot be bound", "address of this machine")


def running(
    *workers: WorkerFacts, version: str = VERSION, open_files: tuple[OpenFile, ...] = ()
) -> list[Finding]:
    """Return what is found of a daemon with these workers."""
    stats = replace(STATS, workers=workers, open_files=open_files)
    welcome = Welcome(request=1, server=version, protocol=1, model="tiny")
    return list(running_findings(RunningDaemon(endpoint="ipc:///s", welcome=welcome, stats=stats)))


def worker(slot: str, state: str, cause: str = "") -> WorkerFacts:
    """Return a worker as a client sees it."""
    return WorkerFacts(
        slot=slot, role="transcribe", state=state, incarnation=1, device="", leases=0, job="", cause=cause
    )


def test_file_that_waits_for_its_writer_is_a_warning() -> None:
    waiting = OpenFile(path="/in/a.mp4", process="ffmpeg (pid 7)", seconds=90)
    _, found, _ = running(worker("gpu2", "busy"), open_files=(waiting,))
    assert (found.state, found.name) == ("warning", "/in/a.mp4")
    assert found.message == "waits: ffmpeg (pid 7) has had it open for writing for 90 s"


def test_running_daemon_is_reported_with_its_workers() -> None:
    there, broken, starting, loaded = running(
        worker("gpu0", "broken", "no such compute type"), worker("gpu1", "starting"), worker("gpu2", "busy")
    )
    has(there, "ok", "up 9 s, model tiny")
    has(broken, "fault", "is broken: no such compute type", "systemctl reload subtitled")
    has(starting, "warning", "is starting", "worker.ready")
    has(loaded, "ok", "1 of 3 transcribe workers")


def test_running_daemon_of_another_version_is_a_warning() -> None:
    has(running(version="0.0.1")[0], "warning", "0.0.1 runs", "systemctl restart subtitled")


def test_python_kernel_file_limit_and_clock_are_checked() -> None:
    has(python_finding((3, 10, 4)), "fault", "3.10.4", "3.11")
    has(python_finding((3, 13, 0)), "ok", "3.13.0")
    has(kernel_finding("4.4", has_pidfd=False), "fault", "no pidfd_open", "seccomp")
    has(files_finding(256), "warning", "at most 256", "LimitNOFILE")
    has(clock_finding(1_000.0, 2_000.0), "fault", "1970-01-01", "timedatectl set-ntp")
    has(clock_finding(3_000.0, 2_000.0), "ok", "1970-01-01")
    assert jump_finding(100.2, 100.0) is None
    has(jump_finding(40.0, 100.0), "warning", "jumped by -60.0 s", "timedatectl")


def test_ffmpeg_without_codecs_and_vad_without_speech_are_faults() -> None:
    has(ffmpeg_finding({"mov"}, {"aac"}, "PyAV 1"), "fault", "cannot read aac, asf", "pip install")
    has(vad_finding(0, 10.0, 0.1), "fault", "found no speech", "vad.threshold")
    has(vad_finding(4, 10.0, 0.1), "ok", "4 spans")


def test_subtitled_error_contains_its_remedy() -> None:
    found = from_error("model", ModelError("model.name = 'x': no such folder; name a folder"), "other")
    assert (found.message, found.remedy) == ("model.name = 'x': no such folder", "name a folder")
    assert from_error("gpu0", RuntimeError("CUDA failed\nwith 7"), "look").remedy == "look"


def test_lines_are_aligned_and_uncoloured_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    findings = [
        ok("clock", "2026"),
        warning("driver", "none", "install one"),
        fault("inbox /i", "is gone", "make it"),
    ]
    print_lines(Console(highlight=False), [("host", finding) for finding in findings])
    assert capsys.readouterr().out == (
        "host\n"
        "  ok      clock                     2026\n"
        "  warning driver                    none\n"
        "                                    -> install one\n"
        "  FAULT   inbox /i                  is gone\n"
        "                                    -> make it\n"
        "1 fault; 3 checks, 1 warning. Fix the first fault first.\n"
    )


def test_json_output_is_one_object() -> None:
    text, seen = as_json([("host", ok("clock", "2026"))])
    assert text == (
        f'{{"version":"{VERSION}","is_ok":true,"findings":'
        '[{"theme":"host","name":"clock","state":"ok","message":"2026","remedy":""}]}'
    )
    assert summary(seen) == "No faults; 1 checks, 0 warnings."


def test_faults_of_named_models_are_found_except_sources_which_have_a_check(
    tmp_path: Path,
) -> None:
    file = tmp_path / "subtitled.toml"
    file.write_text(
        f"""
        [state]
        dir = "{tmp_path}/state"
        [[models]]
        name = "a"
        source = "{tmp_path}/missing"
        compute_type = "int3"
        """
    )
    found = list(Checks(Config(), str(file), {})._load_faults([]))
    keys = [finding.message.partition(":")[0] for finding in found]
    assert [key for key in keys if key.startswith("model")] == ["models[0].compute_type"]
