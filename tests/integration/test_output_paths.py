"""The files of a job have the names that media players expect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from subtitled.errors import FileWriteError
from subtitled.output.paths import archive, error_text, language_tag, output_folder, output_paths, write_error


def is_free(path: Path) -> bool:
    return not path.exists()


def test_output_is_named_after_source_and_language(tmp_path: Path) -> None:
    assert output_paths(tmp_path, "talk.mp4", "zh", ("srt", "json"), is_free) == {
        "srt": tmp_path / "talk.zh.srt",
        "json": tmp_path / "talk.zh.json",
    }


def test_output_without_speech_has_no_language_tag(tmp_path: Path) -> None:
    assert output_paths(tmp_path, "talk.mp4", None, ("srt",), is_free) == {"srt": tmp_path / "talk.srt"}


def test_partial_output_is_named_partial(tmp_path: Path) -> None:
    paths = output_paths(tmp_path, "talk.mp4", "zh", ("srt",), is_free, is_partial=True)
    assert paths == {"srt": tmp_path / "talk.zh.partial.srt"}


@pytest.mark.parametrize(
    ("code", "tag"),
    [
        ("zh", ".zh"),
        ("en", ".en"),
        ("jw", ".jv"),
        ("yue", ".yue"),
        ("haw", ".haw"),
        ("zh-TW", ".zh-TW"),
        ("pt-BR", ".pt-BR"),
        (None, ""),
    ],
)
def test_language_tag_has_two_letters_if_the_standard_does(code: str | None, tag: str) -> None:
    assert language_tag(code) == tag


def test_a_file_in_two_languages_has_the_language_before_its_suffix(tmp_path: Path) -> None:
    """Jellyfin, Plex and Bazarr read the last part of the name."""
    paths = output_paths(tmp_path, "talk.mp4", "zh-TW", ("srt",), is_free, flags=("sdh",), is_bilingual=True)
    assert paths == {"srt": tmp_path / "talk.bilingual.zh-TW.sdh.srt"}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("talk.en.srt", "talk.zh-TW.srt"),
        ("talk.pt-BR.sdh.vtt", "talk.zh-TW.srt"),
        ("talk.en.hi.srt", "talk.zh-TW.srt"),
        ("talk.en.CC.forced.srt", "talk.zh-TW.srt"),
        ("talk.hi.srt", "talk.zh-TW.srt"),
        ("hi.srt", "hi.zh-TW.srt"),
        ("talk.sdh.srt", "talk.zh-TW.srt"),
        ("Dr.No.srt", "Dr.No.zh-TW.srt"),
        ("My.Movie.2019.No.Way.srt", "My.Movie.2019.No.Way.zh-TW.srt"),
        ("As.Good.As.It.Gets.srt", "As.Good.As.It.Gets.zh-TW.srt"),
        ("talk.Is.It.You.srt", "talk.Is.It.You.zh-TW.srt"),
        ("talk.srt", "talk.zh-TW.srt"),
        ("part.two.srt", "part.two.zh-TW.srt"),
        ("en.srt", "en.zh-TW.srt"),
        ("talk.en.mp4", "talk.en.zh-TW.srt"),
    ],
)
def test_the_language_of_a_subtitle_file_is_not_part_of_its_translation_s_name(
    tmp_path: Path, source: str, name: str
) -> None:
    paths = output_paths(tmp_path, source, "zh-TW", ("srt",), is_free)
    assert paths == {"srt": tmp_path / name}


def test_sources_with_the_same_stem_keep_their_suffix(tmp_path: Path) -> None:
    names = []
    for source in ("talk.mp4", "talk.mp3", "talk.mp3", "talk.mp3"):
        path = output_paths(tmp_path, source, "zh", ("srt",), is_free)["srt"]
        path.touch()
        names.append(path.name)
    assert names == ["talk.zh.srt", "talk.mp3.zh.srt", "talk.mp3.zh.2.srt", "talk.mp3.zh.3.srt"]


def test_name_written_for_the_same_source_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "talk.zh.srt").touch()
    paths = output_paths(tmp_path, "talk.mp4", "zh", ("srt",), lambda path: path.name == "talk.zh.srt")
    assert paths == {"srt": tmp_path / "talk.zh.srt"}


def test_all_formats_share_one_base_name(tmp_path: Path) -> None:
    (tmp_path / "talk.zh.json").touch()
    paths = output_paths(tmp_path, "talk.mp4", "zh", ("srt", "json"), is_free)
    assert [path.name for path in paths.values()] == ["talk.mp4.zh.srt", "talk.mp4.zh.json"]


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "谈话.mp4", "🎬.mp4", "two\nlines.mp4", os.fsdecode(b"\xff\xfe.mp4"), "长" * 83 + "ab.mp4"],
)
def test_outputs_of_any_source_name_can_be_written(tmp_path: Path, name: str) -> None:
    for _ in range(3):
        for is_partial in (False, True):
            paths = output_paths(tmp_path, name, "zh", ("srt", "json"), is_free, is_partial=is_partial)
            bases = set()
            for ending, path in paths.items():
                path.touch()
                bases.add(path.name.removesuffix(ending))
            assert len(bases) == 1


def test_long_names_with_the_same_beginning_differ(tmp_path: Path) -> None:
    one, two = (
        output_paths(tmp_path, "长" * 80 + last + ".mp4", "zh", ("srt",), is_free)["srt"] for last in "ab"
    )
    assert one != two


def test_sub_folders_are_mirrored() -> None:
    assert output_folder("/in", "/in/a/b/talk.mp4", "/out") == Path("/out/a/b")
    assert output_folder("/in", "/in/talk.mp4", "/out") == Path("/out")


def test_output_beside_uses_the_folder_of_the_source() -> None:
    assert output_folder("/in", "/in/a/talk.mp4", "beside") == Path("/in/a")


@pytest.mark.parametrize("source", ["/elsewhere/talk.mp4", "/in/../etc/passwd", "/inside/talk.mp4", "/in"])
def test_source_outside_its_inbox_is_rejected(source: str) -> None:
    with pytest.raises(FileWriteError, match="is not in the inbox /in"):
        output_folder("/in", source, "/out")


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_source_is_archived_in_its_sub_folder(tmp_path: Path, outcome: str) -> None:
    source = tmp_path / "a" / "talk.mp4"
    source.parent.mkdir()
    source.write_bytes(b"media")
    target = archive(source, tmp_path, "done" if outcome == "done" else "failed")
    assert target == tmp_path / outcome / "a" / "talk.mp4"
    assert target.read_bytes() == b"media"
    assert not source.exists()


def test_second_source_with_the_same_name_is_archived_beside_the_first(tmp_path: Path) -> None:
    for expected in ("talk.mp4", "talk (2).mp4"):
        (tmp_path / "talk.mp4").touch()
        assert archive(tmp_path / "talk.mp4", tmp_path, "failed").name == expected


def test_error_file_contains_reason_and_remedy(tmp_path: Path) -> None:
    source = "/in/" + os.fsdecode(b"talk\xff.mp4")
    text = error_text("j42", source, "it holds no audio", "Drop a file that has an audio track.")
    path = write_error(tmp_path, "talk.mp4", text)
    assert path == tmp_path / "talk.mp4.error.txt"
    text = path.read_text()
    for part in ("j42", "talk\\udcff.mp4", "it holds no audio", "Drop a file that has an audio track."):
        assert part in text


def test_error_file_of_a_255_byte_name_can_be_written(tmp_path: Path) -> None:
    assert write_error(tmp_path, "x" * 251 + ".mp4", "why").read_text() == "why"


def test_name_that_fits_in_255_bytes_is_not_shortened() -> None:
    """81 Chinese characters are 243 bytes."""
    stem = "字" * 81
    assert output_paths("/out", f"/in/{stem}.mp4", "en", ["srt"], is_free)["srt"].name == f"{stem}.en.srt"
    longer = output_paths("/out", f"/in/{'字' * 83}.mp4", "en", ["srt"], is_free)["srt"].name
    assert len(longer.encode()) <= 255
    assert longer.endswith(".en.srt")
