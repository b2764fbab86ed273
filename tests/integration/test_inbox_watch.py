"""Files that settle in a watched folder are reported, with real folders and inotify."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs

import media
from subtitled.config.schema import InboxConfig
from subtitled.files.filesystem import is_open_for_writing
from subtitled.inboxes.watch import InboxWatcher, RenamedFile, SettledFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from typing import Any

DEADLINE_S = 20.0


def wait_until(is_so: Callable[[], object]) -> None:
    """Return when `is_so()` is true; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, "the deadline has passed"
        pause.wait(0.01)


class Watching:
    """A running watcher with its reports and its log."""

    def __init__(self, logs: list[MutableMapping[str, Any]]) -> None:
        self.arrivals: list[SettledFile] = []
        self.renamed: list[tuple[str, str]] = []
        """Old and new names."""
        self.logs = logs
        self.watcher: InboxWatcher

    def add(self, file: SettledFile | RenamedFile) -> None:
        """Record a report."""
        match file:
            case SettledFile():
                self.arrivals.append(file)
            case RenamedFile(before=before, path=path):
                self.renamed.append((Path(before).name, Path(path).name))

    @property
    def names(self) -> list[str]:
        """The reported names, in order."""
        return [Path(arrival.path).name for arrival in self.arrivals]

    def events(self, event: str) -> list[MutableMapping[str, Any]]:
        """Return the log lines of that event."""
        return [entry for entry in self.logs if entry["event"] == event]

    def wait_for(self, *names: str) -> None:
        """Return when exactly these were reported, in any order."""
        wait_until(lambda: sorted(self.names) == sorted(names))

    def wait_for_event(self, event: str, count: int = 1) -> None:
        """Return when that event has been logged `count` times."""
        wait_until(lambda: len(self.events(event)) >= count)


@contextmanager
def watching(
    *inboxes: InboxConfig, mounts: Path = Path("/proc/self/mounts"), poll_s: float = 0.05
) -> Iterator[Watching]:
    """Watch `inboxes`; enter when they are watched and scanned."""
    with capture_logs() as logs:
        # The watcher's logger is bound when it is first used; capturing needs it fresh.
        structlog.configure(cache_logger_on_first_use=False)
        watching = Watching(logs)
        watcher = InboxWatcher(inboxes, watching.add, mounts=mounts, poll_s=poll_s, check_s=0.05)
        watching.watcher = watcher
        watcher.start()
        try:
            wait_until(
                lambda: len(watching.events("inbox.watched") + watching.events("inbox.lost")) >= len(inboxes)
            )
            yield watching
            assert watcher.is_alive
        finally:
            watcher.stop()
            assert not watcher.is_alive


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "inbox"
    root.mkdir()
    return root


def inbox(
    root: Path,
    *,
    settle_s: float = 0.05,
    rescan_s: float = 3600.0,
    output: str = "/srv/elsewhere",
    incomplete_wait_s: float = 600.0,
) -> InboxConfig:
    """Return an inbox that settles quickly and is not scanned again during a test."""
    return InboxConfig(
        path=str(root),
        output=output,
        settle_s=settle_s,
        rescan_s=rescan_s,
        incomplete_wait_s=incomplete_wait_s,
    )


def test_new_file_is_reported_once_with_its_size_and_time(root: Path) -> None:
    with watching(inbox(root)) as seen:
        (root / "a.mp4").write_bytes(b"media")
        seen.wait_for("a.mp4")
        (root / "b.mp4").touch()
        seen.wait_for("a.mp4", "b.mp4")
        info = (root / "a.mp4").stat()
        assert seen.arrivals[0] == SettledFile(0, str(root / "a.mp4"), 5, info.st_mtime_ns)


def test_existing_file_is_reported(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "a.mp4").touch()
    with watching(inbox(root)) as seen:
        seen.wait_for("a.mp4")


def test_growing_file_is_reported_when_it_has_settled(root: Path) -> None:
    """It grows for longer than `settle_s`, with shorter pauses."""
    with watching(inbox(root, settle_s=1.0)) as seen, (root / "a.mp4").open("wb", buffering=0) as file:
        pause = threading.Event()
        started = time.monotonic()
        while time.monotonic() - started < 1.5:
            file.write(b"x" * 100)
            pause.wait(0.05)
            assert seen.arrivals == []
        size = file.tell()
        file.close()
        seen.wait_for("a.mp4")
        assert seen.arrivals[0].size == size


