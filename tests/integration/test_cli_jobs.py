"""The daily commands: jobs by id, prefix, file name, tag and state; tables, sentences, completion, no daemon."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import media
from commands import run_command
from daemon import Daemon, InboxFolder, eventually
from subtitle.tables import elided
from subtitled.config import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 60


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return a daemon without transcribers, so that jobs stay where they are."""
    folder = tmp_path_factory.mktemp("daily")
    with Daemon(
        folder,
        inboxes=(InboxFolder(),),
        model=schema.ModelConfig(name="demo", cpu_threads=1),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
    ) as started:
        yield started.start()


def subtitle(daemon: Daemon, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a `subtitle` command."""
    environ = {"SUBTITLE_SERVER": daemon.endpoint, "COLUMNS": "80", **more}
    return run_command("subtitle", *words, environ=environ)


def on_terminal(daemon: Daemon, *words: str, columns: int = 80) -> list[str]:
    """Return the lines that a command shows on a terminal of this width."""
    main, side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "import subtitle.cli; subtitle.cli.main()", *words],
        env={**os.environ, "SUBTITLE_SERVER": daemon.endpoint, "COLUMNS": str(columns), "TERM": "dumb"},
        stdin=side,
        stdout=side,
        stderr=side,
    ) as process:
        os.close(side)
        output = b""
        try:
            while data := os.read(main, 65_536):
                output += data
        except OSError:
            pass  # the other end is closed
        process.wait(WAIT_S)
    os.close(main)
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).splitlines()


def submitted(daemon: Daemon, folder: Path, *names: str, tag: str = "") -> list[str]:
    """Submit files that are not media, wait until their jobs have failed, and return the ids."""
    ids = []
    for name in names:
        path = folder / name
        path.write_bytes(b"not media " + os.urandom(16))
        job = daemon.client.submit(path, tag=tag)
        eventually(lambda job=job: daemon.is_closed(job.id), "the job has failed and is closed")  # type: ignore[misc]
        ids.append(job.id)
    return ids


def ids(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines()]


def test_jobs_are_chosen_by_id_prefix_and_file_name(daemon: Daemon, tmp_path: Path) -> None:
    first, second, third = submitted(daemon, tmp_path, "one.mp4", "two.mp4", "a b.mp4")
    # Ids of one run share their first digits; the last make them unique.
    found = subtitle(daemon, "retry", first, second[:15], "a b.mp4")
    assert (found.returncode, ids(found.stdout)) == (0, [first, second, third]), found.stderr
    assert found.stdout.splitlines()[2].endswith("a b.mp4")
    eventually(lambda: all(map(daemon.is_closed, (first, second, third))), "they have failed again")
    found = subtitle(daemon, "dismiss", first, "two.mp4")
    assert (found.returncode, found.stdout.splitlines()[1]) == (0, f"{second} dismissed two.mp4"), (
        found.stderr
    )
    assert {job.id for job in daemon.jobs() if job.is_dismissed} == {first, second}
    listed = subtitle(daemon, "list", "two.mp4", str(tmp_path / "one.mp4"), "--json")
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == [second, first]
    assert json.loads(subtitle(daemon, "status", "two.mp4", "--json").stdout)["id"] == second
    ambiguous = subtitle(daemon, "status", first[:6])
    assert ambiguous.returncode == 2
    assert "is the start of" in ambiguous.stderr
    unknown = subtitle(daemon, "status", "nothing.mp4")
    assert unknown.returncode == 2
    assert "'nothing.mp4': no job has this id or file name; see `subtitle list`" in unknown.stderr


def test_jobs_are_chosen_by_tag_and_all(daemon: Daemon, tmp_path: Path) -> None:
    tagged = submitted(daemon, tmp_path, "x.mp4", "y.mp4", tag="monday")
    (other,) = submitted(daemon, tmp_path, "z.mp4")
    assert sorted(ids(subtitle(daemon, "retry", "--tag", "monday").stdout)) == sorted(tagged)
    for job in tagged:
        eventually(lambda job=job: daemon.client.status(job).state == "failed", "failed")  # type: ignore[misc]
    assert sorted(ids(subtitle(daemon, "list", "--tag", "monday").stdout)[1:]) == sorted(tagged)
    deleted: list[str] = []

    def delete_all() -> bool:
        done = subtitle(daemon, "delete", "--tag", "monday")
        assert done.returncode == 0 or "its files are being written; try again" in done.stderr, done.stderr
        deleted.extend(ids(done.stdout))
        return done.returncode == 0

    eventually(delete_all, "deleted")
    assert sorted(deleted) == sorted(tagged)
    assert subtitle(daemon, "list", "--tag", "monday", "--json").stdout == ""
    assert other in ids(subtitle(daemon, "delete", "--all").stdout)
    assert subtitle(daemon, "list", "--json").stdout == ""
    for words in (("cancel",), ("cancel", "x.mp4", "--all"), ("retry", "x.mp4", "--tag", "t")):
        assert subtitle(daemon, *words).returncode == 2


def test_lists_are_filtered_and_sorted(daemon: Daemon, tmp_path: Path) -> None:
    first, second = submitted(daemon, tmp_path, "b.mp4", "a.mp4", tag="sorted")
    for words, expected in (
        (("--sort", "name"), [second, first]),
        (("--sort", "oldest"), [first, second]),
        (("--model", "demo", "--all"), [second, first]),
        (("--unheard",), []),
        (("--damaged", "--language", "ja"), []),
        (("--inbox", "/nowhere"), []),
    ):
        found = subtitle(daemon, "list", "--tag", "sorted", "--json", *words)
        assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == expected, words
    assert subtitle(daemon, "list", first, "--unheard").returncode == 2
    assert subtitle(daemon, "list", first, "--sort", "newest").returncode == 2


def test_refused_job_does_not_stop_the_others_and_is_reported_in_words(
    daemon: Daemon, tmp_path: Path
) -> None:
    first, second = submitted(daemon, tmp_path, "p.mp4", "q.mp4")
    assert subtitle(daemon, "delete", first).returncode == 0
    found = subtitle(daemon, "cancel", second)
    assert found.returncode == 3
    assert found.stderr.startswith("subtitle: q.mp4: job ")
    assert "WRONG_STATE" not in found.stderr
    gone = subtitle(daemon, "status", first)
    assert gone.returncode == 3
    assert "NOT_FOUND" not in gone.stderr


def test_a_table_fits_the_terminal_and_elides_the_middle_of_names(daemon: Daemon, tmp_path: Path) -> None:
    name = "a very long name of a lecture with many words in it, part 12.mp4"
    submitted(daemon, tmp_path, name)
    lines = on_terminal(daemon, "list", columns=80)
    assert max(map(len, lines)) <= 80, lines
    (row,) = [line for line in lines if "…" in line]
    assert row.rstrip().endswith("12.mp4")
    assert re.search(r"CREATED \(\w+\)", lines[0]), "the zone of the times"
    piped = subtitle(daemon, "list")
    assert name in piped.stdout, "a program gets the whole name"


def test_elided_names_have_the_wanted_width() -> None:
    assert elided("short.mp4", 20) == "short.mp4"
    for width in range(8, 30):
        assert len(elided("a name that is too long.mp4", width)) == min(width, 27)
    assert elided("a name that is too long.mp4", 12) == "a name…g.mp4"


def test_watch_prints_sentences_with_file_names(daemon: Daemon, tmp_path: Path) -> None:
    path = media.write_sound(tmp_path / "life.flac", media.speech(4))
    job = daemon.client.submit(path)
    job.wait(WAIT_S)
    found = subtitle(daemon, "watch", job.id, "--since", "0")
    assert found.returncode == 0
    texts = [line.split("  ", 1)[1] for line in found.stdout.splitlines()]
    assert all(re.match(r"\d\d:\d\d:\d\d \w+  ", line) for line in found.stdout.splitlines())
    assert texts[0] == "life.flac: upload started"
    assert "life.flac: segment 0 transcribed" in texts
    assert texts[-1] == "life.flac: done"
    assert subtitle(daemon, "watch", "life.flac").stdout.endswith("life.flac: done\n")


def test_any_file_name_is_printed_in_any_locale(daemon: Daemon, tmp_path: Path) -> None:
    """In UTF-8 bytes that are not are printed as they are; what the locale lacks is a question mark."""
    names = [os.fsdecode(b"\xff\xfe.mp4"), "\u65e5\u672c.mp4"]
    (job, _) = submitted(daemon, tmp_path, *names)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for locale in ({"PYTHONUTF8": "1"}, ascii_only):
        found = subtitle(daemon, "list", **locale)
        assert found.returncode == 0, found.stderr
        assert job in found.stdout
        sent = subprocess.run(
            [sys.executable, "-c", "import subtitle.cli; subtitle.cli.main()", "submit", *names],
            cwd=tmp_path,
            env={**os.environ, "SUBTITLE_SERVER": daemon.endpoint, **locale},
            capture_output=True,
            timeout=WAIT_S,
            check=False,
        )
        assert sent.returncode == 0, sent.stderr
        assert (b"??.mp4" if locale is ascii_only else b"\xff\xfe.mp4") in sent.stdout


def test_unknown_names_are_reported_in_one_line(daemon: Daemon, tmp_path: Path) -> None:
    for words, text in (
        (("status", "nothing.mp4"), "'nothing.mp4': no job has this id or file name; see `subtitle list`"),
        (("submit", "nothing.mp4"), "nothing.mp4: no such file or folder"),
        (("submit", tmp_path), f"{tmp_path}: contains no media files"),
    ):
        found = subtitle(daemon, *words)
        assert (found.returncode, found.stdout, found.stderr) == (2, "", f"subtitle: {text}\n")


def test_options_are_checked_before_the_file_is_hashed(daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "big.mp4"
    path.write_bytes(os.urandom(9 * 2**20))
    for words in (
        ("--language", "klingon"),
        ("--format", "doc"),
        ("--max-chars", "8", "--gap-ms", "2000", "--chain-ms", "1"),
    ):
        found = subtitle(daemon, "submit", path, *words)
        assert found.returncode in {2, 3}
        assert "hashing" not in found.stderr
        assert found.stderr.startswith((f"{path.name}: not submitted", "subtitle: "))


def test_submit_takes_folders(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.mp4", "deep/a.mkv", "notes.txt", ".hidden.mp4"):
        (tmp_path / "in" / name).write_bytes(b"not media" + os.urandom(8))
    found = subtitle(daemon, "submit", tmp_path / "in")
    assert found.returncode == 0, found.stderr
    assert [line.rpartition("/")[2] for line in found.stdout.splitlines()] == ["b.mp4", "a.mkv"]


def test_completion_offers_ids_names_and_states(daemon: Daemon, tmp_path: Path) -> None:
    (job,) = submitted(daemon, tmp_path, "complete-me.mp4")

    def completed(*words: str) -> str:
        line = " ".join(("subtitle", *words))
        completing = {
            "_SUBTITLE_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
        }
        return subprocess.run(
            [Path(sys.executable).with_name("subtitle")],
            env={**os.environ, "SUBTITLE_SERVER": daemon.endpoint, **completing},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        ).stdout

    assert job in completed("cancel", job[:4])
    assert "complete-me.mp4" in completed("status", "complete")
    assert "failed" in completed("list", "--state", "fa")


def test_without_a_daemon_the_answer_says_how_to_start_one(daemon: Daemon, tmp_path: Path) -> None:
    found = subtitle(daemon, "list", SUBTITLE_SERVER=f"ipc://{tmp_path}/absent.sock")
    assert found.returncode == 3
    for part in (
        "no daemon listens at ",
        "`systemctl start subtitled`",
        "`subtitled transcribe FILE`",
        "--server",
    ):
        assert part in found.stderr
    refused = subtitle(daemon, "list", SUBTITLE_SERVER="tcp://127.0.0.1:1")
    assert refused.returncode == 3
    assert "no daemon listens at tcp://127.0.0.1:1; is the daemon running there?" in refused.stderr


def test_queue_is_paused_ordered_and_resumed(daemon: Daemon, tmp_path: Path) -> None:
    names = [f"{name}.mp4" for name in ("first", "second", "third")]
    for name in names:
        (tmp_path / name).write_bytes(b"not media " + os.urandom(16))
    try:
        assert subtitle(daemon, "pause").stdout == "paused\n"
        waiting = [daemon.client.submit(tmp_path / name).id for name in names]
        moved = subtitle(daemon, "move", "third.mp4", "--first")
        assert moved.stdout == f"{waiting[2]} position 1, priority 0 third.mp4\n"
        assert subtitle(daemon, "move", "third.mp4", "--first").stdout == moved.stdout
        assert "position 2" in subtitle(daemon, "move", waiting[1], "--after", "third.mp4").stdout
        assert "position 1, priority 5" in subtitle(daemon, "move", waiting[0], "--priority", "5").stdout
        shown = subtitle(daemon, "queue")
        rows = [line.split() for line in shown.stdout.splitlines()]
        assert rows[0] == ["POSITION", "JOB", "STATE", "PRIORITY", "MODEL", "FILE"]
        assert [(row[0], row[1], row[3]) for row in rows[1:]] == [
            ("1", waiting[0], "5"),
            ("2", waiting[2], "0"),
            ("3", waiting[1], "0"),
        ]
        assert shown.stderr == "the queue is paused; `subtitle resume` resumes it\n"
        listed = subtitle(daemon, "queue", "--json", "--limit", "1").stdout
        assert json.loads(listed)["id"] == waiting[0]
        for words in ((), ("--first", "--priority", "1"), ("--before", "nothing.mp4")):
            assert subtitle(daemon, "move", "first.mp4", *words).returncode == 2
        paused = subtitle(daemon, "admin", "log", "--text", "queue.paused", "--lines", "1").stdout
        assert paused.count("\n") == 1
        assert json.loads(paused)["by"] == "a client on the local socket"
    finally:
        assert subtitle(daemon, "resume").stdout == "running\n"
    for job in waiting:
        eventually(lambda job=job: daemon.is_closed(job), "the job is closed")  # type: ignore[misc]
    assert subtitle(daemon, "move", waiting[0], "--first").returncode == 3
