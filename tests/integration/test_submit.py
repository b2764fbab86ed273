"""A file sent from the shell or from Python comes back as subtitles, whatever is killed in between."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zmq

import media
import subtitle.aio
from commands import run_command
from daemon import Daemon, eventually
from daemon_with_keys import DaemonWithKeys
from subtitle import (
    Client,
    FileChangedError,
    JobFailedError,
    Key,
    OptionError,
    Progress,
    ServerError,
    UnreachableError,
    WaitTimeoutError,
)
from subtitle import messages as ms
from subtitle.keys import new_pair, save_key
from subtitled.config import schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

MIB = 2**20
SPOKEN_S = 8.0
WAIT_S = 120.0
"""Longest wait for a job; a verdict on the daemon, never on the machine's speed."""
RUN = "import signal, subtitle.cli; signal.signal(signal.SIGINT, signal.default_int_handler); subtitle.cli.main()"
"""The `subtitle` command, with Ctrl-C as on a terminal even where the tests run in the background."""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonWithKeys]:
    """Run a daemon with two users, an admin and a folder whose files may be named by path."""
    folder = tmp_path_factory.mktemp("secured")
    (folder / "media").mkdir()
    running = DaemonWithKeys(folder, uploads=schema.UploadsConfig(paths=(str(folder / "media"),)))
    yield running
    running.daemon.close()


@pytest.fixture
def client(secured: DaemonWithKeys) -> Iterator[Client]:
    with Client(secured.endpoint, secured.ann, timeout_s=20.0) as connected:
        yield connected


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Return a recording that no other test has submitted."""
    return recorded(tmp_path / "talk.wav")


def recorded(path: Path, *, seconds: float = SPOKEN_S, ballast_bytes: int = 64) -> Path:
    """Write speech with some bytes before it that mean nothing and are unlike those of any other file."""
    pcm = media.speech(seconds).tobytes()
    ballast = os.urandom(ballast_bytes)
    body = b"".join(
        (
            b"WAVE",
            b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, media.RATE, 2 * media.RATE, 2, 16),
            b"JUNK" + struct.pack("<I", len(ballast)) + ballast,
            b"data" + struct.pack("<I", len(pcm)) + pcm,
        )
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def command(secured: DaemonWithKeys, *words: str) -> tuple[list[str], dict[str, str]]:
    """Return a `subtitle` command as ann's, and its environment."""
    return [sys.executable, "-c", RUN, *words], {**os.environ, **variables(secured)}


def variables(secured: DaemonWithKeys) -> dict[str, str]:
    """Return the environment variables of a `subtitle` command as ann's."""
    key = str(secured.daemon.folder / "ann.toml")
    return {"COLUMNS": "200", "SUBTITLE_SERVER": secured.endpoint, "SUBTITLE_KEY": key}


