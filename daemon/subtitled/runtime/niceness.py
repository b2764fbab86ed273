"""Whom the kernel prefers where processors are few: the daemon, before its children."""

from __future__ import annotations

import os

NICENESS = 5
"""Of the children (nice(1)): against each of them the daemon has three times its share."""


def give_way() -> None:
    """Have the kernel prefer the daemon to this process, its child.

    The daemon needs little of a processor, and needs it at once: everybody waits for it. Who decodes, computes or lays out
    for seconds does not mind.
    """
    os.nice(NICENESS)
