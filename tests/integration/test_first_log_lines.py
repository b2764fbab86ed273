"""What the log, metrics and page say about the first files: where to drop them, where the subtitles are, what is no alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2 as httpx

import media
from daemon import Daemon, eventually, free_port
from subtitled.config import schema

if TYPE_CHECKING:
    from pathlib import Path


def test_log_names_page_inbox_and_outputs_and_a_text_file_is_no_alarm(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    with Daemon(tmp_path, http=schema.HttpConfig(listen=listen)) as daemon:
        daemon.start()
        ready = daemon.wait_for_log("daemon.ready")
        assert ready["page"] == f"http://{listen}/"
        assert ready["next"] == f"drop files into {daemon.inbox}"

        talk = daemon.drop(media.write_sound(tmp_path / "talk.flac", media.speech(4)), "talk.flac")
        done = daemon.wait_for(talk)
        entry = daemon.wait_for_log("job.done")
        assert sorted(entry["outputs"]) == [
            str(daemon.outbox / f"talk.en.{form}") for form in ("json", "srt")
        ]
        assert 0 < entry["wall_s"] <= ((done.ended_ms or 0) - (done.started_ms or 0)) / 1000 + 0.01

        text = tmp_path / "notes.mp4"
        text.write_text("not media\n")
        failed = daemon.wait_for(daemon.drop(text, "notes.mp4"))
        assert failed.state == "failed"
        assert daemon.wait_for_log("job.failed")["level"] == "warning"
        figures = daemon.scrape()
        assert figures['subtitled_jobs_total{event="rejected"}'] == 1
        assert 'subtitled_jobs_total{event="failed"}' not in figures
        assert httpx.get(f"http://{daemon.metrics}/healthz").status_code == 200

        def is_shown() -> bool:
            try:
                page = httpx.get(f"http://{listen}/").text
            except httpx.TransportError:
                return False  # the gateway starts beside the daemon
            return "notes.mp4" in page and "Everything is running" in page

        eventually(is_shown, "the page lists the file and reports no problem")
        daemon.stop()
