"""What the doctor says: findings, each fault with its remedy."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from subtitled.asr.cuda import Device
from subtitled.errors import SubtitledError

State = Literal["ok", "warning", "fault", "skipped"]


class Finding(Struct, frozen=True, kw_only=True, tag=True):
    """The outcome of one check."""

    name: str
    """What was checked: "gpu0 speed", "inbox /srv/subtitled/inbox"."""
    state: State
    """A warning is something to know; the daemon works all the same."""
    what: str
    """What was found, in one line."""
    remedy: str = ""
    """What to do about it, in one line; where that is a command, `type: COMMAND`."""


class ProbeStarted(Struct, frozen=True, kw_only=True, tag=True):
    """What a child process tries next: should it end or fall silent there, it is a fault of this name."""

    name: str
    remedy: str


class ChosenDevices(Struct, frozen=True, kw_only=True, tag=True):
    """The devices that the configuration asks for."""

    devices: tuple[Device, ...]


Said = Finding | ProbeStarted | ChosenDevices


def ok(name: str, what: str) -> Finding:
    """Return that all is well."""
    return Finding(name=name, state="ok", what=what)


def warning(name: str, what: str, remedy: str) -> Finding:
    """Return something to know."""
    return Finding(name=name, state="warning", what=what, remedy=remedy)


def fault(name: str, what: str, remedy: str) -> Finding:
    """Return what keeps the daemon from its work."""
    return Finding(name=name, state="fault", what=what, remedy=remedy)


def skipped(name: str, what: str) -> Finding:
    """Return that something could not be checked, and why."""
    return Finding(name=name, state="skipped", what=what)


def from_error(name: str, error: Exception, remedy: str) -> Finding:
    """Return the fault of an error; ours end in their own remedy, `remedy` is for the others."""
    text = " ".join(str(error).split()) or type(error).__name__
    what, separator, own = text.rpartition("; ")
    return (
        fault(name, what, own)
        if separator and isinstance(error, SubtitledError)
        else fault(name, text, remedy)
    )
