"""The client of `subtitled`: submit a media file, wait for its job, fetch its subtitles.

    with subtitle.Client("tcp://gpu.example:5570", key="alice.key.toml") as client:
        job = client.submit("talk.mp4", language="en", formats=("srt", "vtt"))
        job.wait(timeout_s=3600)
        job.save("subtitles/")

`subtitle.aio.AsyncClient` has the same methods for asyncio.
"""

from subtitle.client import Client, JobHandle
from subtitle.errors import (
    FileChangedError,
    JobFailedError,
    KeyFileError,
    OptionError,
    ProtocolError,
    ServerError,
    SubtitleError,
    UnreachableError,
    WaitTimeoutError,
)
from subtitle.keys import Key
from subtitle.messages import (
    CueVersion,
    EditedCue,
    Event,
    JobFacts,
    JobOptions,
    LayoutOptions,
    StatsInfo,
    VadOptions,
    Welcome,
    WorkerFacts,
)
from subtitle.progress import Progress

__all__ = [
    "Client",
    "CueVersion",
    "EditedCue",
    "Event",
    "FileChangedError",
    "JobFacts",
    "JobFailedError",
    "JobHandle",
    "JobOptions",
    "Key",
    "KeyFileError",
    "LayoutOptions",
    "OptionError",
    "Progress",
    "ProtocolError",
    "ServerError",
    "StatsInfo",
    "SubtitleError",
    "UnreachableError",
    "VadOptions",
    "WaitTimeoutError",
    "Welcome",
    "WorkerFacts",
]
