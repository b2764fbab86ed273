"""The long form: `python tests/fuzz/fuzz.py [FRAMES] [SEED]`, or `make fuzz`; figures are in benchmarks/README.md.

Seeds are counted up from SEED; each has a house of its own for so many frames. One that breaks a promise is named, and lived
again by the same command with 1 and its number.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

from api_fuzzer import House

from subtitled.api.connection_limits import held_bytes

HOUSE_FRAMES = 50_000
MAX_FINDINGS = 3


def memory() -> str | None:
    """Return a folder in memory, where there is one: a disk's fsync would take nearly all the time."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a fresh folder is made in it


def main(argv: list[str]) -> int:
    """Run from the command line; exit status 1 when a promise was broken."""
    wanted = int(argv[0]) if argv else 1_000_000
    seed = int(argv[1]) if len(argv) > 1 else 0
    frames = messages = answers = findings = 0
    started = time.perf_counter()
    while frames < wanted and findings < MAX_FINDINGS:
        with (
            tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory()) as folder,
            House(Path(folder), seed) as house,
        ):
            try:
                house.run(min(wanted, HOUSE_FRAMES))
                house.settle()
            except Exception:  # noqa: BLE001 - whatever it is, it is a finding
                findings += 1
                print(f"seed {seed}, after {house.messages} messages:\n{traceback.format_exc()}")
            frames, messages, answers = (
                frames + house.frames,
                messages + house.messages,
                answers + house.answers,
            )
        seed += 1
    took_s = time.perf_counter() - started
    print(
        f"{frames} frames in {messages} messages, {answers} answers, {took_s:.0f} s: {frames / took_s:.0f} frames/s; "
        f"{held_bytes() / 1e6:.0f} MB in the end; findings: {findings}"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
