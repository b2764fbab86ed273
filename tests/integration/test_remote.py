"""Workers on other hosts: real processes, TCP on loopback with keys, the demo model; files in, subtitles out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Literal

import pytest
from msgspec.structs import replace

import media
from daemon import Daemon, InboxFolder, eventually, process_state
from head_and_workers import Head, RemoteWorker
from subtitle.keys import Key, new_pair
from subtitled.config import schema
from subtitled.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENGLISH = (InboxFolder(options={"language": "en"}),)
"""Without the detection of the language, which decodes a whole window for each segment."""
SHORT = schema.RecoveryConfig(heartbeat_s=0.2, silence_s=2.0)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the subtitles of the demo recordings as workers of this host make them, by name."""
    with Daemon(tmp_path_factory.mktemp("local"), inboxes=ENGLISH) as daemon:
        daemon.start()
        text = subtitles(daemon, "a.flac")["a.flac"]
        return {"a.flac": text, "b.flac": text}


def subtitles(daemon: Daemon, *names: str) -> dict[str, str]:
    """Drop a recording under each name; return their jobs once all are done."""
    sources = [daemon.drop(media.DEMO / "demo.flac", name) for name in names]
    found = {}
    for source in sources:
        assert daemon.wait_for(source).state == "done"
        found[source.name] = (daemon.outbox / f"{source.stem}.en.srt").read_text("utf-8")
    return found


