"""The programs of `examples/` run as they are, against a real daemon and gateway."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import media
from daemon import DEADLINE_S, Daemon, InboxFolder, eventually
from gateway_process import GatewayProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("examples")
    hook = [str(EXAMPLES / "on_done.sh"), str(folder / "done.tsv")]
    with Daemon(folder, inboxes=(InboxFolder(options={"on_done": hook}),)) as running:
        yield running.start()
        running.stop()


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    return media.write_sound(tmp_path / "talk.flac", media.recording("demo.flac")[: 8 * media.RATE])


def run(*command: str | Path, **environ: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_transcribe_saves_subtitles_beside_the_file(daemon: Daemon, talk: Path) -> None:
    printed = run(sys.executable, EXAMPLES / "transcribe.py", talk, SUBTITLE_SERVER=daemon.endpoint)
    assert "language: en" in printed
    assert " --> " in (talk.parent / "talk.en.srt").read_text("utf-8")
    assert (talk.parent / "talk.en.vtt").read_text("utf-8").startswith("WEBVTT")


def test_transcribe_folder_handles_all_files(daemon: Daemon, talk: Path) -> None:
    media.write_sound(talk.with_name("second.flac"), media.recording("demo.flac")[: 6 * media.RATE])
    printed = run(
        sys.executable, EXAMPLES / "transcribe_folder.py", talk.parent, SUBTITLE_SERVER=daemon.endpoint
    )
    assert len(printed.splitlines()) == 2
    assert {path.name for path in talk.parent.glob("*.srt")} == {"second.en.srt", "talk.en.srt"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_openai_api_prints_subtitles(daemon: Daemon, talk: Path, tmp_path: Path) -> None:
    with GatewayProcess(daemon, tmp_path / "gateway") as gateway:
        assert " --> " in run(EXAMPLES / "openai_api.sh", talk, SUBTITLE_HTTP=gateway.url)
        assert '"text"' in run(EXAMPLES / "openai_api.sh", talk, "json", SUBTITLE_HTTP=gateway.url)


def test_on_done_lists_the_finished_job(daemon: Daemon, talk: Path) -> None:
    source = daemon.drop(talk, "dropped.flac")
    job = daemon.wait_for(source)
    finished = daemon.folder / "done.tsv"
    eventually(lambda: finished.exists() and finished.read_text("utf-8").endswith("\n"), "the hook has run")
    assert finished.read_text("utf-8").split("\t")[:2] == [job.id, "en"]


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or f"[{path.name}]({path.name})" in listed, path.name
