"""Shows the progress of several files: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from subtitle.progress import ENDED, Progress

LINE_S = 10.0
"""Interval of plain lines about one file, unless its state changes."""
RATE_S = 10.0
"""Averaging time of speeds."""
NAME_WIDTH = 32
MAX_BARS = 10
"""With more files, queued ones have no bar of their own."""


class TransferRate:
    """The rate of a growing number."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, value: int, now: float) -> float:
        """Add a value and return the growth per second; 0 while unknown."""
        if self._seen and value < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, value))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_S:
            self._seen.popleft()
        began, first = self._seen[0]
        return (value - first) / (now - began) if now > began else 0.0


class _Description(ProgressColumn):
    """The description of a bar, and the time that is left, counted down between two estimates."""

    def render(self, task: Task) -> Text:
        """Return the text of a bar."""
        done_at = task.fields.get("done_at")
        left = time_left_text(max(0.0, done_at - time.monotonic())) if done_at is not None else ""
        return Text(", ".join(part for part in (task.description, left) if part))


class DisplayedProgress:
    """Shows the progress of several files on standard error; a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._console = console
        self._bars = Bars(
            TextColumn("{task.fields[name]}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24),
            _Description(table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,  # rich would write it to standard error
            redirect_stderr=False,
        )
        self._is_shared = console.is_terminal and sys.stdout.isatty()
        self._tasks: dict[str, TaskID] = {}
        self._rates: dict[str, TransferRate] = {}
        self._lines: dict[str, tuple[str, float]] = {}
        self._total: TaskID | None = None
        self._note: TaskID | None = None
        self._count, self._ended = 1, 0
        self._done_at: float | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._tasks.clear()
        self._bars.stop()

    def start_files(self, count: int) -> None:
        """Announce the number of files; more than one get a bar for all of them."""
        self._count = count
        if count > 1 and self._console.is_terminal:
            self._total = self._bars.add_task("", name=f"0 of {count} files", total=float(count))

    def update(self, name: str, progress: Progress) -> None:
        """Show the progress of a file."""
        now = time.monotonic()
        is_bytes = progress.state in {"hashing", "receiving"}
        per_s = 0.0
        if is_bytes:
            value = progress.hashed_bytes if progress.state == "hashing" else progress.uploaded_bytes
            per_s = self._rates.setdefault(name, TransferRate()).add(value, now)
        text = description(progress, per_s)
        is_estimated = self._count == 1 and progress.state in {"preparing", "transcribing"}
        done_at = self._done_at if is_estimated else None
        if not self._console.is_terminal:
            text = f"{text}, {time_left_text(done_at - now)}" if done_at is not None else text
            state, shown_at = self._lines.get(name, ("", now))
            is_due = progress.state != state or now - shown_at >= LINE_S
            if is_due and progress.state not in ENDED:
                self._lines[name] = (progress.state, now)
                self.message(f"{name}: {text}")
            return
        if progress.state in ENDED or (progress.state == "queued" and self._count > MAX_BARS):
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task("", name=_shortened(name))
        is_known = is_bytes or progress.audio_ms > 0
        self._bars.update(
            self._tasks[name],
            description=text,
            total=1.0 if is_known else None,
            completed=progress.fraction,
            done_at=done_at,
        )

    def remaining(self, seconds: float | None) -> None:
        """Show the time until all files are done, counted down; None: unknown."""
        self._done_at = time.monotonic() + seconds if seconds else None
        if self._total is not None:
            self._bars.update(self._total, done_at=self._done_at)

    def note(self, text: str) -> None:
        """Show a line about what all files wait for; "": nothing."""
        now = time.monotonic()
        if not self._console.is_terminal:
            shown, shown_at = self._lines.get("", ("", -LINE_S))
            if text and (not shown or now - shown_at >= LINE_S):
                self._lines[""] = (text, now)
                self.message(text)
            return
        if self._note is None and text:
            self._note = self._bars.add_task("", name=text, total=None)
        elif self._note is not None and text:
            self._bars.update(self._note, name=text)
        elif self._note is not None:
            self._bars.remove_task(self._note)
            self._note = None

    def submitted(self, name: str, text: str, *, is_last: bool) -> None:
        """Show that a file is submitted; `is_last`: nothing more is shown about it."""
        if is_last:
            self.end(name, text)
        elif not self._console.is_terminal:
            self.message(f"{name}: {text}")
        elif name in self._tasks:
            self._bars.update(self._tasks[name], description=text)

    def end(self, name: str, text: str) -> None:
        """Show the result of a file instead of its bar."""
        self._ended += 1
        if (task := self._tasks.pop(name, None)) is not None:
            self._bars.remove_task(task)
        if self._total is not None:
            self._bars.update(
                self._total, completed=float(self._ended), name=f"{self._ended} of {self._count} files"
            )
        self.message(f"{name}: {text}")

    def out(self, line: str) -> None:
        """Print a line on standard output; above the bars if both use one terminal."""
        if self._is_shared:
            self._console.print(Text(line), soft_wrap=True)
        else:
            click.echo(line)

    def message(self, text: str) -> None:
        """Print a message on standard error, above the bars."""
        self._console.print(Text(text), soft_wrap=True)


def time_left_text(seconds: float) -> str:
    """Return an estimate of a duration in words, no more exact than it is."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute left"
    hours, rest = divmod(minutes, 60)
    return f"about {hours} h {rest:02} min left" if hours else f"about {minutes} min left"


def description(progress: Progress, per_s: float) -> str:
    """Return the progress in words; `per_s` is the speed in bytes or segments, 0 if unknown."""
    match progress.state:
        case "hashing":
            return f"hashing, {progress.fraction:.0%}"
        case "receiving":
            left = progress.size_bytes - progress.uploaded_bytes
            speed = f", {megabytes(int(per_s))}/s, {clock(left / per_s)} left" if per_s > 0 and left else ""
            return (
                f"uploading, {megabytes(progress.uploaded_bytes)} of {megabytes(progress.size_bytes)}{speed}"
            )
        case "queued":
            return "queued"
        case "preparing":
            return f"reading, {clock(progress.decoded_ms / 1000)} so far{_segments(progress)}"
        case "transcribing":
            left = progress.segments_total - progress.segments_done
            rest = f", {clock(left / per_s)} left" if per_s > 0 and left else ""
            return f"transcribing {clock(progress.audio_ms / 1000)}{_segments(progress)}{rest}"
        case state:
            return state


def megabytes(size: int) -> str:
    """Return a number of bytes as text: 12.3 MB."""
    return (
        f"{size / 1e9:.2f} GB"
        if size >= 1e9
        else f"{size / 1e6:.1f} MB"
        if size >= 1e5
        else f"{size / 1e3:.1f} kB"
    )


def clock(seconds: float) -> str:
    """Return a duration as text: 1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _segments(progress: Progress) -> str:
    return (
        f", {progress.segments_done} of {progress.segments_total} segments" if progress.segments_total else ""
    )


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 13]}…{name[-12:]}"
