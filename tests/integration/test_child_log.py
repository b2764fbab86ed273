"""Log lines of child processes, which the daemon keeps for an admin's page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque

import pytest

from daemon import eventually
from subtitled import log


def test_last_lines_contain_those_of_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a child writes: control characters are replaced, and what is no line is dropped."""
    monkeypatch.setattr(log, "_line_pipe", None)
    monkeypatch.setattr(log, "LAST_LINES", deque(maxlen=10))
    monkeypatch.setattr(log, "CHILD_LINES", deque(maxlen=10))
    assert log.for_children() == ({}, ())
    log.remember_lines()
    variables, (pipe,) = log.for_children()
    program = (
        "import os, sys; from subtitled import log; log.configure('info', 'json', sys.stderr, worker='gpu0.1');"
        "log.forward_lines(os.environ); log.get().info(log.JOB_DONE, job='1a2b', text='x' * 9000)"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        pass_fds=(pipe,),
        stderr=subprocess.PIPE,
        check=True,
    )
    assert child.stderr.count(b"x") > 9000, "the stream has the whole line"
    for record in (
        b"\xff\xfe\0",
        b"99 unknown level\0",
        b"x" * 4000,
        b"\0",
        b"30 a\x1b[2Jb\rc\0",
        b"40 end\0",
    ):
        os.write(pipe, record)
    eventually(lambda: "end" in str(log.last_lines(1)), "all records are read")
    assert log.last_lines(9, "warning") == ("a\ufffd[2Jb\ufffdc", "end")
    (line,) = log.last_lines(9, text="1A2B")
    assert '"worker": "gpu0.1"' in line
    assert len(line) == log.MAX_LINE_CHARS
    log.configure("info", "json", sys.stderr)
    log.get().info(log.DAEMON_READY)
    log.get().info(log.JOB_ACCEPTED, path=b"/in/bad\xff.mp3".decode("utf-8", "surrogateescape"))
    (line,) = log.last_lines(1)
    assert r'"/in/bad\udcff.mp3"' in line
    assert line.encode("utf-8"), "it can be sent to a client"
    for _ in range(100):
        os.write(pipe, b"30 flood\0")
    os.write(pipe, b"30 over\0")
    eventually(lambda: "over" in str(log.last_lines(1)), "the flood is read")
    assert len(log.last_lines(99, text="daemon.ready")) == 1, "a child does not displace the daemon's lines"


def test_a_flood_of_records_is_dropped_but_for_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that a malicious media file controls must not take the daemon's processor time."""
    monkeypatch.setattr(log, "_line_pipe", None)
    monkeypatch.setattr(log, "CHILD_LINES", deque(maxlen=30_000))
    log.remember_lines()
    _, (pipe,) = log.for_children()
    os.write(pipe, b"10\0" * 20_000 + b"20 end\0")
    eventually(lambda: "end" in log.last_lines(1), "all records are read")
    assert len(log.CHILD_LINES) < 2_000
    assert "lines of child processes are left out here" in log.last_lines(1, "warning")[0]


def test_a_process_without_a_parent_that_keeps_lines_forwards_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_forward_to", None)
    for number in ("", "x", "9999"):
        log.forward_lines({"_SUBTITLED_LOG_LINES": number})
    assert log._forward_to is None
