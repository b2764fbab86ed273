#!/usr/bin/env python3
"""Submit all media files of a folder at once, and save the subtitles of each as it is done.

python transcribe_folder.py FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import subtitle.aio

SUFFIXES = {".flac", ".m4a", ".mkv", ".mov", ".mp3", ".mp4", ".ogg", ".wav", ".webm"}


async def transcribe(client: subtitle.aio.AsyncClient, path: Path) -> bool:
    """Transcribe one file; return whether it is done."""
    try:
        job = await client.submit(path, formats=("srt",))
        await job.wait(timeout_s=3600)
        saved = await job.save(path.parent)
    except subtitle.SubtitleError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return False
    print(f"{path}: {saved[0].name}")
    return True


async def main(paths: list[Path]) -> int:
    """Transcribe files; return an exit status."""
    async with subtitle.aio.AsyncClient() as client:
        done = await asyncio.gather(*(transcribe(client, path) for path in paths))
    return 0 if all(done) else 1


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    sys.exit(asyncio.run(main(found)))
