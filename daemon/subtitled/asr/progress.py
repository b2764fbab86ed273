"""Progress of a running transcription: a function that is called after each call of the model, in the same thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_on_step: ContextVar[Callable[[], None] | None] = ContextVar("on_step", default=None)


@contextmanager
def steps_reported_to(on_step: Callable[[], None]) -> Iterator[None]:
    """Call `on_step` for each step in this context; what it raises ends the transcription."""
    token = _on_step.set(on_step)
    try:
        yield
    finally:
        _on_step.reset(token)


def report_step() -> None:
    """Report a finished call of the model; does nothing outside of `steps_reported_to`."""
    if (on_step := _on_step.get()) is not None:
        on_step()
