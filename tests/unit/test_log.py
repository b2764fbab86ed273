from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subtitled import log

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    structlog.reset_defaults()


class Stream:
    """A text stream as a process has it, strict about its encoding, with what was written as bytes."""

    def __init__(self, encoding: str = "utf-8", *, is_terminal: bool = False) -> None:
        self.writes: list[bytes] = []
        self.error: OSError | None = None
        stream = self

        class Raw(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def isatty(self) -> bool:
                return is_terminal

            def write(self, data: Any) -> int:
                if stream.error:
                    raise stream.error
                stream.writes.append(bytes(data))
                return len(data)

        self.text = io.TextIOWrapper(io.BufferedWriter(Raw()), encoding=encoding, errors="strict")

    def lines(self) -> list[str]:
        """Give what was written, line by line."""
        return b"".join(self.writes).decode(self.text.encoding).splitlines()

    def records(self) -> list[dict[str, Any]]:
        """Give what was written as JSON, line by line."""
        return [json.loads(line) for line in self.lines()]


def test_lines_are_json_where_there_is_no_terminal() -> None:
    stream = Stream()
    log.configure("info", "auto", stream.text)
    log.get(job="j1").info(log.JOB_DONE, segments=127, speed=28.3, name="讲座.mp4")
    (record,) = stream.records()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("timestamp"))
    assert record == {
        "event": "job.done",
        "level": "info",
        "job": "j1",
        "segments": 127,
        "speed": 28.3,
        "name": "讲座.mp4",
    }
    assert "讲座" in stream.lines()[0], "readable without a JSON reader"


def test_lines_are_coloured_on_a_terminal() -> None:
    stream = Stream(is_terminal=True)
    log.configure("info", "auto", stream.text)
    log.get().info(log.WORKER_READY, worker="gpu0")
    (line,) = stream.lines()
    assert "worker.ready" in line
    assert "\x1b[" in line, "coloured"


def test_the_console_form_has_no_colours_in_a_file() -> None:
    stream = Stream()
    log.configure("info", "console", stream.text)
    log.get().info(log.WORKER_READY, worker="gpu0")
    (line,) = stream.lines()
    assert "worker=gpu0" in line
    assert "\x1b" not in line


def test_json_can_be_had_on_a_terminal() -> None:
    stream = Stream(is_terminal=True)
    log.configure("info", "json", stream.text)
    log.get().info(log.DAEMON_READY)
    assert stream.records()[0]["event"] == "daemon.ready"


def test_lines_below_the_level_are_left_out() -> None:
    stream = Stream()
    log.configure("warning", "json", stream.text)
    log.get().info(log.JOB_DONE)
    log.get().warning(log.LEASE_LOST)
    assert [record["event"] for record in stream.records()] == ["lease.lost"]


def test_a_loggers_lines_follow_a_later_configure() -> None:
    first, second = Stream(), Stream()
    log.configure("info", "json", first.text)
    logger = log.get()
    log.configure("debug", "json", second.text)
    logger.debug(log.JOB_PLANNED)
    assert (len(first.lines()), len(second.lines())) == (0, 1)


def test_a_workers_lines_name_their_slot() -> None:
    stream = Stream()
    log.configure("info", "json", stream.text, worker="gpu0")
    log.get().info(log.WORKER_READY)
    logging.getLogger("faster_whisper").warning("hm")
    assert [record["worker"] for record in stream.records()] == ["gpu0", "gpu0"]


def test_library_messages_are_logged_from_warning_on() -> None:
    stream = Stream()
    log.configure("debug", "json", stream.text)
    log.configure("debug", "json", stream.text)
    logging.getLogger("watchdog.observers").info("chatter")
    logging.getLogger("watchdog.observers").warning("%d things", 3)
    (record,) = stream.records()
    assert (record["event"], record["level"]) == ("library.message", "warning")
    assert (record["logger"], record["message"]) == ("watchdog.observers", "3 things")


