"""One reading of a file gives subtitles in its own language and in English."""

from __future__ import annotations

from typing import TYPE_CHECKING

import media
from daemon import Daemon, InboxFolder

if TYPE_CHECKING:
    from pathlib import Path


def test_both_files_come_from_one_reading(tmp_path: Path) -> None:
    """The demo model was not taught to translate: what it says is not judged."""
    inbox = InboxFolder(options={"tasks": ("transcribe", "translate")})
    with Daemon(tmp_path, inboxes=(inbox,)) as daemon:
        chinese = daemon.drop(media.DEMO / "demo-zh.flac", "talk.flac")
        english = daemon.drop(media.write_sound(tmp_path / "english.flac", media.speech(8)), "english.flac")
        daemon.start()
        assert daemon.wait_for(chinese).state == "done"
        assert daemon.wait_for(english).state == "done"
        assert sorted(path.name for path in daemon.outbox.iterdir()) == [
            "english.en.json",
            "english.en.srt",
            "talk.en.json",
            "talk.en.srt",
            "talk.zh.json",
            "talk.zh.srt",
        ]
        said, translated = daemon.transcript("talk.zh"), daemon.transcript("talk.en")
        assert (said.task, said.output_language) == ("transcribe", "zh")
        assert (translated.task, translated.output_language) == ("translate", "en")
        assert [segment.pieces for segment in said.segments] == [
            segment.pieces for segment in translated.segments
        ]
        job = daemon.job_of(chinese)
        assert job is not None
        assert len(job.outputs) == 4
        entries = [entry for entry in daemon.journal() if entry.job == job.id]
        assert sum(entry.after == "preparing" for entry in entries) == 1
        assert sum(entry.subject == "segment" and entry.after == "done" for entry in entries) == len(
            said.segments
        )
        daemon.stop()
