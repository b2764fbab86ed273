"""Keys on TCP: who has one of the allowed speaks, as itself; everybody else is not even answered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import zmq

import media
from commands import run_command
from daemon import eventually
from daemon_with_keys import DaemonWithKeys
from subtitle import messages as ms
from subtitle.keys import new_pair
from subtitled.config.load import to_toml
from wire_client import WireClient, submit_of

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO_ZH = media.clip(name="demo-zh.flac")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonWithKeys]:
    running = DaemonWithKeys(tmp_path_factory.mktemp("secured"))
    yield running
    running.daemon.close()


def welcome(sender: WireClient) -> ms.Welcome:
    sender.send(ms.Hello(request=sender.number()))
    return sender.receive(ms.Welcome)


def test_a_key_file_is_its_owners_alone_and_never_overwritten(secured: DaemonWithKeys) -> None:
    path = secured.daemon.folder / "ann.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (secured.daemon.folder / "state" / "server.key").stat().st_mode & 0o777 == 0o600
    done = run_command("subtitled", "keys", "new", "cat", "-o", path, "--config", secured.daemon.config_file)
    assert done.returncode == 1
    assert "already exists" in done.stderr
    again = [
        sys.executable,
        "-m",
        "subtitled",
        "keys",
        "new",
        "ann",
        "--config",
        str(secured.daemon.config_file),
    ]
    done = subprocess.run(again, capture_output=True, text=True, check=False, cwd=secured.daemon.folder)
    assert done.returncode == 1
    assert "already in the configuration" in done.stderr
    bad = [
        sys.executable,
        "-m",
        "subtitled",
        "keys",
        "new",
        "../x",
        "--config",
        str(secured.daemon.config_file),
    ]
    assert subprocess.run(bad, capture_output=True, check=False).returncode == 2


def test_the_server_knows_who_speaks(secured: DaemonWithKeys) -> None:
    with WireClient(secured.endpoint, secured.ann) as ann, WireClient(secured.endpoint, secured.root) as root:
        assert (welcome(ann).user, welcome(ann).role) == ("ann", "user")
        assert (welcome(root).user, welcome(root).role) == ("root", "admin")
    with WireClient(secured.daemon.endpoint) as local:
        assert (welcome(local).user, welcome(local).role) == ("", "admin")


def test_users_do_not_see_each_others_jobs(secured: DaemonWithKeys) -> None:
    with (
        WireClient(secured.endpoint, secured.ann) as ann,
        WireClient(secured.endpoint, secured.ben) as ben,
        WireClient(secured.endpoint, secured.ben) as watching,
        WireClient(secured.endpoint, secured.root) as root,
    ):
        watching.send(ms.Watch(request=1000, after_seq=0))
        accepted = ann.submit(DEMO_ZH, "secret-plan.flac")
        # Ben can neither push bytes into Ann's upload, nor complete it, nor learn that it is there.
        assert ben.refusal(ms.Chunk(request=1, job=accepted.job, offset=0), [b"x"]) == "WRONG_STATE"
        assert ben.refusal(ms.Commit(request=2, job=accepted.job)) == "NOT_FOUND"
        ann.send_to(accepted, DEMO_ZH)
        job = ann.commit(accepted.job).id
        for message in (
            ms.Status(request=3, job=job),
            ms.Fetch(request=4, job=job),
            ms.Cancel(request=5, job=job),
            ms.Retry(request=6, job=job),
            ms.GetWaveform(request=61, job=job),
            ms.GetAudio(request=62, job=job, duration_ms=1000),
            ms.GetVideo(request=65, job=job, form="original", length=1000),
        ):
            assert ben.refusal(message) == "NOT_FOUND"
        eventually(lambda: ann.status(job).state == "done", "the job is done")
        assert ben.refusal(ms.GetAudio(request=63, job=job, duration_ms=1000)) == "NOT_FOUND"
        assert ben.refusal(ms.GetVideo(request=66, job=job, form="h264")) == "NOT_FOUND"
        ann.send(ms.GetAudio(request=64, job=job, duration_ms=1000))
        assert ann.receive(ms.Audio).job == job
        ben.send(ms.List(request=7))
        assert ben.receive(ms.JobList).jobs == ()
        ben.send(ms.Stats(request=8))
        stats = ben.receive(ms.StatsInfo)
        assert (stats.jobs, [worker.job for worker in stats.workers if worker.job]) == ({}, [])
        assert [worker.jobs for worker in stats.workers if worker.jobs] == []
        assert watching.is_silent(), "the journal showed Ben Ann's job"
        # The same bytes are a job of Ben's own.
        other = ben.upload(DEMO_ZH, "mine.flac")
        assert other.id != job
        assert other.owner == "ben"
        event = watching.receive(ms.Event)
        assert (event.request, event.job) == (1000, other.id)
        root.send(ms.List(request=9))
        assert {"ann", "ben"} <= {facts.owner for facts in root.receive(ms.JobList).jobs}
        assert root.status(job).source == "secret-plan.flac"


def test_an_unknown_key_gets_no_answer_and_is_counted(secured: DaemonWithKeys) -> None:
    before = secured.daemon.scrape()["subtitled_refused_keys_total"]
    public, secret = new_pair()
    unknown = msgspec.structs.replace(secured.ann, public=public, secret=secret)
    with WireClient(secured.endpoint, unknown) as sender, WireClient(secured.endpoint) as without:
        for unanswered in (sender, without):
            unanswered.send(ms.Hello(request=1))
        assert sender.is_silent(1000)
        assert without.is_silent(300)
    eventually(lambda: secured.daemon.scrape()["subtitled_refused_keys_total"] > before, "it is counted")
    with WireClient(secured.endpoint, secured.ann) as ann:
        assert welcome(ann).user == "ann"


def test_a_server_with_another_key_is_not_trusted(secured: DaemonWithKeys) -> None:
    wrong = msgspec.structs.replace(secured.ann, server=new_pair()[0])
    with WireClient(secured.endpoint, wrong) as sender:
        sender.send(ms.Hello(request=1))
        assert sender.is_silent(1000)


def test_a_chosen_routing_id_is_refused_where_there_are_users(secured: DaemonWithKeys) -> None:
    """Else one user could take the identity to which the answers of another go."""
    with WireClient(secured.endpoint, secured.ann) as ann:
        ann.socket.disconnect(secured.endpoint)
        ann.socket.setsockopt(zmq.ROUTING_ID, b"ben's")
        ann.socket.connect(secured.endpoint)
        ann.send(ms.Hello(request=1))
        assert ann.receive(ms.Error).code == "BAD_FORMAT"


def test_paths_on_the_server_are_for_its_local_socket(secured: DaemonWithKeys) -> None:
    with WireClient(secured.endpoint, secured.root) as root:
        assert root.refusal(ms.Submit(request=1, path="/etc/passwd")) == "FORBIDDEN"


def test_a_key_that_is_taken_off_the_list_is_not_answered_any_more(tmp_path: Path) -> None:
    secured = DaemonWithKeys(tmp_path)
    try:
        with (
            WireClient(secured.endpoint, secured.ann) as ann,
            WireClient(secured.endpoint, secured.ben) as ben,
        ):
            assert welcome(ann).user == "ann"
            secured.allow(*secured.clients[1:])
            os.kill(secured.daemon.pid, signal.SIGHUP)
            secured.daemon.wait_for_log("config.loaded")
            ann.send(ms.Hello(request=1))
            assert ann.is_silent(500)
            assert welcome(ben).user == "ben"
    finally:
        secured.daemon.close()


def test_a_reload_that_leaves_an_open_port_without_keys_is_refused(secured: DaemonWithKeys) -> None:
    changed = msgspec.structs.replace(
        secured.daemon.config,
        listen=msgspec.structs.replace(secured.daemon.config.listen, clients=("tcp://0.0.0.0:7000",)),
    )
    path = secured.daemon.folder / "open.toml"
    path.write_text(to_toml(changed), "utf-8")
    done = run_command("subtitled", "config", "check", "--config", path)
    assert done.returncode == 78
    assert "subtitled keys new NAME" in done.stderr


def test_the_same_submit_of_two_clients_is_two_uploads(secured: DaemonWithKeys) -> None:
    with WireClient(secured.endpoint, secured.ann) as ann, WireClient(secured.endpoint, secured.root) as root:
        content = DEMO_ZH + b"tail"
        first, second = ann.submit(content), root.submit(content)
        assert first.job != second.job
        for sender, accepted in ((ann, first), (root, second)):
            sender.send(ms.Cancel(request=5, job=accepted.job))
            assert sender.receive(ms.Error).request == accepted.request
            assert sender.receive(ms.JobInfo).job.state == "cancelled"
        assert ann.refusal(submit_of(6, content, options=ms.JobOptions(language="?"))) == "BAD_FORMAT"


def test_only_an_admin_operates_the_server_and_changes_the_log_level(secured: DaemonWithKeys) -> None:
    with WireClient(secured.endpoint, secured.ann) as ann, WireClient(secured.endpoint, secured.root) as root:
        assert ann.refusal(ms.SetLogLevel(request=1, level="debug")) == "FORBIDDEN"
        assert ann.refusal(ms.SetLogLevel(request=2)) == "FORBIDDEN"
        for forbidden in (
            ms.Operate(request=1),
            ms.Operate(request=1, is_paused=True),
            ms.LoadModel(request=1, model="demo"),
            ms.UnloadModel(request=1, model="demo"),
        ):
            assert ann.refusal(forbidden) == "FORBIDDEN"
        root.send(ms.SetLogLevel(request=3, level="debug"))
        answer = root.receive(ms.LogLevel)
        assert (answer.level, answer.before) == ("debug", "info")
        secured.daemon.wait_for_log("log.level", to="debug", before="info", by="root")
    command = ("admin", "log-level", "--server", secured.daemon.endpoint)
    reported = [run_command("subtitle", *command, *level).stdout for level in ((), ("error",), ("info",))]
    assert reported == ["debug\n", "error, before: debug\n", "info, before: error\n"]
    levels = [(line["to"], line["before"]) for line in secured.daemon.log("log.level")]
    assert levels == [("debug", "info"), ("error", "debug"), ("info", "error")]
