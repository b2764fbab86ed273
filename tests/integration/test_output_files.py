"""Subtitles are saved whole, under harmless names, and over nothing that is something else."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitle import OptionError
from subtitle.output_files import DIRECTION_MARKS, format_of, safe_name, save_all, save_in

if TYPE_CHECKING:
    from pathlib import Path


@given(st.text(max_size=400), st.sampled_from(["srt", "json"]))
def test_a_name_from_the_server_stays_in_its_folder(name: str, form: str) -> None:
    safe = safe_name(name, form)
    assert safe.endswith(f".{form}")
    assert len(safe.encode()) <= 255
    assert safe[0] not in ". "
    assert not set(safe) & set('/\\:*?"<>|\0\n')
    assert not {unicodedata.category(char) for char in safe} & {"Cc", "Cs", "Zl", "Zp"}
    assert not DIRECTION_MARKS.search(safe)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("talk.en.srt", "talk.en.srt"),
        ("演讲.zh.srt", "演讲.zh.srt"),
        ("talk.en", "talk.en.srt"),
        ("../../etc/passwd", "_.._etc_passwd.srt"),
        (".bashrc.srt", "bashrc.srt"),
        ("C:\\x.srt", "C__x.srt"),
        ("", "subtitles.srt"),
        ("...", "subtitles.srt"),
        ("\ud800.srt", "_.srt"),
        ("a\nb\u2028c\u202egnp.srt", "a_b_c_gnp.srt"),
        ("第一課\u3000講義.zh-TW.srt", "第一課\u3000講義.zh-TW.srt"),
        ("نمی\u200cشود.fa.srt", "نمی\u200cشود.fa.srt"),
        ("👩\u200d🏫 1\u00a0000.en.srt", "👩\u200d🏫 1\u00a0000.en.srt"),
        ("長" * 80 + ".zh-TW.srt", "長" * 80 + ".zh-TW.srt"),
        ("長" * 90 + ".bilingual.zh-TW.sdh.srt", "長" * 77 + ".bilingual.zh-TW.sdh.srt"),
        ("長" * 90 + ".bilingual.zh-TW.sdh", "長" * 77 + ".bilingual.zh-TW.sdh.srt"),
    ],
)
def test_valid_names_are_kept_and_others_are_made_valid(name: str, safe: str) -> None:
    assert safe_name(name, "srt") == safe


def test_other_content_is_kept_and_equal_content_is_not_written_again(tmp_path: Path) -> None:
    first = save_in(tmp_path, "talk.en.srt", b"one")
    assert save_in(tmp_path, "talk.en.srt", b"one") == first == tmp_path / "talk.en.srt"
    second = save_in(tmp_path, "talk.en.srt", b"two")
    assert save_in(tmp_path, "talk.en.srt", b"two") == second == tmp_path / "talk.en.2.srt"
    assert save_in(tmp_path, "talk.en.srt", b"three") == tmp_path / "talk.en.3.srt"
    assert save_in(tmp_path, "talk.en.srt", b"four", is_forced=True) == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "talk.en.srt": b"four",
        "talk.en.2.srt": b"two",
        "talk.en.3.srt": b"three",
    }


def test_long_names_get_a_number_and_keep_their_language(tmp_path: Path) -> None:
    name = f"{'長' * 81}.zh-TW.srt"
    assert save_in(tmp_path, name, b"one").name == name
    assert save_in(tmp_path, name, b"two").name == f"{'長' * 81}.zh-TW.2.srt"
    longer = f"{'長' * 100}.zh-TW.srt"
    assert save_in(tmp_path, longer, b"three").name == f"{'長' * 81}.zh-TW.3.srt"


def test_links_and_folders_with_the_name_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "talk.en.srt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "talk.en.2.srt").mkdir()
    assert save_in(tmp_path, "talk.en.srt", b"one") == tmp_path / "talk.en.3.srt"
    assert not (tmp_path / "nowhere").exists()


def test_path_that_is_not_a_folder_is_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine.srt"
    mine.write_bytes(b"before")
    assert save_all(mine, [("srt", "talk.en.srt", b"one")]) == [mine]
    assert mine.read_bytes() == b"one"
    with pytest.raises(OptionError, match="is not a folder, and cannot contain 2 files"):
        save_all(mine, [("srt", "a.srt", b""), ("json", "a.json", b"")])
    assert (format_of(mine), format_of(tmp_path), format_of(tmp_path / "x")) == (("srt",), (), ())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.srt"]
