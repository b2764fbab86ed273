"""What clients ask is answered as `subtitle.messages` says, and nothing that they send harms the daemon."""

from __future__ import annotations

import json
import re
import shutil
import socket as tcp
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import zmq

import media
from commands import run_command
from daemon import ENDED, Daemon, eventually, is_running
from subtitle import Client, ServerError, UnreachableError
from subtitle import messages as ms
from subtitle.codec import MAX_BLOBS, VERSION
from subtitled.core.actions import SaveWorker
from subtitled.core.states import WorkerEvent, WorkerState
from subtitled.cues.render import read_json
from subtitled.storage.store import Store
from subtitled.version import VERSION as SERVER_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from subtitle import JobFacts

HISTORY = 5000
"""Journal entries from before the daemon's start: more than ZeroMQ holds for a client that does not read."""
ABSENT = "ipc:///tmp/subtitled-test-without-a-daemon.sock"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon with a long journal, one job that is done and one that failed."""
    folder = tmp_path_factory.mktemp("daemon")
    (folder / "state").mkdir()
    store = Store(str(folder / "state" / "subtitled.sqlite"))
    past = SaveWorker(
        slot="cpu9",
        incarnation=1,
        before=WorkerState.BACKOFF,
        event=WorkerEvent.ELAPSED,
        after=WorkerState.STARTING,
    )
    store.apply([past] * HISTORY)
    store.close()
    with Daemon(folder) as running:
        running.drop(media.write_sound(folder / "talk.flac", media.speech(8)), "talk.flac")
        running.drop(b"not media", "broken.mp4")
        running.start()
        running.wait_for_jobs(2)
        yield running
        running.stop()


@pytest.fixture
def talk(daemon: Daemon) -> JobFacts:
    return daemon.wait_for(daemon.inbox / "talk.flac")


@pytest.fixture
def broken(daemon: Daemon) -> JobFacts:
    return daemon.wait_for(daemon.inbox / "broken.mp4")


# -- the Python API ------------------------------------------------------------------------------------------


def test_ping_returns_version_model_and_role(daemon: Daemon) -> None:
    welcome = daemon.client.ping()
    assert (welcome.server, welcome.protocol, welcome.model) == (SERVER_VERSION, ms.PROTOCOL, "demo")


def test_status_returns_all_facts_of_a_job(daemon: Daemon, talk: JobFacts) -> None:
    assert talk.state == "done"
    assert (talk.language, talk.task, talk.cause, talk.missing) == ("en", "transcribe", "", ())
    assert talk.audio_ms == 8000
    assert talk.segments == {"done": 1}
    assert talk.outputs == tuple(str(daemon.outbox / f"talk.en.{form}") for form in ("json", "srt"))
    assert talk.started_ms is not None
    assert talk.ended_ms is not None
    assert talk.created_ms <= talk.started_ms <= talk.ended_ms


def test_status_of_a_failed_job_gives_the_cause(daemon: Daemon, broken: JobFacts) -> None:
    assert broken.state == "failed"
    assert "not media" in broken.cause
    assert [Path(path).name for path in broken.outputs] == ["broken.mp4.error.txt"]
    assert Path(broken.outputs[0]).is_file()
    assert daemon.client.status(broken.id) == broken


def test_list_returns_the_newest_first_and_filters(daemon: Daemon, talk: JobFacts, broken: JobFacts) -> None:
    jobs = daemon.client.list()
    assert [job.created_ms for job in jobs] == sorted((job.created_ms for job in jobs), reverse=True)
    assert talk.id in {job.id for job in daemon.client.list(("done",))}
    assert {job.state for job in daemon.client.list(("failed", "cancelled"))} <= {"failed", "cancelled"}
    assert broken.id in {job.id for job in daemon.client.list(("failed",))}
    assert daemon.client.list(("writing",)) == ()
    assert len(daemon.client.list(limit=1)) == 1
    assert len(daemon.client.list(limit=-3)) == 1
    with pytest.raises(ServerError, match=r"BAD_FORMAT.*unknown state 'dnoe'.*done"):
        daemon.client.list(("dnoe",))


def test_stats_contain_workers_and_queue(daemon: Daemon) -> None:
    stats = daemon.client.stats()
    assert [(worker.slot, worker.role) for worker in stats.workers] == [
        ("prepare0", "prepare"),
        ("cpu0", "transcribe"),
    ]
    assert stats.jobs["done"] >= 1
    assert stats.jobs["failed"] >= 1
    assert stats.audio_ms > 4000
    assert stats.uptime_s > 0
    assert stats.last_seq == daemon.journal()[-1].seq
    assert (stats.waiting_ms, stats.unread_files, stats.unread_bytes) == (0, 0, 0)
    assert (stats.is_disk_full, stats.is_draining) == (False, False)


def test_stats_contain_the_jobs_of_each_worker_and_the_queued_audio(daemon: Daemon, tmp_path: Path) -> None:
    long = daemon.client.submit(media.write_sound(tmp_path / "long.flac", media.recording()))

    def is_reported() -> bool:
        stats = daemon.client.stats()
        workers = [worker for worker in stats.workers if long.id in worker.jobs]
        assert daemon.client.status(long.id).state not in ENDED
        return any(worker.role == "transcribe" for worker in workers) and stats.waiting_ms > 0

    eventually(is_reported, "a worker reports what it transcribes")
    daemon.client.cancel(long.id)
    eventually(lambda: not daemon.client.stats().waiting_ms, "nothing waits any more")


@pytest.mark.parametrize("form", ["srt", "json"])
def test_fetch_returns_the_written_subtitles(daemon: Daemon, talk: JobFacts, form: str) -> None:
    name, body = daemon.client.fetch(talk.id, form)
    assert name == f"talk.en.{form}"
    assert body == (daemon.outbox / name).read_bytes()


def test_fetch_of_a_failed_job_returns_the_finished_part(daemon: Daemon, broken: JobFacts) -> None:
    name, body = daemon.client.fetch(broken.id, "json")
    assert name == "broken.partial.json"
    assert read_json(body).cues == ()


@pytest.mark.parametrize("ask", ["status", "cancel", "retry", "fetch"])
def test_unknown_job_is_not_found(daemon: Daemon, ask: str) -> None:
    with pytest.raises(ServerError, match="unknown job 'nosuch'") as caught:
        getattr(daemon.client, ask)("nosuch")
    assert caught.value.code == "NOT_FOUND"


def test_request_in_the_wrong_state_is_refused(daemon: Daemon, talk: JobFacts, broken: JobFacts) -> None:
    for ask, job in (("cancel", talk), ("retry", talk), ("cancel", broken)):
        with pytest.raises(ServerError, match=f"job {job.id} is {job.state}") as caught:
            getattr(daemon.client, ask)(job.id)
        assert caught.value.code == "WRONG_STATE"
    with pytest.raises(ServerError, match="unknown format 'vvt'; supported: srt, vtt, ass"):
        daemon.client.fetch(talk.id, "vvt")


def test_retry_tries_a_failed_job_again(daemon: Daemon) -> None:
    source = daemon.drop(b"still not media", "again.mp4")
    first = daemon.wait_for(source)
    assert daemon.client.retry(first.id).state in {"queued", "preparing", "failed"}
    second = daemon.wait_for(source)
    assert (second.id, second.state) == (first.id, "failed")
    events = [entry.event for entry in daemon.journal() if entry.job == first.id]
    assert events == ["accepted", "leased", "rejected", "retry", "leased", "rejected"]


def test_retry_of_a_job_without_its_file_names_the_file(daemon: Daemon) -> None:
    job = daemon.wait_for(daemon.drop(b"not media either", "lost.mp4"))
    (daemon.inbox / "failed" / "lost.mp4").unlink()
    with pytest.raises(ServerError, match=r"its file is gone from .*/failed/lost\.mp4; drop it again"):
        daemon.client.retry(job.id)


def test_watch_from_the_beginning_misses_nothing(daemon: Daemon) -> None:
    """Also when the client is slow to read: five thousand entries do not fit into the socket at once."""
    socket = raw(daemon)
    try:
        socket.send_multipart(ms.to_server.encode(ms.Watch(request=7, after_seq=0)))
        # While the client does not read, the daemon serves others.
        assert daemon.client.ping()
        last = daemon.stats().last_seq
        assert last > HISTORY
        seen: list[int] = []
        while not seen or seen[-1] < last:
            message = answer(socket)
            assert isinstance(message, ms.Event)
            assert message.request == 7
            seen.append(message.seq)
        assert seen == list(range(1, last + 1))
    finally:
        socket.close()


def test_watch_of_one_job_yields_its_whole_journal(daemon: Daemon, tmp_path: Path) -> None:
    source = daemon.drop(media.write_sound(tmp_path / "life.flac", media.speech(4)), "life.flac")
    job = daemon.wait_for(source)
    events = [(entry.subject, entry.event) for entry in daemon.client.watch(job.id, after_seq=0, timeout_s=1)]
    assert events[0] == ("job", "accepted")
    assert events[-1] == ("job", "written")
    assert ("segment", "done") in events


@pytest.mark.long
def test_watch_resumes_after_a_restart(tmp_path: Path) -> None:
    """Every entry comes once, in order, though the daemon was another in between."""
    with Daemon(tmp_path) as daemon, Client(daemon.endpoint, timeout_s=1.0) as client:
        daemon.start()
        watch = client.watch(after_seq=0, timeout_s=60)
        seen = [next(watch).seq for _ in range(2)]
        daemon.stop()
        daemon.start()
        daemon.drop(b"not media", "x.mp4")
        for event in watch:
            seen.append(event.seq)
            if event.after == "failed":
                break
        assert seen == list(range(1, len(seen) + 1))
        daemon.stop()


def test_missing_server_raises_within_the_timeout() -> None:
    with (
        Client(ABSENT, timeout_s=0.2) as client,
        pytest.raises(UnreachableError, match="is the daemon running"),
    ):
        client.ping()
    with pytest.raises(UnreachableError, match="is not an endpoint"):
        Client("invalid")


# -- frames ----------------------------------------------------------------------------------------------------


def test_server_that_closes_each_connection_is_named_as_such() -> None:
    """A server with keys may close before its greeting is read; the timeout is not waited for."""
    with tcp.create_server(("127.0.0.1", 0)) as server:

        def close_each() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        closing = threading.Thread(target=close_each)
        closing.start()
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        try:
            with (
                Client(endpoint, timeout_s=60.0) as client,
                pytest.raises(UnreachableError, match=r"during the handshake; .* requires a key"),
            ):
                client.ping()
        finally:
            server.shutdown(tcp.SHUT_RDWR)
            closing.join()


def raw(daemon: Daemon) -> zmq.Socket[bytes]:
    """Return a socket to the daemon that sends whatever frames one likes."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(daemon.endpoint)
    return socket


