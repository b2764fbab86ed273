"""`subtitled transcribe`: subtitles without a configured daemon, resumed after Ctrl-C, by a running daemon if there is one."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

import media
from commands import run_command
from daemon import Daemon, eventually
from subtitle import Client, SubtitleError
from subtitled.config import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 300


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state"


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "subtitled", "transcribe", *map(str, words)]


def environ(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(home), "COLUMNS": "200", "HF_HUB_OFFLINE": "1", **more}


def run(home: Path, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in a session of its own."""
    return subprocess.run(
        command(*words),
        env=environ(home, **more),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def start(home: Path, *words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words),
        env=environ(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def talk(path: Path, seconds: float = 8.0) -> Path:
    """Write a recording, by repetition if it is long."""
    pcm = media.speech(min(seconds, 50.0))
    soundfile.write(path, np.tile(pcm, max(1, int(seconds / 50))), media.RATE)
    return path


def private_clients(home: Path) -> Iterator[Client]:
    """Yield a client of the private daemon, if its configuration is written."""
    for file in home.glob("subtitled/transcribe/*/subtitled.toml"):
        with Client(tomllib.loads(file.read_text("utf-8"))["listen"]["clients"][0]) as client:
            yield client


def done_segments(home: Path) -> int:
    """Return how many segments are done in the private daemon."""
    with suppress(SubtitleError):
        for client in private_clients(home):
            return sum(job.segments.get("done", 0) for job in client.list())
    return 0


def test_files_and_folders_get_subtitles_beside_them_once(home: Path, tmp_path: Path) -> None:
    first = talk(tmp_path / "talk.wav")
    (tmp_path / "more" / "deep").mkdir(parents=True)
    second = talk(tmp_path / "more" / "deep" / "second talk.flac", 6)
    (tmp_path / "more" / "notes.txt").write_text("no media", "utf-8")
    done = run(home, first, tmp_path / "more", "--model", "demo", "--format", "srt,vtt")
    assert done.returncode == 0, done.stderr
    expected = [path.with_name(f"{path.stem}.en.{fmt}") for path in (first, second) for fmt in ("srt", "vtt")]
    assert sorted(done.stdout.splitlines()) == sorted(map(str, expected))
    assert all("-->" in path.read_text("utf-8") for path in expected)
    assert "second talk.flac: done, 0:06 in 0:" in done.stderr
    # Nothing of the daemon is left: no process, no socket.
    for client in private_clients(home):
        with pytest.raises(SubtitleError):
            client.ping()
    # A file that is done is not transcribed again.
    (tmp_path / "talk.en.srt").unlink()
    again = run(home, first, "--model", "demo", "--format", "srt,vtt")
    assert again.returncode == 0, again.stderr
    assert f"{tmp_path}/talk.en.srt" in again.stdout.splitlines()
    assert (tmp_path / "talk.en.srt").is_file()
    assert "transcribing" not in again.stderr


@pytest.mark.long
def test_after_an_interruption_the_same_command_resumes(home: Path, tmp_path: Path) -> None:
    """A file of another call comes between: its own job runs first, and the interrupted one keeps its segments."""
    long, short = talk(tmp_path / "long.wav", 3000), talk(tmp_path / "short.wav")
    process = start(home, short, long, "--model", "demo")
    eventually(
        lambda: done_segments(home) >= 3 and (tmp_path / "short.en.srt").exists(),
        "the short file and some segments are done",
        WAIT_S,
    )
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, stderr
    assert stdout == f"{tmp_path}/short.en.srt\n", "a finished file is saved"
    assert "interrupted; finished subtitles are saved; repeat the command to resume" in stderr
    between = run(home, talk(tmp_path / "other.wav", 5), "--model", "demo")
    assert between.stdout == f"{tmp_path}/other.en.srt\n"
    resumed = run(home, short, long, "--model", "demo")
    assert resumed.returncode == 0, resumed.stderr
    assert sorted(resumed.stdout.splitlines()) == [f"{tmp_path}/long.en.srt", f"{tmp_path}/short.en.srt"]
    counts = re.findall(r"long\.wav: .*?(\d+) of \d+ segments", resumed.stderr)
    assert int(counts[0]) >= 2, resumed.stderr


def test_an_interruption_before_the_daemon_is_ready_is_reported(home: Path, tmp_path: Path) -> None:
    process = start(home, talk(tmp_path / "talk.wav"), "--model", "demo")
    eventually(lambda: [*home.glob("subtitled/transcribe/*/subtitled.toml")], "the daemon is started", WAIT_S)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert "subtitled: interrupted; repeat the command to resume" in stderr


def test_a_file_that_fails_is_status_1_and_the_others_are_saved(home: Path, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.mp4", talk(tmp_path / "good.wav")
    bad.write_bytes(b"not media")
    done = run(home, bad, good, "--model", "demo", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, f"{tmp_path}/out/good.en.srt\n")
    assert f"subtitled: {bad}: failed: " in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.wav"], "missing.wav: no such file or folder"),
        (["{talk}", "--format", "doc"], "format 'doc' is not supported; use srt, "),
        (["{talk}", "--language", "klingon"], "language 'klingon' is not supported"),
        (["{talk}", "--max-chars", "3"], "layout.max_chars"),
        (["{talk}", "--model", "/nowhere/model"], "--model /nowhere/model: "),
        (["{talk}", "--model", "large-v3-turbo", "--translate"], "large-v3-turbo cannot translate"),
        (["{empty}"], "contains no media files"),
    ],
)
def test_wrong_usage_is_reported_before_anything_starts(
    home: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"talk": talk(tmp_path / "talk.wav", 1), "empty": tmp_path / "empty"}
    words = [word.format(**names) for word in words]
    # The last case as a process of its own.
    done = (
        run(home, *words)
        if words[0] == str(names["empty"])
        else run_command("subtitled", "transcribe", *words, environ=environ(home))
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert not home.exists()


def test_a_model_that_is_not_available_is_status_3_with_a_remedy(home: Path, tmp_path: Path) -> None:
    empty_hub = {"HF_HOME": str(tmp_path / "hub")}
    # As in a background job of a shell, which ignores SIGINT.
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = run(home, talk(tmp_path / "talk.wav", 1), "--model", "tiny", **empty_hub)
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert done.returncode == 3, done.stderr
    assert "interrupted" not in done.stderr
    assert "the model is not available: " in done.stderr
    assert "--model FOLDER" in done.stderr


def test_a_running_daemon_is_used_and_named_with_each_of_its_models(home: Path, tmp_path: Path) -> None:
    file = talk(tmp_path / "talk.wav")
    copy = schema.NamedModelConfig(name="copy", source=str(media.DEMO / "model"))
    (tmp_path / "daemon").mkdir()
    with Daemon(tmp_path / "daemon", models=(copy,)) as daemon:
        daemon.start()
        done = run(home, file, "--config", daemon.config_file)
        assert done.returncode == 0, done.stderr
        assert (
            f"Using the running daemon at {daemon.sockets}/clients.sock with the model demo." in done.stderr
        )
        assert done.stdout == f"{tmp_path}/talk.en.srt\n"
        (first,) = daemon.client.list()
        done = run(home, file, "--config", daemon.config_file, "--model", "copy")
        assert done.returncode == 0, done.stderr
        assert "with the model copy." in done.stderr
        (job,) = (job for job in daemon.client.list() if job.id != first.id)
        assert (job.model, job.model_reason) == ("copy", "requested")
    assert not home.exists()


@pytest.mark.long
def test_a_second_command_waits_for_the_first(home: Path, tmp_path: Path) -> None:
    file = talk(tmp_path / "talk.wav", 2)
    assert run(home, file, "--model", "demo").returncode == 0
    (lock,) = home.glob("subtitled/transcribe/*/lock")
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = start(home, file, "--model", "demo")
        assert second.stderr is not None
        assert "Waiting for another `subtitled transcribe`" in second.stderr.readline()
        assert second.poll() is None
    _, stderr = second.communicate(timeout=WAIT_S)
    assert second.returncode == 0, stderr


@pytest.mark.parametrize("name", ["talk.mp4", "folder"])
def test_file_in_place_of_a_command_gets_a_suggestion(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "subtitled", name, "--model", "base"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 2
    assert f"type: subtitled transcribe {name} --model base" in done.stderr