def test_copy_that_pauses_is_reported_when_it_is_closed(root: Path) -> None:
    """It has its final size from the start, as with SMB and preallocating downloads."""
    with watching(inbox(root, settle_s=0.1)) as seen, (root / "a.mp4").open("wb", buffering=0) as file:
        file.truncate(1000)
        file.write(b"x" * 500)
        seen.wait_for_event("inbox.ignored")
        assert seen.events("inbox.ignored")[0]["cause"] == "it is open for writing; it waits"
        assert seen.arrivals == []
        file.write(b"y" * 500)
        assert seen.arrivals == []
        file.close()
        seen.wait_for("a.mp4")
        assert len(seen.events("inbox.ignored")) == 1


def wav(samples: int) -> bytes:
    """Return a WAV file of noise."""
    data = media.noise(samples).tobytes()
    head = b"RIFF" + (36 + len(data)).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    form = b"".join(
        n.to_bytes(size, "little") for n, size in ((1, 2), (1, 2), (16_000, 4), (32_000, 4), (2, 2), (16, 2))
    )
    return head + form + b"data" + len(data).to_bytes(4, "little") + data


def test_file_that_ends_before_its_declared_size_waits_for_the_rest(root: Path) -> None:
    """Each part is closed, as by a share on which the writer is on another host."""
    content = wav(1000)
    path = root / "a.wav"
    with watching(inbox(root)) as seen:
        path.write_bytes(content[:1000])
        seen.wait_for_event("inbox.ignored")
        cause = "it declares 2044 bytes and has 1000; it waits 600 s for the rest"
        assert seen.events("inbox.ignored")[0]["cause"] == cause
        with path.open("ab") as file:
            file.write(content[1000:])
        seen.wait_for("a.wav")
        assert seen.arrivals[0].size == len(content)
        assert seen.events("inbox.incomplete") == []


def test_file_that_stays_incomplete_is_reported_after_its_wait(root: Path) -> None:
    (root / "a.wav").write_bytes(wav(1000)[:1000])
    with watching(inbox(root, incomplete_wait_s=0.2)) as seen:
        seen.wait_for("a.wav")
        [line] = seen.events("inbox.incomplete")
        assert line["log_level"] == "warning"
        assert line["cause"] == "it declares 2044 bytes and has 1000; it is accepted as it is"


def test_file_that_stays_open_waits_with_a_warning(root: Path) -> None:
    with watching(inbox(root, incomplete_wait_s=0.2)) as seen, (root / "a.mp4").open("wb") as file:
        file.write(b"x" * 500)
        file.flush()
        seen.wait_for_event("inbox.incomplete")
        writer = f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"
        cause = f"it is still open for writing by {writer}; it waits until it is closed"
        assert seen.events("inbox.incomplete")[0]["cause"] == cause
        [waiting] = seen.watcher.open_files
        assert (waiting.path, waiting.process) == (file.name, writer)
        assert seen.arrivals == []
        file.close()
        seen.wait_for("a.mp4")
        assert len(seen.events("inbox.incomplete")) == 1
        assert not seen.watcher.open_files


@pytest.mark.parametrize("folder", ["failed", "done/sub"])
def test_processed_file_is_reported_when_it_is_written_again(root: Path, folder: str) -> None:
    archive = root / folder
    archive.mkdir(parents=True)
    (archive / "b.mp4").write_bytes(b"as it was")
    (archive / "a.mp4.error.txt").write_text("why")
    with watching(inbox(root)) as seen:
        (root / "a.mp4").write_bytes(b"media")
        first = ["b.mp4"] if folder == "failed" else []  # it may have changed while the daemon did not run
        seen.wait_for("a.mp4", *first)
        (root / "a.mp4").rename(archive / "a.mp4")
        (root / "c.mp4").write_bytes(b"media")
        seen.wait_for("a.mp4", "c.mp4", *first)
        with (archive / "a.mp4").open("ab") as file:
            file.write(b"more")
        seen.wait_for("a.mp4", "a.mp4", "c.mp4", *first)
        assert seen.arrivals[-1].path == str(archive / "a.mp4")
        assert seen.events("inbox.ignored") == []