def answer(socket: zmq.Socket[bytes]) -> ms.ToClient:
    assert socket.poll(20_000), "no answer"
    return ms.to_client.decode(socket.recv_multipart())[0]


def header(**fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


HOSTILE: dict[str, tuple[list[bytes], str]] = {
    "one frame": ([b"hello"], "BAD_FORMAT"),
    "empty frame": ([b""], "BAD_FORMAT"),
    "no header": ([VERSION, b""], "BAD_FORMAT"),
    "too many frames": ([VERSION, header(type="Hello", request=1), *[b""] * (MAX_BLOBS + 1)], "BAD_FORMAT"),
    "another version": ([b"\x02", header(type="Hello", request=1)], "BAD_VERSION"),
    "long version": ([b"\x01" * 10_000, header(type="Hello", request=1)], "BAD_VERSION"),
    "no msgpack": ([VERSION, b"\xc1"], "BAD_FORMAT"),
    "no map": ([VERSION, b"\x01"], "BAD_FORMAT"),
    "deep": ([VERSION, b"\x91" * 100_000], "BAD_FORMAT"),
    "deep, in a field": ([VERSION, header(type="Hello", request=1)[:-1] + b"\x91" * 100_000], "BAD_FORMAT"),
    "cut off": ([VERSION, header(type="Status", request=1, job="x")[:-1]], "BAD_FORMAT"),
    "long array": (
        [
            VERSION,
            b"\x83" + header(type="List", request=1)[1:] + b"\xa6states\xdd" + struct.pack(">I", 2**32 - 1),
        ],
        "BAD_FORMAT",
    ),
    "no type": ([VERSION, header(request=1)], "BAD_FORMAT"),
    "unknown message": ([VERSION, header(type="Format", request=1)], "UNKNOWN_MESSAGE"),
    "long type": ([VERSION, header(type="x" * 1_000_000, request=1)], "UNKNOWN_MESSAGE"),
    "long value": (
        [VERSION, header(type="Submit", request=1, options={"task": "x" * 1_000_000})],
        "BAD_FORMAT",
    ),
    "type is a number": ([VERSION, header(type=3, request=1)], "BAD_FORMAT"),
    "a server's message": ([VERSION, header(type="Welcome", request=1)], "UNKNOWN_MESSAGE"),
    "no job": ([VERSION, header(type="Status", request=1)], "BAD_FORMAT"),
    "job is a number": ([VERSION, header(type="Status", request=1, job=5)], "BAD_FORMAT"),
    "job is no UTF-8": (
        [VERSION, b"\x83" + header(type="Status", request=1)[1:] + b"\xa3job\xa2\xff\xfe"],
        "BAD_FORMAT",
    ),
    "job is long": ([VERSION, header(type="Status", request=1, job="x" * 1_000_000)], "NOT_FOUND"),
    "job is a zero": ([VERSION, header(type="Cancel", request=1, job="\0")], "NOT_FOUND"),
    "format is long": ([VERSION, header(type="Fetch", request=1, job="x", format="f" * 9_999)], "NOT_FOUND"),
    "endless watch": ([VERSION, header(type="Watch", request=1, after_seq=2**64 - 1)], "BAD_FORMAT"),
    "watch of before": ([VERSION, header(type="Watch", request=1, after_seq=-(2**63))], "BAD_FORMAT"),
    "request is a text": ([VERSION, header(type="Hello", request="1")], "BAD_FORMAT"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_frames_get_an_error_and_the_daemon_lives(daemon: Daemon, name: str) -> None:
    frames, code = HOSTILE[name]
    socket = raw(daemon)
    try:
        socket.send_multipart(frames)
        message = answer(socket)
        assert isinstance(message, ms.Error)
        assert message.code == code
        assert message.request in {0, 1}
        assert len(message.message) < 500
        # The same connection continues, as do others.
        socket.send_multipart(ms.to_server.encode(ms.Hello(request=2**64 - 1)))
        welcome = answer(socket)
        assert isinstance(welcome, ms.Welcome)
        assert welcome.request == 2**64 - 1
    finally:
        socket.close()
    assert daemon.client.ping()


def test_unknown_fields_of_a_later_version_are_ignored(daemon: Daemon) -> None:
    """Unknown fields are ignored."""
    socket = raw(daemon)
    try:
        socket.send_multipart(
            [VERSION, header(type="Hello", request=3, colour="blue", more={"a": [1]}), b"blob"]
        )
        assert isinstance(answer(socket), ms.Welcome)
    finally:
        socket.close()


def test_a_huge_frame_is_dropped_and_the_daemon_lives(daemon: Daemon) -> None:
    """ZeroMQ closes the connection at 2 MiB; silence is the answer."""
    socket = raw(daemon)
    try:
        socket.send_multipart([VERSION, bytes(2 * 2**20 + 1)])
        assert daemon.client.ping()
        assert not socket.poll(100)
    finally:
        socket.close()
    assert is_running(daemon.pid)


def test_many_watchers_that_never_read_do_not_disturb_others(daemon: Daemon) -> None:
    sockets = [raw(daemon) for _ in range(20)]
    for socket in sockets:
        socket.send_multipart(ms.to_server.encode(ms.Watch(request=1, after_seq=0)))
    assert daemon.client.ping()
    for socket in sockets:
        socket.close()
    assert daemon.wait_for(daemon.drop(b"not media", "flood.mp4")).state == "failed"


# -- the commands ----------------------------------------------------------------------------------------------


def subtitle(
    daemon: Daemon, *words: str, folder: Path | None = None, server: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a `subtitle` command as a person would."""
    environ = {"SUBTITLE_SERVER": server or daemon.endpoint, "COLUMNS": "200"}
    return run_command("subtitle", *words, environ=environ, folder=folder)


def lines_of_json(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def test_ping_list_and_status_print_server_and_jobs(daemon: Daemon, talk: JobFacts, broken: JobFacts) -> None:
    found = subtitle(daemon, "ping")
    assert found.returncode == 0
    assert re.fullmatch(rf"subtitled {SERVER_VERSION}, model demo, answered in \d+\.\d ms\n", found.stdout)
    found = subtitle(daemon, "list")
    assert found.returncode == 0
    for part in (talk.id, "talk.flac", broken.id, "broken.mp4", "failed"):
        assert part in found.stdout
    found = subtitle(daemon, "status", broken.id)
    assert found.returncode == 0
    assert broken.cause in found.stdout
    assert "broken.mp4.error.txt" in found.stdout
    found = subtitle(daemon, "status")
    assert found.returncode == 0
    for part in ("cpu0.1", "prepare0.1", "idle", " done"):
        assert part in found.stdout


def test_commands_print_json_with_one_value_per_line(daemon: Daemon, talk: JobFacts) -> None:
    [welcome] = lines_of_json(subtitle(daemon, "ping", "--json").stdout)
    assert welcome["model"] == "demo"
    jobs = lines_of_json(subtitle(daemon, "list", "--json").stdout)
    assert talk.id in {job["id"] for job in jobs}
    [job] = lines_of_json(subtitle(daemon, "status", talk.id, "--json").stdout)
    assert msgspec.convert(job, ms.JobFacts) == talk
    [stats] = lines_of_json(subtitle(daemon, "status", "--json").stdout)
    assert stats["queued_bytes"] == 0


def test_fetch_writes_to_the_chosen_folder_or_file(daemon: Daemon, talk: JobFacts, tmp_path: Path) -> None:
    written = (daemon.outbox / "talk.en.srt").read_text("utf-8")
    found = subtitle(daemon, "fetch", talk.id, folder=tmp_path)
    assert (found.returncode, found.stdout) == (0, "talk.en.srt\ntalk.en.json\n")
    assert (tmp_path / "talk.en.srt").read_text("utf-8") == written
    (tmp_path / "talk.en.srt").write_text("mine", "utf-8")
    assert subtitle(daemon, "fetch", talk.id, "--format", "srt", folder=tmp_path).stdout == "talk.en.2.srt\n"
    assert (tmp_path / "talk.en.srt").read_text("utf-8") == "mine"
    (tmp_path / "folder").mkdir()
    assert (
        subtitle(daemon, "fetch", talk.id, "--format", "json", "-o", str(tmp_path / "folder")).returncode == 0
    )
    assert (tmp_path / "folder" / "talk.en.json").is_file()
    assert subtitle(daemon, "fetch", talk.id, "-o", "mine.srt", folder=tmp_path).returncode == 0
    assert (tmp_path / "mine.srt").read_text("utf-8") == written
    assert subtitle(daemon, "fetch", talk.id, "-o", "-").stdout == written


def test_watch_of_a_job_ends_with_the_job(daemon: Daemon, talk: JobFacts, broken: JobFacts) -> None:
    """Exit status 0 when it is done, 1 when it failed; at once when it has ended before."""
    found = subtitle(daemon, "watch", talk.id, "--since", "0", "--json")
    assert found.returncode == 0
    events = lines_of_json(found.stdout)
    assert [event["event"] for event in events if event["subject"] == "job"][-1] == "written"
    assert subtitle(daemon, "watch", broken.id, "--since", "0").returncode == 1
    assert subtitle(daemon, "watch", talk.id).returncode == 0
    found = subtitle(daemon, "watch", broken.id)
    assert found.returncode == 1
    assert broken.cause in found.stdout
    assert subtitle(daemon, "watch", "nosuch").returncode == 2


def test_cancel_and_retry_print_the_state_of_the_job(daemon: Daemon, broken: JobFacts) -> None:
    found = subtitle(daemon, "retry", broken.id)
    assert found.returncode == 0
    assert found.stdout.startswith(f"{broken.id} ")
    assert daemon.wait_for(daemon.inbox / "broken.mp4").state == "failed"
    found = subtitle(daemon, "cancel", broken.id)
    assert found.returncode == 3
    assert found.stderr.startswith("subtitle: broken.mp4: job ")


def test_cancel_ends_a_running_job(daemon: Daemon, tmp_path: Path) -> None:
    source = daemon.drop(media.write_sound(tmp_path / "long.flac", media.recording()), "long.flac")
    job = eventually(lambda: daemon.job_of(source), "the job is accepted")
    found = subtitle(daemon, "cancel", job.id, "--json")
    assert found.returncode == 0
    assert lines_of_json(found.stdout)[0]["state"] == "cancelled"
    assert subtitle(daemon, "watch", job.id, "--since", "0").returncode == 1
    source.unlink()


def test_wrong_usage_is_status_2(daemon: Daemon) -> None:
    for words in (
        ["lisst"],
        ["status", "--nope"],
        ["fetch"],
        ["list", "--limit", "0"],
        ["watch", "--since", "x"],
    ):
        found = subtitle(daemon, *words)
        assert found.returncode == 2, words
        assert "Usage" in found.stderr
    assert subtitle(daemon, "--help").returncode == 0


def test_an_unreachable_server_is_status_3_within_the_timeout(daemon: Daemon) -> None:
    began = time.monotonic()
    found = subtitle(daemon, "--timeout", "0.3", "status", server=ABSENT)
    assert found.returncode == 3
    assert found.stderr.startswith(f"subtitle: no daemon listens at {ABSENT}; start it with `systemctl")
    assert time.monotonic() - began < 30
    assert subtitle(daemon, "ping", server="tcp://invalid").returncode == 3
    assert subtitle(daemon, "--server", "what", "ping").returncode == 3


def test_the_client_needs_nothing_of_the_daemon() -> None:
    """`pip install subtitled` brings no model runtime: the client must not import what is not there."""
    code = (
        "import sys, subtitle, subtitle.cli\n"
        "found = {'subtitled', 'numpy', 'av', 'faster_whisper', 'structlog', 'watchdog'} & set(sys.modules)\n"
        "sys.exit(', '.join(found) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shutil.which("subtitle", path=str(Path(sys.executable).parent))


@pytest.mark.parametrize(
    "use",
    [
        "client = subtitle.Client('tcp://127.0.0.1:1', timeout_s=0.1); call(client.ping)",
        "use(subtitle.Client('tcp://127.0.0.1:1', timeout_s=0.1))",
        "asyncio.run(use_async())",
    ],
)
def test_client_dropped_without_close_does_not_hang_the_interpreter(use: str) -> None:
    program = (
        "import asyncio, subtitle, subtitle.aio\n"
        "def call(method):\n"
        "    try:\n"
        "        method()\n"
        "    except subtitle.UnreachableError:\n"
        "        pass\n"
        "def use(client):\n"
        "    call(client.ping)\n"
        "async def use_async():\n"
        "    client = subtitle.aio.AsyncClient('tcp://127.0.0.1:1', timeout_s=0.1)\n"
        "    try:\n"
        "        await client.ping()\n"
        "    except subtitle.UnreachableError:\n"
        "        pass\n"
        f"{use}\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
