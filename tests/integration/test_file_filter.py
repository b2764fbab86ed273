"""An inbox accepts media files, and gives a reason for every other file."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

import media
from subtitled.config.schema import InboxConfig
from subtitled.inboxes.file_filter import FileFilter, FilterResult, absolute
from subtitled.media.decode import open_media


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "inbox"
    root.mkdir()
    return root


def checked(path: str | Path, inboxes: list[InboxConfig]) -> FilterResult:
    return FileFilter(inboxes).check(absolute(path))


def inbox(
    root: Path,
    output: str = "/srv/elsewhere",
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> InboxConfig:
    return InboxConfig(path=str(root), output=output, include=include, exclude=exclude)


@pytest.mark.parametrize(
    "name",
    [
        "a.mp4",
        "A.MKV",
        "谈话 1.wav",
        "🎬.flac",
        "two\nlines.mp3",
        os.fsdecode(b"\xff.ogg"),
        "a.srt.mp4",
        "x" * 251 + ".mp4",
    ],
)
def test_media_file_is_accepted(root: Path, name: str) -> None:
    (root / name).touch()
    result = checked(root / name, [inbox(root)])
    assert result.accepted
    assert result.inbox == 0
    assert "2 s" in result.cause


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        (".a.mp4", "begins with a dot"),
        ("~a.mp4", "begins with a tilde"),
        ("a.mp4.part", "ending .part marks an unfinished file"),
        ("a.MP4.TMP", "ending .tmp marks"),
        ("a.mp4.crdownload", "ending .crdownload marks"),
        ("a.partial", "ending .partial marks"),
        ("a.mp4.!sync", "ending .!sync marks"),
        ("a.mp4.xltd", "ending .xltd marks"),
        ("a.mp4.aria2__temp", "ending .aria2__temp marks"),
        ("a.mp4~", "ending .mp4~ marks"),
        ("a.m3u8", "ending .m3u8 is not that of a media file"),
        ("notes.txt", "ending .txt is not that of a media file"),
        ("a.srt", "ending .srt is not that of a media file"),
        ("README", "it has no ending"),
    ],
)
def test_other_names_are_ignored(root: Path, name: str, cause: str) -> None:
    (root / name).touch()
    result = checked(root / name, [inbox(root)])
    assert not result.accepted
    assert not result.is_own_file
    assert cause in result.cause


def test_special_files_are_ignored(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "pipe.wav")
    (root / "folder.wav").mkdir()
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.wav")
    causes = {
        name: checked(root / name, [inbox(root)]).cause for name in ("pipe.wav", "folder.wav", "socket.wav")
    }
    assert causes == {
        "pipe.wav": "it is a named pipe",
        "folder.wav": "it is a folder; its files are checked one by one",
        "socket.wav": "it is a socket",
    }


def test_links_are_accepted_only_to_files_in_the_inbox(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").touch()
    (root / "real.mp4").touch()
    (root / "in.mp4").symlink_to("real.mp4")
    (root / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "dangling.mp4").symlink_to("nothing.mp4")
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "device.mp4").symlink_to("/dev/null")
    (root / "folder").symlink_to(tmp_path)
    assert checked(root / "in.mp4", [inbox(root)]).accepted
    assert "out of the inbox" in checked(root / "out.mp4", [inbox(root)]).cause
    assert "to nothing" in checked(root / "dangling.mp4", [inbox(root)]).cause
    assert "cannot be read" in checked(root / "loop.mp4", [inbox(root)]).cause
    assert "out of the inbox" in checked(root / "device.mp4", [inbox(root)]).cause
    assert (
        "symbolic link, which is not followed" in checked(root / "folder" / "secret.mp4", [inbox(root)]).cause
    )


def test_archives_at_the_root_are_ignored(root: Path) -> None:
    for path in (root / "done" / "a.mp4", root / "failed" / "sub" / "a.mp4", root / "sub" / "done" / "a.mp4"):
        path.parent.mkdir(parents=True)
        path.touch()
    assert checked(root / "done" / "a.mp4", [inbox(root)]).is_own_file
    assert checked(root / "failed" / "sub" / "a.mp4", [inbox(root)]).is_own_file
    assert checked(root / "sub" / "done" / "a.mp4", [inbox(root)]).accepted


def test_hidden_folders_are_ignored(root: Path) -> None:
    path = root / "sub" / ".cache" / "deep" / "a.mp4"
    path.parent.mkdir(parents=True)
    path.touch()
    assert "folder .cache begins with a dot" in checked(path, [inbox(root)]).cause


@pytest.mark.parametrize("name", ["a.zh.srt", "a.zh.json", ".subtitled-01.tmp"])
def test_outputs_beside_their_source_are_own_files(root: Path, name: str) -> None:
    (root / name).touch()
    assert checked(root / name, [inbox(root, "beside")]).is_own_file
    assert checked(root / name, [inbox(root, str(root))]).is_own_file


def test_error_files_are_own_files_in_any_inbox(root: Path) -> None:
    (root / "a.mp4.error.txt").touch()
    assert checked(root / "a.mp4.error.txt", [inbox(root)]).is_own_file


def test_output_folder_in_the_inbox_is_ignored(root: Path) -> None:
    (root / "out").mkdir()
    (root / "out" / "a.mp4").touch()
    assert checked(root / "out" / "a.mp4", [inbox(root, str(root / "out"))]).is_own_file


def test_innermost_inbox_accepts_the_file(root: Path, tmp_path: Path) -> None:
    (root / "a.mp4").touch()
    assert checked(root / "a.mp4", [inbox(tmp_path), inbox(root)]).inbox == 1


def test_cause_for_a_path_in_no_inbox_names_the_inboxes(root: Path, tmp_path: Path) -> None:
    result = checked(tmp_path / "a.mp4", [inbox(root)])
    assert result.inbox is None
    assert str(root) in result.cause
    assert "none" in checked(tmp_path / "a.mp4", []).cause


def test_cause_for_a_missing_file_is_that_it_does_not_exist(root: Path) -> None:
    assert checked(root / "a.mp4", [inbox(root)]).cause == "it does not exist"


def test_relative_path_is_resolved(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a.mp4").touch()
    monkeypatch.chdir(root)
    assert checked("./sub/../a.mp4", [inbox(root)]).accepted


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("@eaDir/a.mp4", "folder @eaDir belongs to the system"),
        ("sub/#recycle/a.mp4", "folder #recycle belongs to the system"),
        ("#snapshot/a.mp4", "folder #snapshot"),
        ("$RECYCLE.BIN/S-1-5/a.mp4", "folder $RECYCLE.BIN"),
        ("lost+found/a.mp4", "folder lost+found"),
        ("@Recycle/a.mp4", "folder @Recycle"),
        (".stfolder/a.mp4", "begins with a dot"),
        ("Film/Trailers/a.mp4", "contains extras"),
        ("talk.f140.m4a", "intermediate file"),
        ("talk.fhls-audio-128000-Audio.mp4", "intermediate file"),
        ("talk.fdash-1080p.mp4", "intermediate file"),
        ("talk.mp4.part-Frag12", "intermediate file"),
        ("__MACOSX/a.mp4", "folder __MACOSX"),
        ("RECYCLER/a.mp4", "folder RECYCLER"),
        ("~snapshot/a.mp4", "folder ~snapshot"),
        ("talk.f137-drc.mp4", "intermediate file"),
        ("talk.temp.mp4", "intermediate file"),
        ("talk.mp4.!qB", "marks an unfinished file"),
        ("talk.mp4.ytdl", "marks an unfinished file"),
        ("Film-trailer.mkv", "trailer, a sample or theme music"),
        ("film.sample.mkv", "trailer, a sample or theme music"),
        ("theme.mp3", "trailer, a sample or theme music"),
    ],
)
def test_files_that_are_not_to_be_transcribed_are_ignored(root: Path, name: str, cause: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).touch()
    result = checked(root / name, [inbox(root)])
    assert not result.accepted
    assert cause in result.cause


@pytest.mark.parametrize(
    "name", ["sample.mp4", "trailer.mp4", "my.talk.mp4", "F1 race.mp4", "theme park.mp4"]
)
def test_similar_names_are_accepted(root: Path, name: str) -> None:
    (root / name).touch()
    assert checked(root / name, [inbox(root)]).accepted


def test_download_with_a_control_file_is_unfinished(root: Path) -> None:
    (root / "talk.mp4").touch()
    (root / "talk.mp4.aria2").touch()
    assert ".aria2" in checked(root / "talk.mp4", [inbox(root)]).cause
    (root / "talk.mp4.aria2").unlink()
    assert checked(root / "talk.mp4", [inbox(root)]).accepted


def test_include_and_exclude_choose_files(root: Path) -> None:
    for name in ("a.mkv", "b.mp3", "Trailers/c.mkv", "raw/d.mkv", "film-trailer.mkv"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()

    def accepted(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[str]:
        inboxes = [inbox(root, include=include, exclude=exclude)]
        paths = sorted(root.rglob("*.m*"))
        return [str(path.relative_to(root)) for path in paths if checked(path, inboxes).accepted]

    assert accepted() == ["a.mkv", "b.mp3", "raw/d.mkv"]
    assert accepted(include=("*.MKV",)) == ["Trailers/c.mkv", "a.mkv", "film-trailer.mkv", "raw/d.mkv"]
    assert accepted(exclude=("raw/*", "b.*")) == ["a.mkv"]
    assert accepted(include=("*.mkv",), exclude=("*trailer*", "trailers/*")) == ["a.mkv", "raw/d.mkv"]
    assert checked(root / "raw/d.mkv", [inbox(root, exclude=("raw/*",))]).cause == 'exclude contains "raw/*"'


@pytest.mark.parametrize(
    ("name", "ending", "codec"),
    [
        ("a.qta", "mov", "aac"),
        ("a.mpga", "mp3", "libmp3lame"),
        ("a.m2t", "ts", "mp2"),
        ("a.mk3d", "mkv", "aac"),
        ("a.unknown", "ogg", "libopus"),
        ("talk", "aac", "aac"),
        ("a.x1", "wav", "pcm_s16le"),
        ("a.x2", "flv", "libmp3lame"),
        ("a.x3", "asf", "wmav2"),
        ("a.x4", "mp2", "mp2"),
        ("a.x5", "ac3", "ac3"),
        ("a.x6", "mpg", "mp2"),
        ("a.x8", "sox", "pcm_s32le"),
    ],
)
def test_unknown_ending_is_decided_by_content(root: Path, name: str, ending: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else 44_100
    media.mux(root / f"made.{ending}", media.Voice(media.speech(1)), codec=codec, rate=rate).rename(
        root / name
    )
    assert_is_a_second_of_media(root / name, inbox(root))


def test_phone_recording_is_decided_by_content(root: Path) -> None:
    """GSM 06.10: frames of 20 ms, 33 bytes each, of which the first four bits are fixed."""
    (root / "phone.gsm").write_bytes(bytes([0xD0, *[0] * 32]) * 50)
    assert_is_a_second_of_media(root / "phone.gsm", inbox(root))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="only the program ffmpeg can write TrueHD")
def test_truehd_is_decided_by_content(root: Path) -> None:
    source = ("-f", "lavfi", "-i", "sine=440:duration=1", "-c:a", "truehd", "-ar", "48000", "-strict", "-2")
    subprocess.run(["ffmpeg", "-v", "error", *source, "-f", "truehd", str(root / "a.x7")], check=True)
    assert_is_a_second_of_media(root / "a.x7", inbox(root))


def assert_is_a_second_of_media(path: Path, watched: InboxConfig) -> None:
    assert checked(path, [watched]).accepted
    with open_media(str(path)) as decoder:
        assert 15_000 < sum(map(len, decoder)) < 18_000


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, world", b"\xff\xfeH\0i\0", b"\xff\xd8\xff\xe0", b"%PDF-1.7", b"PK\x03\x04", b"\0" * 2000],
)
def test_other_content_is_no_media(root: Path, content: bytes) -> None:
    (root / "a.unknown").write_bytes(content)
    assert "its content is not that of a media file" in checked(root / "a.unknown", [inbox(root)]).cause