def test_exception_is_logged_without_local_variables() -> None:
    """Rich's traceback, structlog's default, would print the transcript that a frame holds."""
    for form in ("json", "console"):
        stream = Stream()
        log.configure("info", form, stream.text)
        transcript = "never" + " log this"
        try:
            int(transcript[0])
        except ValueError:
            log.get().exception(log.WORKER_LOST)
        text = "\n".join(stream.lines())
        assert "ValueError: invalid literal" in text
        assert "never log this" not in text


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("is_terminal", [True, False])
@given(
    name=st.text(st.characters(codec=None, categories=None))
    | st.binary().filter(lambda name: b"\0" not in name).map(os.fsdecode)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_file_name_makes_one_line(form: str, encoding: str, is_terminal: bool, name: str) -> None:
    stream = Stream(encoding, is_terminal=is_terminal)
    log.configure("info", form, stream.text)
    log.get().info(log.INBOX_IGNORED, path=name, as_path=Path(name.replace("\0", "")), parts=[name])
    text = b"".join(stream.writes).decode(encoding)
    assert text.count("\n") == 1
    if form == "json":
        assert json.loads(text)["path"] == name


def test_a_file_name_cannot_move_the_cursor() -> None:
    stream = Stream()
    log.configure("info", "console", stream.text)
    log.get().info(log.INBOX_FOUND, path="a\x1b[2Jb\nc")
    (line,) = stream.lines()
    assert r"path='a\x1b[2Jb\nc'" in line


def test_a_line_is_one_write() -> None:
    """Daemon and workers share one standard error; half lines would mix."""
    stream = Stream()
    log.configure("info", "json", stream.text)
    log.get().info(log.SEGMENT_DONE, segment=1)
    log.get().info(log.SEGMENT_DONE, segment=2)
    assert [write.count(b"\n") for write in stream.writes] == [1, 1]


def test_a_closed_stream_raises_nothing() -> None:
    stream = Stream()
    log.configure("info", "json", stream.text)
    stream.text.close()
    log.get().info(log.JOB_DONE)


def test_a_full_disk_raises_nothing() -> None:
    stream = Stream()
    log.configure("info", "json", stream.text)
    stream.error = OSError(errno.ENOSPC, "No space left on device")
    log.get().info(log.JOB_DONE)
    stream.error = None
    log.get().info(log.DISK_OK)
    assert stream.records()[-1]["event"] == "disk.ok"


def events() -> list[str]:
    return [
        value
        for name, value in vars(log).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, str)
    ]


def test_event_names_are_a_noun_and_a_participle() -> None:
    names = events()
    assert len(names) == len(set(names)) > 50
    assert [name for name in names if not re.fullmatch(r"[a-z]+\.[a-z_]+", name)] == []


def test_every_event_is_logged_somewhere_and_by_its_constant() -> None:
    sources = {
        path: path.read_text("utf-8")
        for path in (_ROOT / "daemon").rglob("*.py")
        if path.name != "log.py" or path.parent.name != "subtitled"
    }
    everything = "\n".join(sources.values())
    constants = {name for name, value in vars(log).items() if isinstance(value, str) and value in events()}
    own = {"LOG_LEVEL", "LIBRARY_MESSAGE"}  # logged by the module itself
    assert [name for name in constants - own if not re.search(rf"\b{name}\b", everything)] == []
    literal = re.compile(r"""_log\w*\.(debug|info|warning|error)\(\s*["'][a-z]+\.""")
    assert [str(path) for path, text in sources.items() if literal.search(text)] == []


def test_operations_lists_exactly_the_events() -> None:
    text = (_ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition("| event | ")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
    assert sorted(name for cell in cells for name in re.findall(r"`([^`]+)`", cell)) == sorted(events())


def test_last_lines_of_a_terminal_have_no_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_line_pipe", None)
    monkeypatch.setattr(log, "LAST_LINES", deque(maxlen=10))
    monkeypatch.setattr(log, "CHILD_LINES", deque(maxlen=10))
    stream = Stream(is_terminal=True)
    log.configure("info", "auto", stream.text)
    log.remember_lines()
    log.get().warning(log.JOB_DONE, file="talk.flac", seconds=3)
    assert "\x1b[" in stream.lines()[0], "the terminal has colors"
    (line,) = log.last_lines(10, text="talk.flac")
    assert "\x1b" not in line
    assert re.search(r"job\.done.* file=talk\.flac seconds=3$", line)


def test_last_lines_of_both_kinds_are_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LAST_LINES", deque([(1, 20, "One"), (4, 30, "Four"), (5, 10, "Five")]))
    monkeypatch.setattr(log, "CHILD_LINES", deque([(2, 40, "Two"), (3, 20, "Three")]))
    assert log.last_lines(9) == ("One", "Two", "Three", "Four", "Five")
    assert log.last_lines(2, "info") == ("Three", "Four")
    assert log.last_lines(1, text="T") == ("Three",)
    assert log.last_lines(0) == ()
