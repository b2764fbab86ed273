#!/usr/bin/env python3
"""Submit one media file, show its progress, and save the subtitles beside it.

python transcribe.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

import subtitle


def show(progress: subtitle.Progress) -> None:
    """Print one line whenever the progress changes."""
    print(f"{progress.state}: {progress.fraction:.0%}")


def main(path: Path) -> int:
    """Transcribe one file; return an exit status."""
    with subtitle.Client() as client:
        job = client.submit(path, formats=("srt", "vtt"))
        try:
            facts = job.wait(timeout_s=3600, on_progress=show)
        except subtitle.JobFailedError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
        print(f"language: {facts.language}")
        for saved in job.save(path.parent):
            print(saved)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
