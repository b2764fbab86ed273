"""Long fuzzing run: `python tests/fuzz/fuzz.py [FRAMES] [SEED]`, or `make fuzz`.

Seeds count up from SEED, each with its own fuzzer and RUN_FRAMES frames. The seed of a failure is printed; the same
command with 1 frame and that seed reproduces it.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

from api_fuzzer import ApiFuzzer

from subtitled.api.connection_limits import resident_bytes

RUN_FRAMES = 50_000
MAX_FINDINGS = 3


def memory() -> str | None:
    """Return a folder in memory if one exists: on a disk, fsync would take nearly all the time."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a fresh folder is made in it


def main(argv: list[str]) -> int:
    """Run from the command line; return exit status 1 if an invariant was violated."""
    wanted = int(argv[0]) if argv else 1_000_000
    seed = int(argv[1]) if len(argv) > 1 else 0
    frames = messages = answers = findings = 0
    started = time.perf_counter()
    while frames < wanted and findings < MAX_FINDINGS:
        with (
            tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory()) as folder,
            ApiFuzzer(Path(folder), seed) as fuzzer,
        ):
            try:
                fuzzer.run(min(wanted, RUN_FRAMES))
                fuzzer.settle()
            except Exception:  # noqa: BLE001 - every exception is a finding
                findings += 1
                print(f"seed {seed}, after {fuzzer.messages} messages:\n{traceback.format_exc()}")
            frames, messages, answers = (
                frames + fuzzer.frames,
                messages + fuzzer.messages,
                answers + fuzzer.answers,
            )
        seed += 1
    took_s = time.perf_counter() - started
    print(
        f"{frames} frames in {messages} messages, {answers} answers, {took_s:.0f} s: {frames / took_s:.0f} frames/s; "
        f"{resident_bytes() / 1e6:.0f} MB at the end; findings: {findings}"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
