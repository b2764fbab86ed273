"""One reading of a file gives subtitles in its own language and in English."""

from __future__ import annotations

import html
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx2 as httpx
import pytest

import media
from daemon import Daemon, InboxFolder, eventually
from gateway_process import GatewayProcess
from subtitle import EditedCue, ServerError

WAIT_S = 120.0


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
        # Each language is edited apart, and its file is written again; the translation of English is the text itself.
        spoken = (daemon.outbox / "talk.zh.srt").read_bytes()
        cues = [EditedCue(start_ms=0, end_ms=900, lines=("by hand",))]
        daemon.client.save_cues(job.id, cues, version=0, task="translate")
        eventually(
            lambda: b"by hand" in (daemon.outbox / "talk.en.srt").read_bytes(), "the translation is written"
        )
        assert daemon.client.fetch(job.id)[1] == spoken == (daemon.outbox / "talk.zh.srt").read_bytes()
        # Each has its own versions, and one of them has no version 1.
        subtitle = str(Path(sys.executable).with_name("subtitle"))
        command = [subtitle, "fetch", job.id, "--server", daemon.endpoint, "--version", "1"]
        command += ["-o", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=False)
        assert (done.returncode, b"--task transcribe or --task translate" in done.stderr) == (2, True)
        done = subprocess.run(
            [*command, "--task", "translate"], capture_output=True, timeout=WAIT_S, check=True
        )
        assert done.stdout.count(b"talk.en.") == 2
        same = daemon.job_of(english)
        assert same is not None
        daemon.client.save_cues(same.id, cues, version=0, task="translate")
        assert b"by hand" in daemon.client.fetch(same.id)[1]
        eventually(lambda: b"by hand" in (daemon.outbox / "english.en.srt").read_bytes(), "so is the text")
        daemon.stop()


def test_submitted_file_gets_both_languages_with_flags_from_one_reading(tmp_path: Path) -> None:
    talk = shutil.copy(media.DEMO / "demo-zh.flac", tmp_path / "talk.flac")
    folder = tmp_path / "daemon"
    folder.mkdir()
    with (
        Daemon(folder) as daemon,
        GatewayProcess(daemon.start(), tmp_path) as gateway,
    ):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import subtitle.cli; subtitle.cli.main()",
                *("submit", talk, "--wait", "--language", "zh-Hant"),
                *("--tasks", "translate,transcribe", "--flags", "forced,sdh"),
            ],
            env={**os.environ, "SUBTITLE_SERVER": daemon.endpoint},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        saved = [Path(line) for line in done.stdout.splitlines()]
        assert [path.name for path in saved] == ["talk.zh.sdh.forced.srt", "talk.en.sdh.forced.srt"]
        spoken, translated = (path.read_text("utf-8") for path in saved)
        assert spoken != translated
        assert "歡迎" in spoken
        (job,) = daemon.client.list()
        assert job.tasks == ("transcribe", "translate")
        entries = [entry for entry in daemon.journal() if entry.job == job.id]
        assert sum(entry.after == "preparing" for entry in entries) == 1

        assert daemon.client.fetch(job.id)[1].decode() == spoken
        assert daemon.client.fetch(job.id, task="translate") == (saved[1].name, translated.encode())
        assert daemon.client.job(job.id).text("srt", task="translate") == translated
        paths = daemon.client.job(job.id).save(folder)
        assert [path.name for path in paths] == [path.name for path in saved]
        with httpx.Client(base_url=gateway.url, timeout=WAIT_S) as http:
            address = f"/api/jobs/{job.id}/result?format=srt"
            assert http.get(address).text == spoken
            assert http.get(f"{address}&task=translate").text == translated
            assert http.get(f"{address}&task=summarize").json()["param"] == "task"
            page = html.unescape(http.get(f"/jobs/{job.id}").text)
            assert f"{address}&task=translate" in page
            assert "Translation into English" in page
            selected = http.post("/download", data={"job": job.id, "format": "srt"}).content
            assert sorted(zipfile.ZipFile(io.BytesIO(selected)).namelist()) == sorted(p.name for p in saved)

            with (media.DEMO / "demo.flac").open("rb") as file:
                form = {"tasks": "transcribe,translate", "chinese": "off", "flags": ["sdh"]}
                other = http.post("/api/jobs", data=form, files={"file": ("english.flac", file)}).json()
        english = daemon.client.job(other["id"])
        assert english.wait(WAIT_S).tasks == ("transcribe", "translate")
        # The translation of English is the same file.
        assert [path.name for path in english.save(tmp_path)] == ["english.en.sdh.srt"]
        single = daemon.client.submit(talk)
        single.wait(WAIT_S)
        with pytest.raises(ServerError, match='has "transcribe" only'):
            daemon.client.fetch(single.id, task="translate")
        daemon.stop()
