from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from subtitled.systemd.notify import SystemdNotifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Give a socket as systemd's, and its name as systemd would write it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@subtitled-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0") if request.param == "abstract" else name)
        listening.settimeout(5)
        yield listening, name


def test_each_state_arrives_as_one_datagram(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    notifier = SystemdNotifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("two\nlines, 文")
    notifier.watchdog()
    notifier.stopping()
    got = [listening.recv(4096).decode() for _ in range(4)]
    assert got == ["READY=1", "STATUS=two lines, 文", "WATCHDOG=1", "STOPPING=1"]


def test_reloading_contains_the_monotonic_time(manager: tuple[socket.socket, str]) -> None:
    """systemd.service(5): with Type=notify-reload, RELOADING=1 comes with MONOTONIC_USEC."""
    listening, name = manager
    SystemdNotifier({"NOTIFY_SOCKET": name}).reloading()
    state, _, stamp = listening.recv(4096).decode().partition("\nMONOTONIC_USEC=")
    assert state == "RELOADING=1"
    assert int(stamp) > 0


@pytest.mark.parametrize(
    "name",
    ["", "@", "/no/such/socket", "/" + "x" * 200, "relative", "vsock:2:1", "/a\0b", os.fsdecode(b"/\xff")],
)
def test_missing_notify_socket_raises_nothing(name: str) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("surrogate \udcff")


def test_without_systemd_nothing_happens() -> None:
    notifier = SystemdNotifier({})
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    notifier.watchdog()
    assert notifier.watchdog_interval_s is None


def test_a_full_queue_neither_blocks_nor_raises(manager: tuple[socket.socket, str]) -> None:
    """The kernel queues few datagrams (net.unix.max_dgram_qlen); a stuck manager must not stop the loop."""
    _, name = manager
    notifier = SystemdNotifier({"NOTIFY_SOCKET": name})
    for _ in range(5_000):
        notifier.watchdog()


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(environ: dict[str, str], interval_s: float | None) -> None:
    assert SystemdNotifier(environ).watchdog_interval_s == interval_s
