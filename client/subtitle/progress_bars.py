"""Shows the progress of several files: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from subtitle.progress import ENDED, Progress

LINE_S = 10.0
"""Interval of plain lines about one file, unless its state changes."""
RATE_S = 10.0
"""Averaging time of speeds."""
NAME_WIDTH = 32


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


class DisplayedProgress:
    """Shows the progress of several files on standard error; a context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._console = console
        self._bars = Bars(
            TextColumn("{task.fields[name]}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24),
            TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            disable=not console.is_terminal,
            redirect_stdout=False,  # rich would write it to standard error
            redirect_stderr=False,
        )
        self._is_held = console.is_terminal and sys.stdout.isatty()
        self._held: list[str] = []
        self._tasks: dict[str, TaskID] = {}
        self._rates: dict[tuple[str, str], TransferRate] = {}
        self._lines: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        for line in self._held:
            click.echo(line)
        self._held.clear()

    def update(self, name: str, progress: Progress) -> None:
        """Show the progress of a file."""
        now = time.monotonic()
        is_bytes = progress.state in {"hashing", "receiving"}
        value = progress.hashed_bytes if progress.state == "hashing" else progress.uploaded_bytes
        rate = self._rates.setdefault((name, "bytes" if is_bytes else "segments"), TransferRate())
        per_s = rate.add(value if is_bytes else progress.segments_done, now)
        text = description(progress, per_s)
        if not self._console.is_terminal:
            state, shown_at = self._lines.get(name, ("", now))
            is_due = progress.state != state or now - shown_at >= LINE_S
            if is_due and progress.state not in ENDED:
                self._lines[name] = (progress.state, now)
                self.say(f"{name}: {text}")
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task("", name=_shortened(name))
        is_known = is_bytes or progress.state in ENDED or progress.audio_ms > 0
        self._bars.update(
            self._tasks[name],
            description=text,
            total=1.0 if is_known else None,
            completed=progress.fraction if progress.state not in ENDED else 1.0,
        )

    def end(self, name: str, text: str) -> None:
        """Show the result of a file."""
        if name in self._tasks:
            self._bars.update(self._tasks[name], description=text, total=1.0, completed=1.0)
        elif not self._console.is_terminal:
            self.say(f"{name}: {text}")

    def out(self, line: str) -> None:
        """Print a line on standard output: now, or after the bars if both use one terminal."""
        if self._is_held:
            self._held.append(line)
        else:
            click.echo(line)

    def say(self, text: str) -> None:
        """Print a message on standard error, above the bars."""
        self._console.print(Text(text), soft_wrap=True)


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