def test_writer_that_opens_a_file_during_the_check_is_harmless(tmp_path: Path) -> None:
    """It breaks the lease that the check takes, which sends a signal."""
    path = tmp_path / "a.mp4"
    path.touch()
    stopping = threading.Event()

    def write() -> None:
        while not stopping.is_set():
            path.open("ab").close()

    thread = threading.Thread(target=write)
    thread.start()
    found = {is_open_for_writing(str(path)) for _ in range(2_000)}
    stopping.set()
    thread.join()
    assert found <= {True, False}
    assert not is_open_for_writing(str(path))
    with path.open("rb"):
        assert not is_open_for_writing(str(path))
    with path.open("r+b"):
        assert is_open_for_writing(str(path))


def test_changed_file_is_reported_again(root: Path) -> None:
    with watching(inbox(root)) as seen:
        (root / "a.mp4").write_bytes(b"one")
        seen.wait_for("a.mp4")
        (root / "a.mp4").write_bytes(b"three")
        seen.wait_for("a.mp4", "a.mp4")
        assert [arrival.size for arrival in seen.arrivals] == [3, 5]


def test_file_with_a_future_time_is_reported(root: Path) -> None:
    with watching(inbox(root)) as seen:
        (root / "a.mp4").touch()
        os.utime(root / "a.mp4", (4e9, 4e9))
        wait_until(lambda: seen.arrivals and seen.arrivals[-1].mtime_ns == 4 * 10**18)


def test_file_moved_in_is_reported(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with watching(inbox(root)) as seen:
        (tmp_path / "a.mp4").rename(root / "b.mp4")
        seen.wait_for("b.mp4")


def test_download_is_reported_under_its_final_name(root: Path) -> None:
    with watching(inbox(root)) as seen:
        (root / "a.mp4.part").touch()
        seen.wait_for_event("inbox.ignored")
        (root / "a.mp4.part").rename(root / "a.mp4")
        seen.wait_for("a.mp4")


def test_file_that_is_replaced_by_a_rename_is_reported_again(root: Path) -> None:
    with watching(inbox(root)) as seen:
        (root / "a.mp4").write_bytes(b"one")
        seen.wait_for("a.mp4")
        (root / ".b").write_bytes(b"other")
        (root / ".b").rename(root / "a.mp4")
        seen.wait_for("a.mp4", "a.mp4")


def test_file_moved_out_and_back_is_reported_again(root: Path) -> None:
    with watching(inbox(root)) as seen:
        (root / "a.mp4").touch()
        seen.wait_for("a.mp4")
        (root / "done").mkdir()
        (root / "a.mp4").rename(root / "done" / "a.mp4")
        (root / "b.mp4").touch()
        seen.wait_for("a.mp4", "b.mp4")
        (root / "done" / "a.mp4").rename(root / "a.mp4")
        seen.wait_for("a.mp4", "a.mp4", "b.mp4")


@pytest.mark.parametrize("way", ["moved", "deleted"])
def test_file_replaced_between_two_observations_is_reported_again(
    root: Path, tmp_path: Path, way: str
) -> None:
    """With the same size and time: only a late event shows that it was gone."""
    path, kept = root / "a.wav", tmp_path / "kept.wav"
    path.write_bytes(b"abc")
    shutil.copy2(path, kept)
    with watching(inbox(root)) as watched:
        watched.wait_for("a.wav")
        if way == "moved":
            (root / "done").mkdir()
            path.rename(root / "done" / "a.wav")
        else:
            path.unlink()
        shutil.copy2(kept, path)
        watched.wait_for("a.wav", "a.wav")
        assert watched.arrivals[0] == watched.arrivals[1]


def test_chain_of_renames_is_reported_step_by_step(root: Path) -> None:
    (root / "Season 1").mkdir()
    with watching(inbox(root)) as seen:
        (root / "a.mp4").write_bytes(b"media")
        seen.wait_for("a.mp4")
        (root / "a.mp4").rename(root / "Season 1" / "b.mp4")
        (root / "Season 1" / "b.mp4").rename(root / "Season 1" / "c.mp4")
        seen.wait_for("a.mp4", "c.mp4")
        (root / "Season 1").rename(root / "Season 01")
        seen.wait_for("a.mp4", "c.mp4", "c.mp4")
        assert seen.renamed == [("a.mp4", "b.mp4"), ("b.mp4", "c.mp4"), ("c.mp4", "c.mp4")]


@pytest.mark.parametrize(
    "place", ["#recycle/a.mp4", "@Recycle/a.mp4", ".Trash/a.mp4", ".a.mp4", "a.mp4.part"]
)
def test_file_moved_to_an_ignored_place_is_not_renamed(root: Path, place: str) -> None:
    (root / place).parent.mkdir(exist_ok=True)
    with watching(inbox(root)) as seen:
        for name in ("a.mp4", "b.mp4"):
            (root / name).write_bytes(b"media")
        seen.wait_for("a.mp4", "b.mp4")
        (root / "a.mp4").rename(root / place)
        (root / "b.mp4").rename(root / "c.mp4")
        seen.wait_for("a.mp4", "b.mp4", "c.mp4")
        assert seen.renamed == [("b.mp4", "c.mp4")]


def test_file_deleted_before_it_settles_is_not_reported(root: Path) -> None:
    with watching(inbox(root, settle_s=0.3)) as seen:
        (root / "a.mp4").touch()
        (root / "b.mp4").touch()
        (root / "a.mp4").unlink()
        seen.wait_for("b.mp4")


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "谈话.mp4", "🎬.mp4", "two\nlines.mp4", os.fsdecode(b"\xff\xfe.mp4"), "x" * 251 + ".mp4"],
)
def test_any_file_name_is_reported(root: Path, name: str) -> None:
    with watching(inbox(root)) as seen:
        (root / name).touch()
        seen.wait_for(name)


