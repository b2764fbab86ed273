"""The sandbox of decoder processes, tried from inside: each test runs a process that enters it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from subtitled.runtime import sandbox

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
