"""Translations on the real path: processes, SQLite and the bundled translation model."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import media
from daemon import ENDED, Daemon, InboxFolder, eventually, worker_processes
from subtitle import EditedCue, JobFacts, JobOptions, ServerError
from subtitled.config import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

CHINESE = re.compile("[\u4e00-\u9fff]")
SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Good morning and welcome.</i>

2
00:00:03,000 --> 00:00:06,000
The old bridge is closed
on Tuesday.
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Yield a daemon with the bundled models, whose inbox is translated into Chinese."""
    inbox = InboxFolder(options={"translate_to": ("zh-CN",), "formats": ("srt",)})
    models = (schema.NamedModelConfig(name="translation", source="demo-translation"),)
    with Daemon(tmp_path_factory.mktemp("daemon"), inboxes=(inbox,), models=models) as started:
        yield started.start()


def speech(folder: Path, name: str, seconds: float = 8) -> Path:
    """Write the beginning of the English recording."""
    return media.write_sound(folder / name, media.speech(seconds))


def done(daemon: Daemon, job: str) -> JobFacts:
    """Wait until a job has ended; return it."""

    def ended() -> JobFacts | None:
        facts = daemon.client.status(job)
        return facts if facts.state in ENDED else None

    facts = eventually(ended, f"job {job} ends")
    assert facts.state == "done", facts
    return facts


def submit(daemon: Daemon, path: Path, *targets: str) -> JobFacts:
    """Submit a file; return its job once it is done."""
    return done(daemon, daemon.client.submit(path, options=JobOptions(translate_to=targets)).id)


def rows(daemon: Daemon, job: str) -> dict[str, tuple[str, str]]:
    """Return problem and translation of each stored sentence of a job, by its source."""
    found = daemon.query("SELECT source, problem, text FROM translations WHERE job = ?", job)
    return {source: (problem, text) for source, problem, text in found}


def test_file_of_an_inbox_gets_subtitles_in_both_languages(daemon: Daemon, tmp_path: Path) -> None:
    source = daemon.drop(speech(tmp_path, "talk.flac"), "talk.flac")
    job = daemon.wait_for(source)
    assert job.state == "done"
    names = {Path(path).name for path in daemon.client.status(job.id).outputs}
    assert names == {"talk.en.srt", "talk.zh-CN.srt"}
    assert not CHINESE.search((daemon.outbox / "talk.en.srt").read_text("utf-8"))
    assert CHINESE.search((daemon.outbox / "talk.zh-CN.srt").read_text("utf-8"))
    [facts] = job.translations
    assert (facts.language, facts.done, facts.untranslated) == ("zh-CN", facts.sentences, 0)
    assert facts.sentences == len(rows(daemon, job.id)) > 0
    steps = [entry.after for entry in daemon.journal() if entry.job == job.id and entry.subject == "job"]
    assert steps[-3:] == ["writing", "translating", "done"]


def test_language_is_added_to_a_job_and_an_edit_translates_what_it_changed(
    daemon: Daemon, tmp_path: Path
) -> None:
    job = submit(daemon, speech(tmp_path, "later.flac"))
    assert not job.translations
    daemon.client.translate(job.id, ["zh"])
    first = rows(daemon, done(daemon, job.id).id)
    assert len(first) >= 2
    cues = [
        EditedCue(start_ms=0, end_ms=1900, lines=("The library opens at ten on Wednesday.",)),
        EditedCue(start_ms=4000, end_ms=6900, lines=("It is eight in the morning and the market is quiet.",)),
    ]
    daemon.client.save_cues(job.id, cues, version=0)
    eventually(lambda: "The library opens at ten on Wednesday." in rows(daemon, job.id), "the new sentence")
    done(daemon, job.id)
    second = rows(daemon, job.id)
    assert second.keys() == {line for cue in cues for line in cue.lines}
    sent = [line["sentences"] for line in daemon.log("text.translated") if line["job"] == job.id]
    kept = len(first.keys() & second.keys())
    assert sent == [len(first), len(second) - kept]


def test_subtitle_file_is_translated_without_audio(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "film.srt"
    path.write_text(SRT, "utf-8")
    job = submit(daemon, path, "zh")
    assert (job.language, job.audio_ms) == ("en", 0)
    assert rows(daemon, job.id).keys() == {
        "Good morning and welcome.",
        "The old bridge is closed on Tuesday.",
    }
    body = daemon.client.fetch(job.id, "srt", language="zh")[1].decode()
    assert CHINESE.search(body)
    assert body.startswith("1\n00:00:01,000 --> ")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("1\n00:00:01,000 --> 00:00:02,000\nKv\n", "the language of the subtitles is not certain"),
        ("no cues at all", "the file has no cues"),
    ],
)
def test_subtitle_file_without_cues_or_language_fails_with_the_reason(
    daemon: Daemon, tmp_path: Path, text: str, cause: str
) -> None:
    path = tmp_path / "bad.srt"
    path.write_text(text, "utf-8")
    job = daemon.client.submit(path, options=JobOptions(translate_to=("zh",))).id
    facts = eventually(
        lambda: next((f for f in [daemon.client.status(job)] if f.state == "failed"), None), "it fails"
    )
    assert cause in facts.cause


def test_language_that_no_model_covers_is_refused_with_the_remedy(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r'translates to "ja".*\[\[models\]\]'):
        daemon.client.submit(speech(tmp_path, "no.flac", 2), options=JobOptions(translate_to=("ja",)))


def test_translation_continues_after_the_daemon_is_killed(daemon: Daemon, tmp_path: Path) -> None:
    worker = next(pid for pid, its in worker_processes(daemon.pid).items() if its["role"] == "transcribe")
    path = tmp_path / "killed.srt"
    path.write_text(SRT.replace("Tuesday", "Sunday"), "utf-8")  # the same content would be the same job
    os.kill(worker, signal.SIGSTOP)
    job = daemon.client.submit(path, options=JobOptions(translate_to=("zh",))).id
    eventually(lambda: daemon.client.status(job).state == "translating", "it is translated")
    daemon.kill()
    daemon.start()
    assert len(rows(daemon, done(daemon, job).id)) == 2
