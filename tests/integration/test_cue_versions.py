"""Edited cues are versions beside the model's: saved, restored, compared, fetched, and written to the outbox; nothing is overwritten."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

import media
from commands import run_binary
from daemon import Daemon, InboxFolder, eventually
from gateway_process import GatewayProcess
from subtitle import EditedCue
from subtitle.errors import ServerError
from subtitle.subtitle_files import parse_subtitles
from subtitled.storage.store import MAX_EDITS, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 120.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    inbox = InboxFolder(options={"word_timestamps": True, "formats": ["srt", "json"]})
    with Daemon(tmp_path_factory.mktemp("daemon"), inboxes=(inbox,)) as running:
        yield running.start()


@pytest.fixture(scope="module")
def http(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        GatewayProcess(daemon, tmp_path_factory.mktemp("gateway")) as gateway,
        httpx.Client(base_url=gateway.url, timeout=WAIT_S) as client,
    ):
        yield client


def talk(daemon: Daemon, name: str) -> str:
    """Return a new job of the inbox that is done."""
    path = media.write_sound(daemon.folder / name, media.speech(8))
    return daemon.wait_for(daemon.drop(path, name)).id


def cues_of(daemon: Daemon, job: str, **words: Any) -> list[EditedCue]:
    return list(parse_subtitles(daemon.client.fetch(job, **words)[1]))


def text_of(daemon: Daemon, job: str, **words: Any) -> str:
    return daemon.client.fetch(job, "txt", **words)[1].decode()


def cue(start_ms: int, end_ms: int, *lines: str) -> EditedCue:
    return EditedCue(start_ms=start_ms, end_ms=end_ms, lines=lines)


def files_of(daemon: Daemon, job: str) -> dict[str, str]:
    return {Path(path).suffix: Path(path).read_text("utf-8") for path in daemon.client.status(job).outputs}


def run(daemon: Daemon, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return run_binary("subtitle", *words, "--server", daemon.endpoint, "--timeout", "60", stdin=stdin)


def test_an_edit_replaces_the_subtitles_everywhere_and_keeps_the_models(daemon: Daemon) -> None:
    job = talk(daemon, "edited.flac")
    original = text_of(daemon, job)
    model = cues_of(daemon, job)
    first = EditedCue(start_ms=model[0].start_ms, end_ms=model[0].end_ms, lines=("A better", "text."))
    [version] = daemon.client.save_cues(job, [first, *model[1:]], version=0, author="Ada")
    assert (version.version, version.author, version.cues) == (1, "Ada", len(model))
    assert text_of(daemon, job).startswith("A better text.\n")
    facts, body = daemon.client.subtitles(job, "json")
    assert (facts.version, json.loads(body)["edit"]["author"]) == (1, "Ada")
    assert "".join(
        word["text"] for word in json.loads(body)["segments"][0]["phrases"][0]["words"]
    ).split() == ["A", "better", "text."]
    narrow = daemon.client.fetch(job, "txt", layout=daemon_layout())[1].decode()
    assert narrow.split()[:3] == ["A", "better", "text."]
    eventually(lambda: "A better\ntext." in files_of(daemon, job)[".srt"], "the outbox has the edit")
    eventually(lambda: '"Ada"' in files_of(daemon, job)[".json"], "so has the JSON file")
    assert text_of(daemon, job, version=0) == original
    # One entry of the journal; the job is not done a second time.
    assert [step.event for step in daemon.client.status(job).history if step.subject == "job"].count(
        "edited"
    ) == 1

    restored = daemon.client.restore_cues(job, 0, version=1)
    assert [(one.version, one.restored) for one in restored] == [(2, 0), (1, None)]
    assert text_of(daemon, job) == original
    assert text_of(daemon, job, version=1).startswith("A better text.")
    eventually(lambda: "A better" not in files_of(daemon, job)[".srt"], "the outbox has the model's text")


def daemon_layout() -> Any:
    from subtitle import LayoutOptions

    return LayoutOptions(max_chars=12, max_lines=1)


def test_a_save_from_an_old_version_is_a_conflict_and_changes_nothing(daemon: Daemon) -> None:
    job = talk(daemon, "conflict.flac")
    mine, theirs = [cue(0, 900, "mine")], [cue(0, 900, "theirs")]
    daemon.client.save_cues(job, theirs, version=0, author="Bob")
    with pytest.raises(ServerError, match="version 1 by Bob is the newest") as refused:
        daemon.client.save_cues(job, mine, version=0)
    assert refused.value.code == "CONFLICT"
    assert text_of(daemon, job) == "theirs\n"
    # A repeated save is no conflict: its answer may have been lost.
    assert len(daemon.client.save_cues(job, theirs, version=0, author="Bob")) == 1
    with pytest.raises(ServerError, match="no version 9") as refused:
        daemon.client.restore_cues(job, 9, version=1)
    assert refused.value.code == "NOT_FOUND"
    for bad, fault in ((b"[]x", "BAD_FORMAT"), (b'[{"start_ms":5,"end_ms":5,"lines":["x"]}]', "BAD_FORMAT")):
        with pytest.raises(ServerError) as refused:
            daemon.client._run(save_raw(daemon, job, bad))
        assert refused.value.code == fault


def save_raw(daemon: Daemon, job: str, data: bytes) -> Any:
    from subtitle import messages as ms

    requests = daemon.client._requests
    message = ms.SaveCues(request=requests._next(), job=job, version=1)
    return requests._exchange(message, ms.CueVersions, blobs=[data])


def test_drafts_of_one_session_are_one_version_until_another_saves(daemon: Daemon) -> None:
    """Two people without a name, or with the same one, replace no version of each other."""
    job = talk(daemon, "drafts.flac")
    for number in range(3):
        versions = daemon.client.save_cues(
            job, [cue(0, 900, f"draft {number}")], version=number, draft_session="one"
        )
    assert [one.version for one in versions] == [3]
    for version, session in ((3, "two"), (4, "one"), (5, "")):
        versions = daemon.client.save_cues(
            job, [cue(0, 900, f"from {version}")], version=version, draft_session=session
        )
    assert [one.version for one in versions] == [6, 5, 4, 3]


def test_edits_survive_a_restart_and_files_that_were_not_written_are(tmp_path: Path) -> None:
    inbox = InboxFolder()
    with Daemon(tmp_path, inboxes=(inbox,)) as daemon:
        daemon.start()
        job = talk(daemon, "restart.flac")
        daemon.stop()
        # As a daemon that was killed between the commit and the file.
        store = Store(str(tmp_path / "state" / "subtitled.sqlite"))
        row = store.find_job(job)
        assert row is not None
        from subtitled.storage.rows import pack_cues

        data = pack_cues([cue(0, 900, "written later")])
        store.save_edit(row.job, "transcribe", base=0, data=data, cues=1, author="")
        store.close()
        daemon.start()
        eventually(lambda: "written later" in files_of(daemon, job)[".srt"], "the file is written")
        assert text_of(daemon, job) == "written later\n"
        daemon.client.delete(job)
        daemon.stop()
        store = Store(str(tmp_path / "state" / "subtitled.sqlite"))
        assert store.edit_versions(job, "transcribe") == ()
        store.close()


def test_old_versions_are_removed_and_the_newest_kept(daemon: Daemon) -> None:
    job = talk(daemon, "many.flac")
    for number in range(MAX_EDITS + 3):
        versions = daemon.client.save_cues(job, [cue(0, 900, f"text {number}")], version=number)
    assert [one.version for one in versions] == list(range(MAX_EDITS + 3, 3, -1))
    assert text_of(daemon, job) == f"text {MAX_EDITS + 2}\n"


def test_the_web_interface_saves_compares_and_restores(daemon: Daemon, http: httpx.Client) -> None:
    job = talk(daemon, "web.flac")
    url = f"/api/jobs/{job}/cues"
    before = http.get(url).json()
    assert (before["version"], before["author"]) == (0, "")
    cues = [
        {"start_ms": one["start_ms"], "end_ms": one["end_ms"], "lines": one["lines"]}
        for one in before["cues"]
    ]
    cues[0] = {**cues[0], "lines": ["Something else"], "is_accepted": True}
    cues.append({"start_ms": 7000, "end_ms": 7900, "lines": ["added"]})
    saved = http.put(url, json={"version": 0, "cues": cues, "author": "Ada"})
    assert (saved.status_code, saved.json()["version"]) == (200, 1)
    after = http.get(url).json()
    assert (after["version"], after["author"], after["cues"][0]["is_accepted"]) == (1, "Ada", True)
    assert [word["text"].strip() for word in after["cues"][0]["words"]] == ["Something", "else"]
    assert http.get(url, params={"version": 0}).json()["cues"] == before["cues"]
    assert http.get(f"/api/jobs/{job}/result", params={"format": "txt"}).text.startswith("Something else")

    conflict = http.put(url, json={"version": 0, "cues": cues[:1], "author": "Bob"})
    assert (conflict.status_code, conflict.json()["code"], conflict.json()["version"]) == (409, "conflict", 1)
    assert conflict.json()["versions"][0]["author"] == "Ada"

    changes = http.get(f"{url}/diff").json()["changes"]
    assert [(one["before"] is None, one["after"] is None) for one in changes] == [
        (False, False),
        (True, False),
    ]
    assert {"kind": "added", "text": "Something else"} in changes[0]["parts"]
    restored = http.put(url, json={"version": 1, "restore": 0})
    assert [one["restored"] for one in restored.json()["versions"]] == [0, None]
    assert http.get(f"{url}/versions").json() == restored.json()
    bodies: tuple[dict[str, Any], ...] = (
        {"version": 2},
        {"version": 2, "cues": [], "restore": 1},
        {"cues": []},
    )
    for body in bodies:
        assert http.put(url, json=body).status_code == 400
    assert http.get(url, params={"version": "x"}).status_code == 400
    assert http.get(url, params={"version": 77}).status_code == 404
    assert http.put("/api/jobs/none/cues", json={"version": 0, "cues": []}).status_code == 404


def test_subtitle_edit_saves_lists_compares_and_restores(daemon: Daemon) -> None:
    job = talk(daemon, "shell.flac")
    assert run(daemon, "edit", job).stdout == b"no edits; the subtitles are the model's\n"
    srt = daemon.client.fetch(job)[1].replace(b"\n\n", b" (corrected)\n\n", 1)
    done = run(daemon, "edit", job, "-", "--author", "Ada", "--json", stdin=srt)
    assert (done.returncode, json.loads(done.stdout)["version"]) == (0, 1), done.stderr
    assert daemon.client.fetch(job)[1] == srt
    again = run(daemon, "edit", job, "-", stdin=srt.replace(b"corrected", b"another"))
    assert again.returncode == 3
    assert b"version 1 by Ada is the newest" in again.stderr
    assert b"--version" in again.stderr
    again = run(daemon, "edit", job, "-", "--version", "1", stdin=srt.replace(b"corrected", b"another"))
    assert (again.returncode, b"2" in again.stdout) == (0, True)
    difference = run(daemon, "edit", job, "--diff", "1").stdout.decode()
    assert difference.startswith("--- version 1\n+++ version 2\n")
    assert "(another)" in difference
    assert run(daemon, "edit", job, "--restore", "0").returncode == 0
    assert b"corrected" not in daemon.client.fetch(job)[1]
    assert b"another" in run(daemon, "fetch", job, "-o", "-", "--version", "2").stdout
    assert run(daemon, "edit", job, "-", stdin=b"1\n00:00:02,000 --> 00:00:01,000\nx\n").returncode == 2
