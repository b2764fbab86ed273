"""After each job the inbox's command and the webhook run at least once, whatever happens to the daemon."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

import media
from daemon import Daemon, InboxFolder, eventually, is_running
from subtitled.config import schema
from subtitled.config.load import load_config, to_toml
from subtitled.core.actions import SaveJob, SaveNewJob
from subtitled.core.records import Job, Options
from subtitled.core.states import JobEvent, JobState
from subtitled.hooks import commands, webhook
from subtitled.hooks.journal_reader import JobEnded, JournalReader
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDED = JobEnded(
    delivery="a1-7",
    event="job.done",
    job="a1",
    source="/in/talk\n1.mp4",
    location="/in/done/talk\n1.mp4",
    inbox="/in",
    outputs=("/out/talk.en.srt", "/out/talk.en.json"),
    language="en",
    task="transcribe",
    cause="",
    audio_ms=8000,
    created_ms=1,
    started_ms=2,
    ended_ms=3,
)


# -- commands ------------------------------------------------------------------------------------------------


def run(script: str, *, timeout_s: float = 60, stopping: threading.Event | None = None) -> str | None:
    command = (sys.executable, "-c", script)
    environ = {"PATH": os.environ["PATH"], "SECRET_OF_THE_DAEMON": "1"}
    return commands.run(command, ENDED, environ, timeout_s, stopping or threading.Event())


def test_command_receives_the_job_fields_and_no_secrets(tmp_path: Path) -> None:
    script = (
        "import json, os, sys; found = {k: v for k, v in os.environ.items() if 'S' in k and k != 'LC_CTYPE'};"
        f"json.dump([found, json.load(sys.stdin)], open({str(tmp_path / 'deliveries')!r}, 'w'))"
    )
    assert run(script) == ""
    environ, facts = json.loads((tmp_path / "deliveries").read_text())
    assert "SECRET_OF_THE_DAEMON" not in environ
    assert environ["SUBTITLED_JOB"] == "a1"
    assert environ["SUBTITLED_FILE"] == "/in/talk\n1.mp4"
    assert environ["SUBTITLED_OUTPUTS"] == "/out/talk.en.srt\n/out/talk.en.json"
    assert environ["SUBTITLED_LANGUAGE"] == "en"
    assert facts["outputs"] == ["/out/talk.en.srt", "/out/talk.en.json"]
    assert load_config(None, environ, check_paths=False) == schema.Config(), "it may call `subtitled` itself"


def test_newline_in_a_folder_does_not_look_like_a_second_output() -> None:
    ended = replace(ENDED, outputs=("/out/a\n/etc/passwd/talk.srt", "/out/talk.json"))
    listed = commands.environment(ended, {})["SUBTITLED_OUTPUTS"].split("\n")
    assert listed == ["/out/a\ufffd/etc/passwd/talk.srt", "/out/talk.json"]


def test_failed_command_is_reported_with_its_output() -> None:
    assert run("print('no such library'); raise SystemExit(3)") == (
        f"{sys.executable} exited with status 3: no such library"
    )
    fault = commands.run(("/nowhere/x",), ENDED, {}, 1, threading.Event())
    assert (
        fault == "/nowhere/x cannot be started: No such file or directory; correct the command of the inbox"
    )


CHILD = (
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "open({path!r}, 'w').write(str(p.pid)); p.wait()"
)


def test_command_over_its_timeout_is_killed_with_its_children(tmp_path: Path) -> None:
    fault = run(CHILD.format(path=str(tmp_path / "pid")), timeout_s=3)
    assert "was killed after command_timeout_s (3 s)" in (fault or "")
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not is_running(pid), "its child has gone")


def test_command_is_stopped_when_the_daemon_stops(tmp_path: Path) -> None:
    stopping = threading.Event()
    path = tmp_path / "pid"

    def stop_it() -> None:
        eventually(path.exists, "it runs")
        stopping.set()

    threading.Thread(target=stop_it).start()
    assert run(CHILD.format(path=str(path)), stopping=stopping) is None


# -- the webhook ---------------------------------------------------------------------------------------------


class Receiver:
    """An HTTP server that records requests and answers as configured."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.got: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.bodies: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Note a message."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.bodies.append(body)
                receiver.got.append((dict(self.headers), json.loads(body)))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?a=b"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def deliver(url: str, secret_file: str = "", attempts: int = 3) -> str | None:
    return webhook.deliver(url, secret_file, ENDED, threading.Event(), attempts=attempts, first_wait_s=0.01)


