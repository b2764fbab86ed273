"""Whether a worker on another host may work here: its release, and the weights of its model."""

from __future__ import annotations

from subtitled.core.protocol import PROTOCOL, JoinSession
from subtitled.version import VERSION


def why_not_to_join(join: JoinSession) -> str:
    """Return why a worker is of no use to this daemon, and what to do; "" if it is welcome."""
    if join.version != VERSION:
        return (
            f"is of version {join.version}, the daemon of {VERSION}; install the same release on both hosts"
        )
    if join.protocol != PROTOCOL:
        return (
            f"speaks protocol {join.protocol}, the daemon {PROTOCOL}; install the same release on both hosts"
        )
    return ""


class ModelWeightsCheck:
    """The weights that all workers must have: those of the configuration, of a worker on this host, or of the first to come."""

    def __init__(self, pin: str) -> None:
        """`pin`: their SHA-256 as configured; "" where it is not."""
        self._pin = pin
        self._held: dict[str, str] = {}
        """SHA-256 by worker, in the order in which they came; those of this host first."""

    def why_not(self, worker: str, digest: str, *, is_remote: bool) -> str:
        """Return why a worker with these weights may not work here; "" if it may, and is remembered until `forget`."""
        if not digest:
            return "does not tell the SHA-256 of its model" if is_remote else ""
        owner, wanted = self._wanted(is_remote=is_remote)
        if wanted not in {"", digest}:
            return (
                f"has a model with the SHA-256 {digest}, and {owner} {wanted}; give it the same model.bin "
                "(--model FOLDER there), or set model.digest to the right one"
            )
        slot = worker.rpartition(".")[0]
        others = {other: held for other, held in self._held.items() if other.rpartition(".")[0] != slot}
        self._held = {**others, worker: digest} if is_remote else {worker: digest, **others}
        return ""

    def forget(self, worker: str) -> None:
        """Note that a worker is gone; nothing happens if it was not known."""
        self._held.pop(worker, None)

    def _wanted(self, *, is_remote: bool) -> tuple[str, str]:
        """Return who says so, and the SHA-256; "" where anything will do."""
        if self._pin:
            return "model.digest is", self._pin
        if not is_remote or not self._held:
            # What this host has goes before what others bring; they are looked at again.
            return "", ""
        first = next(iter(self._held))
        return f"{first.rpartition('.')[0]} has", self._held[first]
