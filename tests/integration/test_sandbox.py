"""The sandbox of decoder processes, tried from inside: each test runs a process that enters it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from subtitled.api import downloads
from subtitled.core.protocol import WorkerSettings
from subtitled.download.messages import DownloadSettings
from subtitled.media import preview_pool
from subtitled.media.preview_pool import VideoPart
from subtitled.runtime import sandbox
from subtitled.workers.supervisor import WORKER_COMMAND

if TYPE_CHECKING:
    from collections.abc import Callable

_NEEDS_LANDLOCK = pytest.mark.skipif(sandbox.landlock_version() == 0, reason="this kernel has no Landlock")


def confined(program: str, *readable: Path, memory_mib: int = 2048, unix: bool = False) -> str:
    """Return what `program` prints in a process that has entered the sandbox."""
    enter = (
        "import os, socket, subprocess, threading\n"
        "from subtitled.runtime import sandbox\n"
        f"sandbox.enter({[str(path) for path in readable]!r}, memory_bytes={memory_mib << 20}, "
        f"allows_unix_sockets={unix})\n"
        "def attempt(function):\n"
        "    try:\n"
        "        function()\n"
        "    except (OSError, MemoryError) as error:\n"
        "        print(type(error).__name__)\n"
        "    else:\n"
        "        print('done')\n"
    )
    command = [sys.executable, "-c", enter + program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@_NEEDS_LANDLOCK
def test_only_the_named_folders_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "talk.wav").write_bytes(b"RIFF")
    (tmp_path / "server.key").write_bytes(b"secret")
    program = f"attempt(lambda: open({str(tmp_path)!r} + '/%s'))"
    assert confined(program % "media/talk.wav", tmp_path / "media") == "done"
    assert confined(program % "server.key", tmp_path / "media") == "PermissionError"


@_NEEDS_LANDLOCK
def test_link_in_a_named_folder_does_not_lead_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "server.key").write_bytes(b"secret")
    (tmp_path / "media" / "talk.wav").symlink_to(tmp_path / "server.key")
    program = f"attempt(lambda: open({str(tmp_path / 'media' / 'talk.wav')!r}))"
    assert confined(program, tmp_path / "media") == "PermissionError"


@_NEEDS_LANDLOCK
@pytest.mark.parametrize("call", ["open({path!r} + '/new', 'w')", "os.unlink({path!r} + '/talk.wav')"])
def test_named_folder_cannot_be_changed(call: str, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(b"RIFF")
    assert confined(f"attempt(lambda: {call.format(path=str(tmp_path))})", tmp_path) == "PermissionError"
    assert [path.name for path in tmp_path.iterdir()] == ["talk.wav"]


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"])
def test_no_socket_can_be_opened(family: str) -> None:
    assert confined(f"attempt(lambda: socket.socket(socket.{family}))") == "PermissionError"


def test_unix_sockets_can_be_left_open_and_closed_later_for_all_threads() -> None:
    program = (
        "opened, closed = threading.Event(), threading.Event()\n"
        "def run():\n"
        "    attempt(lambda: socket.socket(socket.AF_UNIX))\n"
        "    attempt(lambda: socket.socket(socket.AF_INET))\n"
        "    opened.set()\n"
        "    closed.wait()\n"
        "    attempt(lambda: socket.socket(socket.AF_UNIX))\n"
        "thread = threading.Thread(target=run)\n"
        "thread.start()\n"
        "opened.wait()\n"
        "sandbox.deny_sockets()\n"
        "closed.set()\n"
        "thread.join()\n"
    )
    assert confined(program, unix=True).split() == ["done", "PermissionError", "PermissionError"]


def test_no_program_can_be_executed() -> None:
    assert confined("attempt(lambda: subprocess.run(['/bin/true']))") == "PermissionError"


@_NEEDS_LANDLOCK
@pytest.mark.skipif(sandbox.landlock_version() < 6, reason="this kernel's Landlock has no scope for signals")
def test_no_process_outside_can_be_signalled() -> None:
    assert confined(f"attempt(lambda: os.kill({os.getpid()}, 0))") == "PermissionError"


def test_memory_is_bounded() -> None:
    assert confined("attempt(lambda: bytearray(1 << 30))", memory_mib=512) == "MemoryError"
    assert confined("attempt(lambda: bytearray(1 << 20))", memory_mib=512) == "done"


_PROBE = """
import os
from subtitled.runtime import sandbox
enter = sandbox.enter
def probe(*args, **options):
    enter(*args, **options)
    try:
        open(os.environ["SECRET"]).close()
    except PermissionError:
        os._exit(70)
    os._exit(71)
sandbox.enter = probe
"""
"""A `sitecustomize` module: tries to read a file after the sandbox is entered, and exits with the result."""


def _worker(_: Path) -> tuple[tuple[str, ...], bytes]:
    settings = WorkerSettings(
        identity="slot.1",
        role="prepare",
        endpoint="ipc:///tmp/subtitled-test-unused.sock",
        parent_pid=os.getpid(),
        heartbeat_s=1.0,
        log_level="info",
        log_format="json",
    )
    return (*WORKER_COMMAND, msgspec.json.encode(settings).decode()), b""


def _preview(folder: Path) -> tuple[tuple[str, ...], bytes]:
    talk = folder / "talk.flac"
    talk.write_bytes(b"fLaC")
    found = talk.stat()
    part = VideoPart(
        path=os.fsencode(talk),
        root=b"",
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        form=None,
        start=0,
        length=0,
    )
    data = msgspec.msgpack.encode(part)
    return preview_pool.COMMAND, len(data).to_bytes(8, "big") + data


def _download(folder: Path) -> tuple[tuple[str, ...], bytes]:
    pytest.importorskip("yt_dlp")
    settings = DownloadSettings(
        url="http://127.0.0.1:9/talk.flac",
        folder=str(folder),
        max_bytes=1,
        max_s=1,
        stall_s=1,
        allowed_hosts=(),
        allowed_networks=(),
        parent_pid=os.getpid(),
    )
    return downloads.COMMAND, msgspec.json.encode(settings) + b"\n"


@_NEEDS_LANDLOCK
@pytest.mark.parametrize("process", [_worker, _preview, _download])
@pytest.mark.parametrize("folder", ["home", "elsewhere"])
def test_process_started_in_the_root_folder_reads_no_file_outside_its_folders(
    process: Callable[[Path], tuple[tuple[str, ...], bytes]], folder: str, tmp_path: Path
) -> None:
    """Also if `sys.path` has the home folder and, by an empty entry, the current folder."""
    for name in ("code", "home", "elsewhere", "job"):
        (tmp_path / name).mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(_PROBE)
    secret = tmp_path / folder / "server.key"
    secret.write_bytes(b"secret")
    command, data = process(tmp_path / "job")
    environ = os.environ | {
        "SECRET": str(secret),
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": f"{tmp_path / 'code'}:{tmp_path / 'home'}:",
    }
    done = subprocess.run(
        command, input=data, env=environ, cwd="/", capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 70, done.stderr.decode()
