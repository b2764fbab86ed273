"""A job as the client sees it, for tests of the client."""

from __future__ import annotations

from subtitle import messages as ms

FACTS = ms.JobFacts(
    id="job",
    state="queued",
    source="talk.wav",
    language=None,
    task="transcribe",
    created_ms=0,
    started_ms=None,
    ended_ms=None,
    cause="",
    audio_ms=0,
)
"""One that was just accepted; `msgspec.structs.replace` makes others of it."""