def diagnosis(head: Head) -> dict[str, str]:
    """Return the doctor's findings about the cluster, by name."""
    command = [
        sys.executable,
        "-m",
        "subtitled",
        "doctor",
        "--cluster",
        "--json",
        "--config",
        str(head.config_file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {found["name"]: found["state"] for found in json.loads(done.stdout)["findings"]}


def once(head: Head) -> None:
    """Assert that each segment was done once, and none was blamed for what befell its worker."""
    done = Counter(
        (entry.job, entry.name)
        for entry in head.journal()
        if entry.subject == "segment" and entry.after == "done"
    )
    assert done
    assert set(done.values()) == {1}
    jobs = [job for (job,) in head.query("SELECT id FROM jobs")]
    assert {row.state.value for job in jobs for row in head.results(job)} == {"done"}


def test_workers_of_other_hosts_do_all_the_work_of_a_head_without_a_device(
    tmp_path: Path, texts: dict[str, str]
) -> None:
    """The same text as with workers of its own, and nothing of the model is loaded at the head."""
    with (
        Head(tmp_path, inboxes=ENGLISH) as head,
        RemoteWorker(head, "gpu2"),
        RemoteWorker(head, "gpu3"),
    ):
        head.start()
        head.wait_for_workers("gpu2/cpu0", "gpu3/cpu0")
        assert subtitles(head, "a.flac", "b.flac") == texts
        once(head)
        assert all("transcribe" not in identity for identity in head.workers())
        seen = head.scrape()
        assert seen['subtitled_worker_bytes_total{direction="sent",slot="gpu2/cpu0"}'] > 0
        assert seen['subtitled_worker_bytes_total{direction="received",slot="gpu3/cpu0"}'] > 0
        assert 0 < seen['subtitled_worker_round_trip_seconds{slot="gpu2/cpu0"}'] < 60
        facts = {worker.slot: worker for worker in head.stats().workers}["gpu3/cpu0"]
        assert (facts.host, len(facts.model_digest), facts.sent_bytes > 0) == ("gpu3", 64, True)
        assert facts.speed > 0
        assert diagnosis(head)["host gpu2"] == "ok"
        head.stop()


@pytest.mark.long
def test_workers_of_this_host_and_of_others_serve_together(tmp_path: Path, texts: dict[str, str]) -> None:
    with Head(tmp_path, devices=("cpu",), inboxes=ENGLISH) as head, RemoteWorker(head, "gpu2"):
        head.start()
        head.wait_for_workers("cpu0", "gpu2/cpu0")
        assert subtitles(head, "a.flac", "b.flac") == texts
        once(head)
        jobs = [job for (job,) in head.query("SELECT id FROM jobs")]
        workers = {row.worker for job in jobs for row in head.results(job)}
        assert workers == {"cpu0.1", "gpu2/cpu0.1"}


@pytest.mark.parametrize("codec", [pytest.param("pcm", marks=pytest.mark.long), "flac"])
def test_sound_goes_out_as_the_configuration_says_and_the_text_is_the_same(
    tmp_path: Path, texts: dict[str, str], codec: Literal["pcm", "flac"]
) -> None:
    with (
        Head(tmp_path, inboxes=ENGLISH, remote=schema.RemoteConfig(wire_codec=codec)) as head,
        RemoteWorker(head, "gpu2"),
    ):
        head.start()
        head.wait_for_workers("gpu2/cpu0")
        assert subtitles(head, "a.flac") == {"a.flac": texts["a.flac"]}
        once(head)
        sent_bytes = head.scrape()['subtitled_worker_bytes_total{direction="sent",slot="gpu2/cpu0"}']
        share = sent_bytes / head.pcm_bytes()
        assert 0.95 < share < 1.2 if codec == "pcm" else share < 0.8
        head.stop()


def test_a_key_that_is_not_known_is_refused_and_let_in_after_a_reload(tmp_path: Path) -> None:
    """The worker waits, and both logs say for what."""
    public, secret = new_pair()
    with Head(tmp_path, hosts=()) as head:
        key = Key(name="gpu2", public=public, secret=secret, server=head.server)
        with RemoteWorker(head, "gpu2", key=key) as worker:
            head.start()
            worker.wait_for_log("session.waiting", "refuses the key 'gpu2'")
            assert head.wait_for_log("worker.refused", key=public)["cause"].startswith(
                "the key is not in remote.keys"
            )
            head.write_config(remote=replace(head.config.remote, keys={"gpu2": public}))
            os.kill(head.pid, signal.SIGHUP)
            head.wait_for_workers("gpu2/cpu0")
            head.write_config(remote=replace(head.config.remote, keys={}))
            os.kill(head.pid, signal.SIGHUP)
            assert worker.wait_for_exit() == ExitCode.FATAL
            assert "was removed from remote.keys" in worker.wait_for_log("session.refused")["cause"]


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Run a head without work, to which no worker of another test is connected any more."""
    with Head(tmp_path_factory.mktemp("head"), hosts=("other", "newer", "twin")) as head:
        yield head.start()
        head.stop()


def test_a_worker_does_not_speak_with_another_server_than_its_key_names(idle: Head) -> None:
    key = replace(idle.keys["other"], server=new_pair()[0])
    with RemoteWorker(idle, "other", key=key) as worker:
        worker.wait_for_log("session.waiting")
        assert "other/cpu0" not in idle.states()


VERSION_PROGRAM = (
    "import sys, subtitled.version; subtitled.version.VERSION = '9.9.9'; sys.argv[0] = 'subtitled';"
    "from subtitled.cli import main; main()"
)


def test_a_worker_of_another_release_is_refused_with_the_reason_in_both_logs(idle: Head) -> None:
    with RemoteWorker(idle, "newer", program=("-c", VERSION_PROGRAM)) as worker:
        assert worker.wait_for_exit() == ExitCode.FATAL
        cause = worker.wait_for_log("session.refused")["cause"]
        assert "has version 9.9.9 " in cause
        assert idle.wait_for_log("worker.refused", worker="newer/cpu0")["cause"] == cause


def test_a_worker_with_another_model_is_refused_with_the_reason_in_both_logs(tmp_path: Path) -> None:
    """The weights of the head's own worker count; which come first does not matter."""
    other = tmp_path / "model"
    other.mkdir()
    for file in (media.DEMO / "model").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    with (other / "model.bin").open("ab") as weights:
        weights.write(b"\0")
    with Head(tmp_path, devices=("cpu",)) as head:
        head.start()
        with RemoteWorker(head, "gpu2", options=("--model", str(other))) as worker:
            assert worker.wait_for_exit() == ExitCode.FATAL
            cause = worker.wait_for_log("session.refused")["cause"]
            assert "SHA-256" in cause
            assert "cpu0 has" in cause
            assert head.wait_for_log("worker.refused", worker="gpu2/cpu0")["cause"] == cause


def test_two_workers_that_are_called_the_same_do_not_drive_each_other_out(idle: Head) -> None:
    with RemoteWorker(idle, "twin"):
        idle.wait_for_workers("twin/cpu0")
        with RemoteWorker(idle, "twin") as second:
            second.wait_for_log("session.waiting", "--place")
            assert idle.states() == {"twin/cpu0": "idle"}
            assert len(idle.log("worker.joined")) == 1


def busy(head: Head, slot: str) -> bool:
    """Say whether a worker decodes, while a job is transcribed."""
    return head.states().get(slot) == "busy"


def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing(
    tmp_path: Path, texts: dict[str, str]
) -> None:
    with (
        Head(tmp_path, inboxes=ENGLISH) as head,
        RemoteWorker(head, "gpu2") as killed,
        RemoteWorker(head, "gpu3"),
    ):
        head.start()
        head.wait_for_workers("gpu2/cpu0", "gpu3/cpu0")
        source = head.drop(media.DEMO / "demo.flac", "a.flac")
        eventually(lambda: busy(head, "gpu2/cpu0"), "the worker has work")
        killed.process.kill()
        head.wait_for_log("worker.stopped", worker="gpu2/cpu0.1", cause="its connection was lost")
        assert head.wait_for(source).state == "done"
        assert (head.outbox / "a.en.srt").read_text("utf-8") == texts["a.flac"]
        once(head)
        with RemoteWorker(head, "gpu2"):
            head.wait_for_workers("gpu2/cpu0", "gpu3/cpu0")


@pytest.mark.long
def test_stopped_worker_finishes_its_leases(tmp_path: Path, texts: dict[str, str]) -> None:
    with (
        Head(tmp_path, inboxes=ENGLISH) as head,
        RemoteWorker(head, "gpu2") as leaving,
        RemoteWorker(head, "gpu3"),
    ):
        head.start()
        head.wait_for_workers("gpu2/cpu0", "gpu3/cpu0")
        source = head.drop(media.DEMO / "demo.flac", "a.flac")
        eventually(lambda: busy(head, "gpu2/cpu0"), "the worker has work")
        leaving.terminate()
        assert leaving.wait_for_exit() == ExitCode.OK
        assert head.wait_for(source).state == "done"
        assert (head.outbox / "a.en.srt").read_text("utf-8") == texts["a.flac"]
        once(head)
        assert head.log("lease.lost") == []
        head.wait_for_log("worker.stopped", worker="gpu2/cpu0.1")


def test_worker_without_a_daemon_stops_at_once(tmp_path: Path) -> None:
    with Head(tmp_path) as head, RemoteWorker(head, "gpu2") as worker:
        worker.wait_for_log("session.waiting", "there is no connection")
        worker.terminate()
        assert worker.wait_for_exit() == ExitCode.OK


@pytest.mark.parametrize("is_killed", [True, pytest.param(False, marks=pytest.mark.long)])
def test_workers_join_a_daemon_that_is_started_again_with_the_model_still_loaded(
    tmp_path: Path, texts: dict[str, str], *, is_killed: bool
) -> None:
    """In the middle of a file; nothing is lost, and each has loaded its model once."""
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(Head(tmp_path, inboxes=ENGLISH))
        workers = [stack.enter_context(RemoteWorker(head, host)) for host in ("gpu2", "gpu3")]
        head.start()
        head.wait_for_workers("gpu2/cpu0", "gpu3/cpu0")
        source = head.drop(media.DEMO / "demo.flac", "a.flac")
        eventually(lambda: busy(head, "gpu2/cpu0"), "the worker has work")
        if is_killed:
            head.kill()
        else:
            head.stop()
        head.start()
        head.wait_for_workers("gpu2/cpu0", "gpu3/cpu0")
        assert head.wait_for(source).state == "done"
        assert (head.outbox / "a.en.srt").read_text("utf-8") == texts["a.flac"]
        once(head)
        for worker in workers:
            assert len(worker.log("session.opened")) == 2
            assert len(worker.log("model.loaded")) == 1


@pytest.mark.long
def test_what_a_worker_has_done_after_it_was_given_up_counts_no_more(
    tmp_path: Path, texts: dict[str, str]
) -> None:
    """It was stopped for longer than silence_s; when it continues, it joins again with its loaded model."""
    with (
        Head(tmp_path, inboxes=ENGLISH, recovery=SHORT) as head,
        RemoteWorker(head, "gpu2") as still,
        RemoteWorker(head, "gpu3"),
    ):
        head.start()
        head.wait_for_workers("gpu2/cpu0", "gpu3/cpu0")
        source = head.drop(media.DEMO / "demo.flac", "a.flac")
        eventually(lambda: busy(head, "gpu2/cpu0"), "the worker has work")
        still.process.send_signal(signal.SIGSTOP)
        eventually(lambda: process_state(still.process.pid) == "T", "the worker stands still")
        head.wait_for_log("worker.lost", worker="gpu2/cpu0.1", cause="no message for 2 s")
        assert head.wait_for(source).state == "done"
        still.process.send_signal(signal.SIGCONT)
        head.wait_for_workers("gpu2/cpu0", "gpu3/cpu0")
        assert (head.outbox / "a.en.srt").read_text("utf-8") == texts["a.flac"]
        once(head)
        assert len(still.log("model.loaded")) == 1
        assert len(still.log("session.opened")) == 2