def test_webhook_message_is_signed(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s3cret\n")
    assert deliver(receiver.url, str(tmp_path / "secret")) == ""
    [(headers, facts)] = receiver.got
    digest = hmac.new(b"s3cret", receiver.bodies[0], hashlib.sha256).hexdigest()
    assert headers["X-Subtitled-Signature"] == f"sha256={digest}"
    assert headers["X-Subtitled-Event"] == "job.done"
    assert headers["X-Subtitled-Delivery"] == facts["delivery"] == "a1-7"
    assert headers["Content-Type"] == "application/json"


def test_webhook_message_is_retried_until_it_is_accepted(receiver: Receiver) -> None:
    """A redirection is not followed: it is no answer."""
    receiver.answers = [500, 302]
    assert deliver(receiver.url) == ""
    assert len(receiver.got) == 3
    assert len(set(receiver.bodies)) == 1


def test_webhook_message_fails_after_the_last_attempt(receiver: Receiver) -> None:
    """The report names only the server: the path may be a secret."""
    receiver.answers = [503] * 9
    server = receiver.url.partition("/hook")[0]
    assert deliver(receiver.url) == f"{server}: status 503 (3 attempts)"
    receiver.close()
    fault = deliver(receiver.url.replace("http://", "http://user:password@"))
    assert fault is not None
    assert fault.startswith(f"{server}: ")
    assert "refused" in fault


def test_unreadable_secret_sends_no_unsigned_message(receiver: Receiver) -> None:
    assert "No such file" in (deliver(receiver.url, "/nowhere/secret") or "")
    assert receiver.got == []


def test_webhook_stops_when_the_daemon_stops(receiver: Receiver) -> None:
    receiver.answers = [500]
    stopping = threading.Event()
    stopping.set()
    assert webhook.deliver(receiver.url, "", ENDED, stopping, attempts=3) is None


# -- following the journal -----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "subtitled.sqlite"))
    yield opened
    opened.close()


def end(store: Store, name: str, *, is_closed: bool = True) -> Job:
    """Let a job begin and fail; return it."""
    order = store.next_order()
    job = Job(
        id=name,
        state=JobState.PREPARING,
        source=name.encode(),
        location=name.encode(),
        size=1,
        mtime_ns=order,
        options=Options(),
        order=order,
    )
    failed = replace(job, state=JobState.FAILED, cause="why", is_closed=is_closed)
    store.apply([SaveNewJob(job), SaveJob(job=failed, before=JobState.PREPARING, event=JobEvent.REJECTED)])
    return failed


class Deliveries:
    """Takes deliveries; holds the next up, or refuses it as when the daemon ends."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.refuses = False
        self.handled: list[int] = []

    def __call__(self, ended: JobEnded, _: threading.Event) -> bool:
        """Take an end."""
        self.jobs.append(ended.job)
        return not self.refuses


def start_reader(tmp_path: Path, store: Store, deliveries: Deliveries) -> JournalReader:
    """Start a reader as the dispatcher does."""
    reader = new_reader(tmp_path, store, deliveries)
    mark = store.hook_position("test")
    if mark is None:
        mark = store.last_seq()
        store.save_hook_position("test", mark)
    reader.start(mark)
    return reader


def new_reader(tmp_path: Path, store: Store, deliveries: Deliveries) -> JournalReader:
    return JournalReader(
        "test",
        tmp_path / "subtitled.sqlite",
        deliveries,
        sync=store.sync,
        handled=deliveries.handled.append,
    )


def stop_reader(store: Store, reader: JournalReader) -> None:
    """Stop a reader as the dispatcher does."""
    reader.stop()
    store.save_hook_position("test", reader.seq)


def test_new_ends_are_delivered_in_order_and_earlier_ones_are_not(tmp_path: Path, store: Store) -> None:
    end(store, "before")
    deliveries = Deliveries()
    reader = start_reader(tmp_path, store, deliveries)
    for name in ("one", "two", "three"):
        end(store, name)
        reader.wake()
    eventually(lambda: deliveries.jobs == ["one", "two", "three"], "all are delivered")
    reader.stop()


def test_undelivered_ends_are_delivered_after_the_next_start(tmp_path: Path, store: Store) -> None:
    deliveries = Deliveries()
    reader = start_reader(tmp_path, store, deliveries)
    deliveries.refuses = True
    end(store, "one")
    end(store, "two")
    reader.wake()
    eventually(lambda: deliveries.jobs, "the first is tried")
    stop_reader(store, reader)
    end(store, "while it is down")
    deliveries.refuses = False
    deliveries.jobs.clear()
    reader = start_reader(tmp_path, store, deliveries)
    eventually(lambda: deliveries.jobs == ["one", "two", "while it is down"], "all are delivered")
    reader.stop()


def test_failed_job_is_delivered_once_its_files_are_in_place(tmp_path: Path, store: Store) -> None:
    deliveries = Deliveries()
    reader = start_reader(tmp_path, store, deliveries)
    job = end(store, "one", is_closed=False)
    end(store, "two")
    reader.wake()
    assert deliveries.jobs == []
    store.apply([SaveJob(job=replace(job, is_closed=True), before=JobState.FAILED, event=None)])
    eventually(lambda: deliveries.jobs == ["one", "two"], "both are delivered")
    reader.stop()


def test_retried_job_is_delivered_at_its_final_end(tmp_path: Path, store: Store) -> None:
    deliveries = Deliveries()
    job = end(store, "one")
    store.save_hook_position("test", 0)
    queued = replace(job, state=JobState.QUEUED, cause="", is_closed=False)
    store.apply([SaveJob(job=queued, before=JobState.FAILED, event=JobEvent.RETRY)])
    reader = start_reader(tmp_path, store, deliveries)
    end(store, "two")
    reader.wake()
    eventually(lambda: deliveries.jobs == ["two"], "the other is delivered")
    reader.stop()


def test_ends_after_a_restored_backup_are_delivered(tmp_path: Path, store: Store) -> None:
    """The mark is in the backup too, so it never lies beyond the restored journal."""
    deliveries = Deliveries()
    reader = start_reader(tmp_path, store, deliveries)
    end(store, "one")
    reader.wake()
    eventually(lambda: deliveries.jobs == ["one"], "it is delivered")
    stop_reader(store, reader)
    with sqlite3.connect(tmp_path / "backup.sqlite") as backup:
        store._db.backup(backup)
    backup.close()
    reader = start_reader(tmp_path, store, deliveries)
    for name in ("two", "three", "four"):
        end(store, name)
    reader.wake()
    eventually(lambda: deliveries.jobs == ["one", "two", "three", "four"], "all are delivered")
    stop_reader(store, reader)
    store.close()
    for name in ("subtitled.sqlite", "subtitled.sqlite-wal", "subtitled.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "backup.sqlite").rename(tmp_path / "subtitled.sqlite")
    restored = Store(str(tmp_path / "subtitled.sqlite"))
    reader = start_reader(tmp_path, restored, deliveries)
    end(restored, "after the restore")
    reader.wake()
    eventually(lambda: deliveries.jobs[-1] == "after the restore", "it is delivered")
    stop_reader(restored, reader)
    restored.close()


def test_end_is_on_the_disk_before_it_is_delivered(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the disk are taken at each sync, as a power cut would leave it; the delivered end is in the last one."""
    image = tmp_path / "image"
    fsync = os.fsync

    def sync(file: int) -> None:
        fsync(file)
        if Path(f"/proc/self/fd/{file}").readlink().name.endswith("-wal"):
            shutil.rmtree(image, ignore_errors=True)
            image.mkdir()
            for name in ("subtitled.sqlite", "subtitled.sqlite-wal"):
                shutil.copy(tmp_path / name, image)

    monkeypatch.setattr(os, "fsync", sync)
    deliveries = Deliveries()
    reader = start_reader(tmp_path, store, deliveries)
    end(store, "one")
    reader.wake()
    eventually(lambda: deliveries.jobs == ["one"], "it is delivered")
    reader.stop()
    after_power_cut = Store(str(image / "subtitled.sqlite"))
    row = after_power_cut.find_job("one")
    after_power_cut.close()
    assert row is not None
    assert row.job.state is JobState.FAILED


def test_journal_note_after_an_end_is_not_delivered(tmp_path: Path, store: Store) -> None:
    deliveries = Deliveries()
    reader = start_reader(tmp_path, store, deliveries)
    end(store, "one")
    store.append_event("one", "failed", "command_failed", "why")
    end(store, "two")
    reader.wake()
    eventually(lambda: deliveries.jobs == ["one", "two"], "each is delivered once")
    reader.stop()
    assert store.journal(0, job="one")[-1].event == "command_failed"


# -- with a daemon -------------------------------------------------------------------------------------------

TELL = "import json, os, sys; open(sys.argv[1], 'a').write(json.dumps(json.load(sys.stdin)) + chr(10))"


def test_every_end_is_delivered_although_the_daemon_is_killed(tmp_path: Path, receiver: Receiver) -> None:
    deliveries = tmp_path / "deliveries"
    (tmp_path / "secret").write_text("s3cret")
    inboxes = (
        InboxFolder(
            options={
                "on_done": (sys.executable, "-c", TELL, str(deliveries)),
                "on_failed": (sys.executable, "-c", "print('sorry'); raise SystemExit(4)"),
            }
        ),
        InboxFolder(name="quiet"),
    )
    hook = schema.WebhookConfig(url=receiver.url, secret_file=str(tmp_path / "secret"), attempts=50)
    receiver.answers = [500] * 3
    with Daemon(tmp_path, inboxes=inboxes, webhook=hook) as daemon:
        daemon.drop(media.write_sound(tmp_path / "talk.flac", media.speech(8)), "talk.flac")
        daemon.start()
        good = daemon.wait_for(daemon.inbox / "talk.flac")
        eventually(deliveries.exists, "the command was run")
        eventually(lambda: receiver.got, "the webhook was tried")
        daemon.kill()
        daemon.start()
        bad = daemon.wait_for(daemon.drop(b"not media", "bad.mp4"))
        other = daemon.wait_for(daemon.drop(b"not media", "bad.mp4", inbox=tmp_path / "quiet"))
        eventually(
            lambda: {good.id, bad.id, other.id} <= {facts["job"] for _, facts in receiver.got},
            "the webhook received all",
        )
        line = daemon.wait_for_log("hook.failed", job=bad.id)
        assert line["what"] == "command"
        assert "exited with status 4: sorry" in line["cause"]
        eventually(
            lambda: [entry for entry in daemon.journal() if entry.event == "command_failed"],
            "the failure is in the journal",
        )
        daemon.stop()
    facts = [json.loads(row) for row in deliveries.read_text().splitlines()]
    assert {fact["job"] for fact in facts} == {good.id}
    assert facts[0]["outputs"] == [str(daemon.outbox / name) for name in ("talk.en.json", "talk.en.srt")]
    assert facts[0]["language"] == "en"
    first = next(facts for _, facts in receiver.got if facts["job"] == bad.id)
    assert first["event"] == "job.failed"
    assert "not media" in first["cause"]
    assert first["outputs"] == [str(daemon.inbox / "failed" / "bad.mp4.error.txt")]
    assert all("X-Subtitled-Signature" in headers for headers, _ in receiver.got)


@pytest.mark.long
def test_ends_without_a_configured_hook_are_not_delivered_later(tmp_path: Path) -> None:
    """A command that is configured while the daemon runs receives the ends from then on."""
    deliveries = tmp_path / "deliveries"
    with Daemon(tmp_path) as daemon:
        daemon.start()
        daemon.wait_for(daemon.drop(b"not media", "old.mp4"))
        inbox = replace(daemon.config.inbox[0], on_failed=(sys.executable, "-c", TELL, str(deliveries)))
        daemon.config_file.write_text(to_toml(replace(daemon.config, inbox=(inbox,))), "utf-8")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for_log("config.loaded")
        new = daemon.wait_for(daemon.drop(b"not media", "new.mp4"))
        daemon.wait_for_log("hook.done", job=new.id)
        daemon.stop()
    assert [json.loads(row)["job"] for row in deliveries.read_text().splitlines()] == [new.id]


def test_journal_reader_opens_the_database_read_only(tmp_path: Path, store: Store) -> None:
    """The readers open it for reading: a write is refused."""
    reader = new_reader(tmp_path, store, Deliveries())
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._open().execute("DELETE FROM jobs")
    assert store.last_seq() == 0