def run(
    secured: DaemonWithKeys, *words: str | Path, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a `subtitle` command as ann's to its end."""
    return run_command("subtitle", *words, environ=variables(secured), folder=folder)


# -- the shell -------------------------------------------------------------------------------------------------


def test_submit_and_wait_saves_the_subtitles_beside_the_file(secured: DaemonWithKeys, talk: Path) -> None:
    found = run(secured, "submit", talk, "--wait", "--format", "srt,json")
    assert found.returncode == 0, found.stderr
    paths = [talk.with_name("talk.en.srt"), talk.with_name("talk.en.json")]
    assert found.stdout.splitlines() == [str(path) for path in paths]
    assert "-->" in paths[0].read_text("utf-8")
    assert json.loads(paths[1].read_bytes())["language"] == "en"
    assert sorted(path.name for path in talk.parent.iterdir()) == ["talk.en.json", "talk.en.srt", "talk.wav"]
    for line in ("talk.wav: uploading, ", "talk.wav: submitted, job ", "talk.wav: done"):
        assert line in found.stderr


def test_the_same_command_again_changes_nothing(secured: DaemonWithKeys, talk: Path) -> None:
    """The existing job is used, and the existing file is kept."""
    first = run(secured, "submit", talk, "--wait", "--json")
    written = talk.with_name("talk.en.srt").stat().st_mtime_ns
    second = run(secured, "submit", talk, "--wait", "--json")
    assert (first.returncode, second.returncode) == (0, 0)
    assert json.loads(second.stdout) == json.loads(first.stdout)
    assert talk.with_name("talk.en.srt").stat().st_mtime_ns == written
    assert "submitted before; --allow-duplicate creates another job" in second.stderr
    again = run(secured, "submit", talk, "--allow-duplicate", "--json")
    assert json.loads(again.stdout)["id"] != json.loads(first.stdout)["id"]


def test_a_foreign_file_is_kept_unless_forced(secured: DaemonWithKeys, talk: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    assert run(secured, "submit", talk, "--wait", "-o", out).stdout == f"{out}/talk.en.srt\n"
    srt = (out / "talk.en.srt").read_bytes()
    (out / "talk.en.srt").write_text("mine", "utf-8")
    assert run(secured, "submit", talk, "--wait", "-o", out).stdout == f"{out}/talk.en.2.srt\n"
    assert (out / "talk.en.srt").read_text("utf-8") == "mine"
    assert run(secured, "submit", talk, "--wait", "-o", out, "--force").stdout == f"{out}/talk.en.srt\n"
    assert (out / "talk.en.srt").read_bytes() == srt


def test_several_files_are_waited_for_and_a_failure_is_reported(
    secured: DaemonWithKeys, talk: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not media " + os.urandom(8))
    found = run(secured, "submit", bad, talk, "--wait", "--json")
    assert found.returncode == 1
    ended = {line["state"]: line for line in map(json.loads, found.stdout.splitlines())}
    assert ended["done"]["saved"] == [str(talk.with_name("talk.en.srt"))]
    assert ended["failed"]["saved"] == []
    assert f"subtitle: {bad}: failed: " in found.stderr


def test_submit_without_wait_prints_the_job(secured: DaemonWithKeys, talk: Path) -> None:
    found = run(secured, "submit", talk, "--tag", "monday", "--priority", "3")
    assert found.returncode == 0
    job, _state, name = found.stdout.split()
    assert name == str(talk)
    (listed,) = run(secured, "list", "--tag", "monday", "--json").stdout.splitlines()
    assert (json.loads(listed)["id"], json.loads(listed)["priority"]) == (job, 3)
    assert run(secured, "list", "--tag", "tuesday", "--json").stdout == ""


def test_wrong_usage_is_reported_before_anything_is_sent(secured: DaemonWithKeys, talk: Path) -> None:
    (talk.parent / "nothing").mkdir()
    for words, status, said in (
        (["submit", str(talk), "--max-chars", "3"], 2, "layout.max_chars: 3 is not allowed (at least 8)"),
        (["submit", str(talk), "-o", "out"], 2, "-o and --force need --wait"),
        (["submit", "nosuch.wav"], 2, "nosuch.wav: no such file"),
        (["submit", str(talk.parent / "nothing")], 2, "contains no media files"),
        (["submit"], 2, "Missing argument"),
        (["submit", str(talk), "--language", "klingon"], 3, "language 'klingon'"),
        (["submit", str(talk), "--format", "doc"], 3, "unknown format 'doc'; supported:"),
        (["submit", "--on-server", str(talk)], 3, "only clients of the server's local socket"),
    ):
        found = run(secured, *words)
        assert (found.returncode, found.stdout) == (status, ""), words
        assert said in found.stderr


def test_option_that_the_server_refuses_is_reported_once_for_many_files(
    secured: DaemonWithKeys, talk: Path, tmp_path: Path
) -> None:
    for name in ("second.wav", "third.wav"):
        shutil.copy(talk, tmp_path / name)
    found = run(secured, "submit", str(tmp_path), "--language", "klingon")
    assert (found.returncode, found.stdout) == (3, "")
    reasons = [line for line in found.stderr.splitlines() if "language 'klingon'" in line]
    assert len(reasons) == 2, found.stderr
    assert reasons[1].startswith("subtitle: 3 files in all: ")


def test_a_path_on_the_server_is_submitted_on_its_local_socket(
    secured: DaemonWithKeys, tmp_path: Path
) -> None:
    source = recorded(secured.daemon.folder / "media" / "there.wav")
    local = ("--server", secured.daemon.endpoint)
    found = run(secured, "submit", "--on-server", source, "--wait", "-o", tmp_path, *local)
    assert (found.returncode, found.stdout) == (0, f"{tmp_path}/there.en.srt\n")
    outside = recorded(tmp_path / "outside.wav")
    found = run(secured, "submit", "--on-server", outside, *local)
    assert found.returncode == 3
    assert "uploads.paths" in found.stderr


def test_server_and_key_may_stand_before_and_after_the_command(
    secured: DaemonWithKeys, tmp_path: Path
) -> None:
    reach = ["--server", secured.endpoint, "--key", str(secured.daemon.folder / "ben.toml")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SUBTITLE_")}
    for words in (["ping", *reach], [*reach, "ping"], [*reach[:2], "ping", *reach[2:]]):
        found = subprocess.run(
            [sys.executable, "-c", RUN, *words], env=environ, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stderr
        assert "you are ben (user), answered in " in found.stdout
    found = run(secured, "ping", "--key", tmp_path / "nosuch.toml")
    assert (found.returncode, found.stdout) == (2, "")
    assert "cannot be read" in found.stderr


def test_users_see_only_their_own_jobs(secured: DaemonWithKeys, talk: Path) -> None:
    job = json.loads(run(secured, "submit", talk, "--wait", "--json").stdout)["id"]
    for name, sees in (("ann", True), ("ben", False), ("root", True)):
        key = ["--key", str(secured.daemon.folder / f"{name}.toml")]
        listed = [json.loads(line)["id"] for line in run(secured, "list", "--json", *key).stdout.splitlines()]
        assert (job in listed) is sees
        assert run(secured, "fetch", job, "-o", "-", *key).returncode == (0 if sees else 3), name
    for words in (["status", job], ["watch", job], ["cancel", job]):
        assert run(secured, *words, "--key", str(secured.daemon.folder / "ben.toml")).returncode == 3, words


def test_top_prints_one_snapshot_without_a_terminal(secured: DaemonWithKeys) -> None:
    found = run(secured, "top")
    assert found.returncode == 0
    for part in ("subtitled 0.1.0", "cpu0", "transcribe", "uploads: ", "since the start"):
        assert part in found.stdout
    (snapshot,) = map(json.loads, run(secured, "top", "--json").stdout.splitlines())
    assert [worker["slot"] for worker in snapshot["stats"]["workers"]][-1] == "cpu0"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_the_shell(secured: DaemonWithKeys, shell: str) -> None:
    found = run(secured, "completion", shell)
    assert found.returncode == 0
    assert "_SUBTITLE_COMPLETE" in found.stdout


class Interrupted:
    """A `subtitle` command that is stopped by Ctrl-C once it says something on standard error."""

    def __init__(self, secured: DaemonWithKeys, *words: str, at: str) -> None:
        line, environ = command(secured, *words)
        process = subprocess.Popen(
            line, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        timer = threading.Timer(WAIT_S, process.kill)
        timer.start()
        said = []
        for text in process.stderr:
            said.append(text)
            if at in text:
                process.send_signal(signal.SIGINT)
                break
        self.stdout, rest = process.communicate()
        timer.cancel()
        self.stderr = "".join(said) + rest
        self.status = process.returncode


def test_ctrl_c_while_waiting_leaves_the_job_running_and_prints_commands_for_it(
    secured: DaemonWithKeys, client: Client, tmp_path: Path
) -> None:
    long = recorded(tmp_path / "long.wav", seconds=75)
    found = Interrupted(secured, "submit", str(long), "--wait", at="submitted, job")
    assert (found.status, found.stdout) == (130, "")
    job = found.stderr.partition("submitted, job ")[2].split()[0]
    assert "subtitle: interrupted; the jobs continue" in found.stderr
    assert f"long.wav: subtitle watch {job}, then subtitle fetch {job}" in found.stderr
    assert client.status(job).state not in {"cancelled", "failed"}
    if client.status(job).state != "done":
        client.cancel(job)


class Deaf:
    """A server that accepts every upload and never says a word about its bytes."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(endpoint)
        self._is_open = True
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._is_open = False
        self._thread.join()
        self._socket.close(0)
        self._context.term()

    def _serve(self) -> None:
        while self._is_open:
            if not self._socket.poll(50):
                continue
            who, *frames = self._socket.recv_multipart()
            message, _ = ms.to_server.decode(frames)
            answer: ms.ToClient
            match message:
                case ms.Hello(request=request):
                    answer = ms.Welcome(request=request, server="0", protocol=1, model="none")
                case ms.Submit(request=request):
                    answer = ms.Accepted(
                        request=request, job="j1", offset=0, window_bytes=MIB, chunk_bytes=MIB
                    )
                case _:
                    continue
            self._socket.send_multipart([who, *ms.to_client.encode(answer)])


@pytest.fixture
def deaf(secured: DaemonWithKeys) -> Iterator[str]:
    endpoint = f"ipc://{secured.daemon.sockets}/deaf.sock"
    server = Deaf(endpoint)
    yield endpoint
    server.close()


def test_ctrl_c_while_sending_prints_how_to_resume(secured: DaemonWithKeys, deaf: str, talk: Path) -> None:
    found = Interrupted(secured, "submit", str(talk), "--wait", "--server", deaf, at="uploading")
    assert (found.status, found.stdout) == (130, "")
    assert f"interrupted; the sent part is kept: submit {talk} again to resume" in found.stderr


# -- killed in between -----------------------------------------------------------------------------------------


def test_upload_of_a_killed_client_resumes(secured: DaemonWithKeys, tmp_path: Path) -> None:
    heavy = recorded(tmp_path / "heavy.wav", ballast_bytes=24 * MIB)
    program = (
        "import os, signal, sys, subtitle\n"
        "def stop(progress):\n"
        "    if progress.uploaded_bytes >= 4 * 2**20:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "with subtitle.Client() as client:\n"
        "    client.submit(sys.argv[1], on_progress=stop)\n"
    )
    _, environ = command(secured)
    killed = subprocess.run([sys.executable, "-c", program, str(heavy)], env=environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    found = run(secured, "submit", heavy, "--wait")
    assert found.returncode == 0, found.stderr
    first = next(line for line in found.stderr.splitlines() if "uploading, " in line)
    assert float(first.split()[2]) >= 4.1, first
    assert "-->" in heavy.with_name("heavy.en.srt").read_text("utf-8")


def test_upload_to_a_killed_daemon_resumes_after_its_restart(tmp_path: Path) -> None:
    heavy = recorded(tmp_path / "heavy.wav", ballast_bytes=24 * MIB)
    with Daemon(tmp_path) as daemon, Client(daemon.endpoint, timeout_s=20.0) as client:
        daemon.start()
        reported: list[Progress] = []

        def kill_once(progress: Progress) -> None:
            if progress.uploaded_bytes >= 4 * MIB and not any(p.uploaded_bytes >= 4 * MIB for p in reported):
                daemon.kill()
                daemon.start()
            reported.append(progress)

        job = client.submit(heavy, on_progress=kill_once)
        assert job.wait(WAIT_S).language == "en"
        figures = daemon.scrape()
        assert figures['subtitled_uploads_total{event="resumed"}'] == 1
        assert figures["subtitled_upload_bytes_total"] <= heavy.stat().st_size - 4 * MIB
        sent = [progress.uploaded_bytes for progress in reported if progress.state == "receiving"]
        assert sent == sorted(sent)
        assert sent[-1] == heavy.stat().st_size
        daemon.stop()


@pytest.mark.long
def test_waiting_survives_killed_daemon_and_workers(tmp_path: Path) -> None:
    long = recorded(tmp_path / "long.wav", seconds=60)
    with Daemon(tmp_path) as daemon, Client(daemon.endpoint, timeout_s=20.0) as client:
        daemon.start()
        job = client.submit(long)
        killed: list[str] = []

        def kill(progress: Progress) -> None:
            if progress.segments_done and not killed:
                killed.append("worker")
                os.kill(next(pid for name, pid in daemon.workers().items() if "cpu" in name), signal.SIGKILL)
            elif progress.segments_done > 2 and len(killed) == 1:
                killed.append("daemon")
                daemon.kill()
                daemon.start()

        assert job.wait(WAIT_S, on_progress=kill).state == "done"
        assert killed == ["worker", "daemon"]
        assert "-->" in job.text()
        daemon.stop()


# -- Python ----------------------------------------------------------------------------------------------------


def test_job_handle_has_facts_progress_events_text_and_files(
    client: Client, talk: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    job = client.submit(talk, language="en", formats=("srt", "json"), tag="api", on_progress=seen.append)
    assert seen[0].state == "hashing"
    assert (seen[-1].state, seen[-1].job, seen[-1].fraction) == ("receiving", job.id, 1.0)
    facts = job.wait(WAIT_S, on_progress=seen.append)
    assert (facts.state, facts.tag, facts.owner, facts.source) == ("done", "api", "ann", "talk.wav")
    assert facts == job.facts()
    assert (seen[-1], seen[-1].fraction) == (job.progress, 1.0)
    events = [event for event in job.events(timeout_s=WAIT_S) if event.subject == "job"]
    assert (events[0].event, events[-1].after) == ("accepted", "done")
    assert "-->" in job.text("srt")
    folder = tmp_path / "out"
    folder.mkdir()
    assert job.save(folder) == [folder / "talk.en.srt", folder / "talk.en.json"]
    assert job.save(folder) == [folder / "talk.en.srt", folder / "talk.en.json"]
    assert job.save(folder / "mine.json") == [folder / "mine.json"]
    assert (folder / "mine.json").read_bytes() == (folder / "talk.en.json").read_bytes()
    with pytest.raises(OptionError, match="is not a folder"):
        job.save(folder / "nosuch", ("srt", "json"))
    assert client.job(job.id).wait(WAIT_S) == facts
    with pytest.raises(ServerError, match="WRONG_STATE"):
        job.cancel()


def test_failed_or_cancelled_job_raises_its_cause(client: Client, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not media " + os.urandom(8))
    job = client.submit(bad)
    with pytest.raises(JobFailedError, match=rf"job {job.id} \(bad\.mp4\) failed: .*not media"):
        job.wait(WAIT_S)
    eventually(lambda: _is_retried(job), "the job can be retried")
    with pytest.raises(JobFailedError):
        job.wait(WAIT_S)
    long = client.submit(recorded(tmp_path / "long.wav", seconds=75))
    with pytest.raises(WaitTimeoutError, match=rf"not ended within 0\.01 s: {long.id}"):
        long.wait(0.01)
    assert long.cancel().state == "cancelled"
    with pytest.raises(JobFailedError, match="was cancelled"):
        long.wait(WAIT_S)


def _is_retried(job: subtitle.JobHandle) -> bool:
    """Retry a failed job, whose last files are written a moment after its state."""
    try:
        job.retry()
    except ServerError as error:
        if error.code != "WRONG_STATE":
            raise
        return False
    return True


def test_upload_that_is_cancelled_ends_and_is_not_started_again(client: Client, tmp_path: Path) -> None:
    heavy = recorded(tmp_path / "heavy.wav", ballast_bytes=24 * MIB)

    def cancel(progress: Progress) -> None:
        if progress.uploaded_bytes >= MIB and client.status(progress.job).state == "receiving":
            client.cancel(progress.job)

    with pytest.raises(JobFailedError, match="was cancelled"):
        client.submit(heavy, on_progress=cancel)
    assert "heavy.wav" not in {job.source for job in client.list(("receiving",))}


def test_calls_may_overlap(client: Client, talk: Path) -> None:
    """Also from the callback of one, and between the entries of another."""
    job = client.submit(talk, on_progress=lambda _: client.stats())
    events = job.events(timeout_s=WAIT_S)
    states = [(next(events).event, job.facts().id) for _ in range(3)]
    assert {found for _, found in states} == {job.id}
    job.wait(WAIT_S, on_progress=lambda _: client.ping())
    assert [event.after for event in events if event.subject == "job"][-1] == "done"


def test_a_file_that_changes_while_it_is_sent_is_an_error(client: Client, talk: Path) -> None:
    def grow(progress: Progress) -> None:
        if progress.state == "hashing":
            with talk.open("ab") as file:
                file.write(b"more")

    with pytest.raises(FileChangedError, match=r"talk\.wav: changed while it was read"):
        client.submit(talk, on_progress=grow)


def test_invalid_files_and_options_raise_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.submit(tmp_path / "nosuch.wav")
    os.mkfifo(tmp_path / "fifo.wav")
    with pytest.raises(subtitle.SubtitleError, match="is not a regular file"):
        client.submit(tmp_path / "fifo.wav")
    huge = tmp_path / "huge.wav"
    with huge.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        ServerError, match=r"TOO_BIG: .*1099511627776 bytes; this server accepts 21474836480 at most"
    ):
        client.submit(huge)
    with pytest.raises(OptionError, match="formats='srt' is a string"):
        client.submit(huge, formats="srt")
    with pytest.raises(OptionError, match="colour is not a job option; known: model, language, "):
        client.submit(huge, colour="blue")  # type: ignore[call-arg]
    with pytest.raises(OptionError, match=r"priority: 1000 is not allowed \(at most 100\)"):
        client.submit(huge, options=ms.JobOptions(priority=1000))


def test_submit_ends_at_the_callers_timeout(deaf: str, talk: Path) -> None:
    with Client(deaf) as client, pytest.raises(WaitTimeoutError, match=r"not sent within 0\.5 s"):
        client.submit(talk, timeout_s=0.5)


def test_client_without_a_key_gets_an_error_with_a_remedy(secured: DaemonWithKeys, tmp_path: Path) -> None:
    public, secret = new_pair()
    unlisted = Key(name="zoe", public=public, secret=secret, server=secured.ann.server)
    with Client(secured.endpoint, unlisted) as client, pytest.raises(UnreachableError, match="the key 'zoe'"):
        client.ping()
    with Client(secured.endpoint, "") as client, pytest.raises(UnreachableError, match="requires a key"):
        client.ping()
    other = Key(name="ann", public=secured.ann.public, secret=secured.ann.secret, server=public)
    save_key(tmp_path / "other.toml", other)
    with (
        Client(secured.endpoint, tmp_path / "other.toml", timeout_s=0.5) as client,
        pytest.raises(UnreachableError, match="no answer within"),
    ):
        client.ping()


# -- asyncio ---------------------------------------------------------------------------------------------------


def awaited(test: Callable[[], object]) -> None:
    asyncio.run(asyncio.wait_for(test(), WAIT_S))  # type: ignore[arg-type]


def test_asyncio_client_makes_the_same_round_trip(secured: DaemonWithKeys, tmp_path: Path) -> None:
    """Several at once, over connections of their own."""
    files = [recorded(tmp_path / f"talk{number}.wav") for number in range(2)]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not media " + os.urandom(8))

    async def submit(client: subtitle.aio.AsyncClient, path: Path) -> subtitle.aio.AsyncJobHandle:
        seen: list[Progress] = []
        job = await client.submit(path, tag="aio", on_progress=seen.append)
        assert (seen[0].state, seen[-1].fraction) == ("hashing", 1.0)
        return job

    async def test() -> None:
        async with subtitle.aio.AsyncClient(secured.endpoint, secured.ann, timeout_s=20.0) as client:
            jobs = await asyncio.gather(*(submit(client, path) for path in files))
            ended = await asyncio.gather(*(job.wait(WAIT_S) for job in jobs))
            welcome = await client.ping()
            assert (welcome.user, [facts.state for facts in ended]) == ("ann", ["done", "done"])
            assert {facts.id for facts in await client.list(("done",), tag="aio")} == {job.id for job in jobs}
            events = [event async for event in jobs[0].events(timeout_s=WAIT_S)]
            assert events[-1].after == "done"
            assert (await jobs[0].progress).fraction == 1.0
            assert await jobs[1].save(tmp_path) == [tmp_path / "talk1.en.srt"]
            assert await jobs[1].text() == (tmp_path / "talk1.en.srt").read_text("utf-8")
            with pytest.raises(JobFailedError, match="not media"):
                await (await client.submit(bad)).wait(WAIT_S)
            assert (await client.stats()).jobs["done"] >= 2

    awaited(test)


def test_a_cancelled_task_leaves_the_asyncio_client_usable(deaf: str, talk: Path) -> None:
    async def test() -> None:
        async with subtitle.aio.AsyncClient(deaf) as client:
            sending = asyncio.Event()
            task = asyncio.create_task(client.submit(talk, on_progress=lambda _: sending.set()))
            await sending.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.ping()).model == "none"
            with pytest.raises(WaitTimeoutError):
                await client.submit(talk, timeout_s=0.3)

    awaited(test)


# -- what comes from somewhere else ------------------------------------------------------------------------------


def test_a_stream_becomes_a_job_with_the_options_known_at_its_end(client: Client, talk: Path) -> None:
    content = talk.read_bytes()
    job = client.submit_stream(
        (content[at : at + 1000] for at in range(0, len(content), 1000)),
        "piped.wav",
        final_options=lambda: ms.JobOptions(language="en", priority=3),
        tag="piped",
    )
    facts = job.wait(WAIT_S)
    assert (facts.source, facts.size, facts.tag) == ("piped.wav", len(content), "piped")
    assert (facts.language, facts.priority) == ("en", 3)
    assert job.text("txt")


def test_interrupted_stream_is_cancelled_and_its_bytes_are_deleted(
    secured: DaemonWithKeys, client: Client
) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * MIB
        raise ValueError("the source is gone")

    with pytest.raises(ValueError, match="the source is gone"):
        client.submit_stream(broken(), "broken.wav", tag="broken")
    [facts] = client.list(tag="broken")
    assert facts.state == "cancelled"
    kept = secured.daemon.folder / "state" / "uploads" / facts.id
    eventually(lambda: not kept.exists(), "its bytes are gone")


def test_stream_may_be_larger_than_the_held_bytes(secured: DaemonWithKeys, talk: Path) -> None:
    """Ten times what may be in transit, to a daemon that writes as fast as it can; by asyncio, where a task may be cancelled."""
    content = talk.read_bytes()

    async def run() -> None:
        async with subtitle.aio.AsyncClient(secured.endpoint, secured.ann, timeout_s=20.0) as client:

            async def noise() -> AsyncIterator[bytes]:
                for _ in range(320):
                    yield bytes(2**16)

            job = await client.submit_stream(noise(), "noise.bin", tag="large")
            assert (await job.facts()).size == 20 * MIB

            is_under_way = asyncio.Event()

            async def stuck() -> AsyncIterator[bytes]:
                yield content
                is_under_way.set()
                await asyncio.Event().wait()

            task = asyncio.ensure_future(client.submit_stream(stuck(), "stuck.wav", tag="stuck"))
            await is_under_way.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [facts.state for facts in await client.list(tag="stuck")] == ["cancelled"]

    asyncio.run(asyncio.wait_for(run(), WAIT_S))
