"""What is to go wrong, kept in a folder that a test and its processes share."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

ALWAYS = 1_000_000
"""As many times as a test can last."""


class ModelFault(Struct, frozen=True, kw_only=True, tag=True):
    """A call of the model goes wrong."""

    kind: Literal["cuda", "memory", "death", "hang", "wait", "model", "no_text"]
    """A broken CUDA context, no memory on the device, the end of the process by SIGSEGV, a call that never returns, a call
    that returns once other faults are set, a model that cannot be loaded, or (of "generate") results without text."""
    call: Literal["load", "encode", "generate", "align"] = "generate"
    is_marked: bool = False
    """Only with a marked segment in the batch."""
    min_batch: int = 1
    """Only with at least so many segments in the batch."""
    times: int = ALWAYS


class DiskFault(Struct, frozen=True, kw_only=True, tag=True):
    """A call on an open file or folder goes wrong, with this errno."""

    call: Literal["fsync", "write"]
    errno: int
    below: str
    """Only for what lies in this folder or is it."""
    is_folder: bool = False
    """Only for folders."""
    times: int = ALWAYS


class ModelCall(Struct, frozen=True, kw_only=True):
    """A call of the model that was made."""

    pid: int
    call: str
    batch: int
    is_marked: bool
    fault: str
    """What went wrong; empty if nothing did."""


class PlannedFaults:
    """The faults of one test; any process may ask, one that finds its fault used up gets none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def set(self, *faults: ModelFault | DiskFault) -> None:
        """Have these go wrong from now on, and nothing else; in running processes too."""
        (self.folder / "used").unlink(missing_ok=True)
        draft = self.folder / "draft"
        draft.write_bytes(msgspec.json.encode(faults))
        draft.rename(self.folder / "faults.json")

    def strike_model(self, call: str, batch: int, *, is_marked: bool) -> ModelFault | None:
        """Return what goes wrong with this call of the model, if anything, and note the call."""
        found = None
        for place, fault in enumerate(self._faults()):
            if (
                isinstance(fault, ModelFault)
                and fault.call == call
                and batch >= fault.min_batch
                and (is_marked or not fault.is_marked)
                and self._use(place, fault.times)
            ):
                found = fault
                break
        made = ModelCall(
            pid=os.getpid(), call=call, batch=batch, is_marked=is_marked, fault=found.kind if found else ""
        )
        self._append("calls", msgspec.json.encode(made))
        return found

    def wait_for_change(self, fault: ModelFault) -> None:
        """Return once this fault is not set any more."""
        while fault in self._faults():
            time.sleep(0.02)

    def strike_disk(self, call: str, path: str) -> DiskFault | None:
        """Return what goes wrong with this call on the file at `path`, if anything."""
        for place, fault in enumerate(self._faults()):
            if (
                isinstance(fault, DiskFault)
                and fault.call == call
                and (path == fault.below or path.startswith(fault.below + "/"))
                and (not fault.is_folder or Path(path).is_dir())
                and self._use(place, fault.times)
            ):
                return fault
        return None

    def calls(self, call: str = "generate") -> list[ModelCall]:
        """Return the calls of the model so far, oldest first."""
        try:
            lines = (self.folder / "calls").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [
            made
            for made in (msgspec.json.decode(line, type=ModelCall) for line in lines)
            if made.call == call
        ]

    def _faults(self) -> tuple[ModelFault | DiskFault, ...]:
        try:
            data = (self.folder / "faults.json").read_bytes()
        except FileNotFoundError:
            return ()
        return msgspec.json.decode(data, type=tuple[ModelFault | DiskFault, ...])

    def _use(self, place: int, times: int) -> bool:
        # Two processes that ask at once could both take the last one; tests that count have one process.
        try:
            used = (self.folder / "used").read_bytes().split().count(b"%d" % place)
        except FileNotFoundError:
            used = 0
        if used >= times:
            return False
        self._append("used", b"%d" % place)
        return True

    def _append(self, name: str, line: bytes) -> None:
        # One write of a line to a file opened for appending stays whole, whichever process writes.
        file = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line + b"\n")
        finally:
            os.close(file)