def test_new_folders_are_watched(root: Path) -> None:
    with watching(inbox(root)) as seen:
        for depth in range(5):
            folder = root.joinpath(*"abcde"[: depth + 1])
            folder.mkdir()
            (folder / f"{depth}.mp4").touch()
        seen.wait_for("0.mp4", "1.mp4", "2.mp4", "3.mp4", "4.mp4")
        (root / "a" / "b" / "later.mp4").touch()
        seen.wait_for("0.mp4", "1.mp4", "2.mp4", "3.mp4", "4.mp4", "later.mp4")


def test_folder_moved_in_is_watched_with_its_content(root: Path, tmp_path: Path) -> None:
    (tmp_path / "season" / "one").mkdir(parents=True)
    (tmp_path / "season" / "one" / "a.mp4").touch()
    with watching(inbox(root)) as seen:
        (tmp_path / "season").rename(root / "season")
        seen.wait_for("a.mp4")
        (root / "season" / "one" / "b.mp4").touch()
        seen.wait_for("a.mp4", "b.mp4")
        (root / "season").rename(root / "series")
        wait_until(
            lambda: str(root / "series" / "one" / "a.mp4") in [arrival.path for arrival in seen.arrivals]
        )


def test_ignored_files_are_logged_once(root: Path, tmp_path: Path) -> None:
    (root / ".hidden.mp4").touch()
    (root / "notes.txt").touch()
    (root / "dir.wav").mkdir()
    (root / "dangling.mp4").symlink_to("nothing")
    (root / "out.mp4").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.wav")
    (root / "done").mkdir()
    (root / "done" / "old.mp4").touch()
    (root / "done" / "old.txt").touch()
    with watching(inbox(root, rescan_s=1.0)) as seen:
        (root / "notes.txt").write_text("again")
        (root / "dir.wav" / "a.mp4").touch()
        seen.wait_for("a.mp4")
        for mtime_ns in (5, 6):
            # Only a scan reports these, and the second scan begins after the first is complete.
            os.utime(root / "dir.wav" / "a.mp4", ns=(mtime_ns, mtime_ns))
            wait_until(lambda: seen.arrivals[-1].mtime_ns == mtime_ns)  # noqa: B023 - called at once
        ignored = seen.events("inbox.ignored")
        assert sorted(Path(entry["path"]).name for entry in ignored) == [
            ".hidden.mp4",
            "dangling.mp4",
            "dir.wav",
            "notes.txt",
            "out.mp4",
            "pipe.wav",
        ]
        assert all(entry["cause"] for entry in ignored)
        assert set(seen.names) == {"a.mp4"}


def test_outputs_beside_their_source_are_not_logged(root: Path) -> None:
    with watching(inbox(root, output="beside")) as seen:
        (root / "a.zh.srt").touch()
        (root / "a.mp4.error.txt").touch()
        (root / "a.mp4").touch()
        seen.wait_for("a.mp4")
        assert seen.events("inbox.ignored") == []


def test_link_to_a_folder_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.mp4").touch()
    with watching(inbox(root)) as seen:
        (root / "link").symlink_to(tmp_path / "private")
        (root / "circle").symlink_to(root)
        (root / "a.mp4").touch()
        seen.wait_for("a.mp4")
        seen.wait_for_event("inbox.ignored", 2)


def test_rescan_finds_files_without_an_event(root: Path) -> None:
    """A change of the time alone causes no watched event."""
    with watching(inbox(root, rescan_s=1.0)) as seen:
        (root / "a.mp4").touch()
        seen.wait_for("a.mp4")
        os.utime(root / "a.mp4", ns=(5, 5))
        wait_until(lambda: seen.arrivals[-1].mtime_ns == 5)


def test_inbox_that_is_a_symbolic_link_is_watched(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with watching(inbox(tmp_path / "link")) as seen:
        (root / "a.mp4").touch()
        seen.wait_for("a.mp4")
        assert seen.arrivals[0].path == str(tmp_path / "link" / "a.mp4")


@pytest.mark.parametrize("way", ["deleted", "moved away"])
def test_deleted_inbox_is_watched_again_when_it_returns(root: Path, tmp_path: Path, way: str) -> None:
    with watching(inbox(root)) as seen:
        first = 1
        for count in (1, 2):
            if way == "deleted":
                shutil.rmtree(root)
            else:
                root.rename(tmp_path / f"old{count}")
            seen.wait_for_event("inbox.lost", count)
            root.mkdir()
            seen.wait_for_event("inbox.watched", count + 1)
            (root / f"{count}.mp4").touch()
            seen.wait_for(*(f"{number}.mp4" for number in range(first, count + 1)))
        assert len(seen.events("inbox.lost")) == 2


def test_replaced_inbox_is_watched_again(root: Path) -> None:
    """Faster than the check: the new folder may even have the same inode."""
    with watching(inbox(root)) as seen:
        first = 0
        for count in range(5):
            shutil.rmtree(root)
            root.mkdir()
            (root / f"{count}.mp4").touch()
            seen.wait_for(*(f"{number}.mp4" for number in range(first, count + 1)))


def test_missing_inbox_is_watched_when_it_appears(tmp_path: Path) -> None:
    with watching(inbox(tmp_path / "later")) as seen:
        assert len(seen.events("inbox.lost")) == 1
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "a.mp4").touch()
        seen.wait_for("a.mp4")
        assert len(seen.events("inbox.lost")) == 1


def test_several_inboxes_report_with_their_index(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with watching(inbox(tmp_path / "one"), inbox(tmp_path / "two")) as seen:
        (tmp_path / "two" / "b.mp4").touch()
        (tmp_path / "one" / "a.mp4").touch()
        seen.wait_for("a.mp4", "b.mp4")
        assert {(arrival.inbox, Path(arrival.path).name) for arrival in seen.arrivals} == {
            (0, "a.mp4"),
            (1, "b.mp4"),
        }


def test_network_file_system_is_polled(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(f"nas:/ {tmp_path} nfs4 rw 0 0\n")
    with watching(inbox(root), mounts=tmp_path / "mounts") as seen:
        assert seen.events("inbox.watched")[0]["is_polled"]
        (root / "circle").symlink_to(root)
        (root / "sub").mkdir()
        (root / "sub" / "a.mp4").touch()
        seen.wait_for("a.mp4")
        shutil.rmtree(root)
        seen.wait_for_event("inbox.lost")
        root.mkdir()
        (root / "b.mp4").touch()
        seen.wait_for("a.mp4", "b.mp4")


def test_ten_thousand_files_are_each_reported_once(root: Path) -> None:
    for folder in range(10):
        (root / str(folder)).mkdir()
        for name in range(900):
            (root / str(folder) / f"{name}.mp4").touch()
    with watching(inbox(root, rescan_s=1.0)) as seen:
        for name in range(1000):
            (root / "0" / f"new{name}.mp4").touch()
        wait_until(lambda: len(seen.arrivals) >= 10_000)
        assert len({arrival.path for arrival in seen.arrivals}) == len(seen.arrivals) == 10_000
