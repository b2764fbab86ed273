"""Job options and file names of clients are validated before a job is accepted."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitle.messages import JobOptions, LayoutOptions, VadOptions
from subtitled.api.peer import RefusedError
from subtitled.api.validation import NAME_BYTES_LEFT, job_options, safe_name
from subtitled.config.model_choice import configured_models
from subtitled.config.schema import Config, InboxConfig, ModelConfig, NamedModelConfig
from subtitled.core.records import Options
from subtitled.files.atomic_files import NAME_BYTES
from subtitled.inboxes.arrivals import inbox_options

HOSTILE = st.text(
    st.sampled_from("./\\~ \t\n\0\x1b\x7f\x85\u200e\u202e\u2066\u2028\ud800\ue000aé語\U0001f600")
)


def checked(
    wanted: JobOptions, *, model: str = "large-v3", languages: tuple[str, ...] = ("de", "en")
) -> Options:
    models = configured_models(Config(model=ModelConfig(name=model)))
    return job_options(wanted, models=models, languages={"": languages}, after="keep")


def assert_safe(name: str) -> None:
    assert name
    assert name not in {".", ".."}
    assert not name.startswith((".", "~", " "))
    assert "/" not in name
    assert "\\" not in name
    assert "\0" not in name
    assert len(name.encode()) <= NAME_BYTES - NAME_BYTES_LEFT
    assert not {unicodedata.category(char) for char in name} & {"Cc", "Cs", "Co", "Zl", "Zp"}
    assert unicodedata.normalize("NFC", name) == name
    assert Path("/folder", name).name == name


LANGUAGE = st.text(max_size=32) | st.lists(
    st.sampled_from(
        [
            "zh",
            "x",
            "TW",
            "Hant",
            "i",
            "en",
            "u",
            "419",
            "-",
            "_",
            "(",
            ")",
            "@",
            ".",
            " ",
            "\u0130",
            "\u2460",
            "9" * 8,
        ]
    ),
    max_size=12,
).map(lambda parts: "".join(parts)[:64])
TRANSLATOR = NamedModelConfig(name="nllb", source="facebook/nllb-200-distilled-600M")


@given(
    language=LANGUAGE,
    audio_track=LANGUAGE | st.integers(1, 1000),
    translate_to=st.lists(LANGUAGE, max_size=3).map(tuple),
    names=st.tuples(LANGUAGE, LANGUAGE, LANGUAGE),
    glossary=st.text(max_size=20) | st.sampled_from(["a = " + "[" * 9_000, "a = " + "9" * 9_000]),
)
def test_any_options_are_accepted_or_refused(
    language: str,
    audio_track: str | int,
    translate_to: tuple[str, ...],
    names: tuple[str, str, str],
    glossary: str,
) -> None:
    wanted = JobOptions(
        language=language[:32],
        audio_track=audio_track if isinstance(audio_track, int) else audio_track[:32],
        translate_to=translate_to,
        translate_model=names[0],
        model=names[1],
        formats=(names[2][:16], "srt"),
        glossary=glossary,
    )
    models = configured_models(Config(models=(TRANSLATOR,)))
    for one in (
        wanted,
        JobOptions(translate_to=translate_to),
        JobOptions(language=language),
        JobOptions(audio_track=audio_track),
    ):
        with suppress(RefusedError):
            assert job_options(one, models=models, languages={}, after="keep").formats == ("srt",)


@given(st.text() | HOSTILE | HOSTILE.map(lambda text: 40 * text))
def test_file_name_of_a_client_becomes_one_safe_component(name: str) -> None:
    assert_safe(safe_name(name))


@given(HOSTILE, st.integers(0, 300), st.integers(0, 100))
def test_long_names_with_long_suffixes_fit(name: str, stem: int, suffix: int) -> None:
    assert_safe(safe_name(f"{name}{'語' * stem}.{'x' * suffix}"))


@given(HOSTILE)
def test_safe_name_is_unchanged(name: str) -> None:
    assert safe_name(safe_name(name)) == safe_name(name)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("talk.mp4", "talk.mp4"),
        ("講演 第1回.mkv", "講演 第1回.mkv"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\talk.mp4", "talk.mp4"),
        ("", "upload"),
        ("..", "upload"),
        ("videos/", "upload"),
        (".hidden.mp4", "hidden.mp4"),
        ("~ .x", "x"),
        ("a\nb\0c.mp4", "a_b_c.mp4"),
        ("e\u0301t\u00e9.mp4", "\u00e9t\u00e9.mp4"),
        ("\u202egpj.exe", "gpj.exe"),
    ],
)
def test_name_is_changed_as_little_as_possible(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_long_name_keeps_its_suffix_and_stays_distinct() -> None:
    one, other = safe_name("a" * 300 + "1.mp4"), safe_name("a" * 300 + "2.mp4")
    assert one.endswith(".mp4")
    assert other.endswith(".mp4")
    assert one != other


def test_every_job_option_reaches_the_job() -> None:
    wanted = JobOptions(
        language="en",
        audio_track="ja",
        channels="split",
        task="translate",
        formats=("json", "srt"),
        word_timestamps=True,
        initial_prompt="Dr. Müller",
        hotwords="Schrödinger",
        chinese="hk",
        flags=("forced", "sdh"),
        priority=7,
        vad=VadOptions(pad_ms=300),
        layout=LayoutOptions(max_lines=1),
        tag="a note",
    )
    got = checked(wanted)
    assert (got.after, got.inbox, got.output) == ("keep", b"", b"")
    for field in set(JobOptions.__struct_fields__) - {"tag", "tasks"}:
        assert getattr(got, field) == getattr(wanted, field), field
    both = checked(JobOptions(tasks=("translate", "transcribe")))
    assert (both.task, both.is_translated_too, both.tasks) == (
        "transcribe",
        True,
        ("transcribe", "translate"),
    )
    assert checked(JobOptions(tasks=("translate",))).tasks == ("translate",)


@pytest.mark.parametrize(
    ("option", "stored"), [("auto", "auto"), (2, "2"), ("2", "2"), ("jpn", "ja"), ("Norwegian", "no")]
)
def test_an_audio_track_is_a_number_or_a_language_by_any_name(option: int | str, stored: str) -> None:
    assert checked(JobOptions(audio_track=option)).audio_track == stored


@pytest.mark.parametrize("option", ["0", "1001", "klingon", "", "-1", "\u0662"])
def test_what_is_no_audio_track_is_refused(option: str) -> None:
    with pytest.raises(
        RefusedError, match=r"audio_track .* is not an audio track; use a number from 1 to 1000"
    ):
        checked(JobOptions(audio_track=option))


@pytest.mark.parametrize(
    ("wanted", "characters"),
    [
        (JobOptions(language="zh-Hant"), "tw"),
        (JobOptions(language="zh-Hant", chinese="off"), "off"),
        (JobOptions(language="zh-Hant", chinese="hk"), "hk"),
        (JobOptions(language="zh"), "off"),
        (JobOptions(), "off"),
    ],
)
def test_language_decides_the_chinese_characters_unless_they_are_given(
    wanted: JobOptions, characters: str
) -> None:
    options = checked(wanted, languages=())
    inbox = InboxConfig(language=wanted.language, chinese=wanted.chinese)
    assert (options.chinese, inbox_options(inbox).chinese) == (characters, characters)


def test_chinese_is_refused_without_opencc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subtitled.config.checks.find_spec", lambda _: None)
    with pytest.raises(RefusedError, match='chinese "tw": OpenCC is not installed on the server') as caught:
        checked(JobOptions(chinese="tw"), languages=())
    assert caught.value.code == "UNSUPPORTED"
    assert checked(JobOptions(language="zh-Hant"), languages=()).language == "zh"


@pytest.mark.parametrize(
    ("wanted", "more", "code", "names"),
    [
        ({"language": "klingon"}, {}, "BAD_FORMAT", "'klingon'.*auto.*multi"),
        ({"language": "fr"}, {}, "UNSUPPORTED", "'fr'.*large-v3 supports de en"),
        (
            {"task": "translate"},
            {"model": "large-v3-turbo"},
            "UNSUPPORTED",
            "large-v3-turbo does not support",
        ),
        ({"task": "translate"}, {"model": "medium.en"}, "UNSUPPORTED", "medium.en does not support"),
        ({"task": "translate"}, {"languages": ("en",)}, "UNSUPPORTED", "multilingual"),
        (
            {"tasks": ("transcribe", "translate")},
            {"model": "large-v3-turbo"},
            "UNSUPPORTED",
            "large-v3-turbo does not support",
        ),
        ({"tasks": ("translate", "translate")}, {}, "BAD_FORMAT", "each task once"),
        ({"formats": ()}, {}, "BAD_FORMAT", "srt"),
        ({"formats": ("srt", "docx")}, {}, "BAD_FORMAT", "'docx'.*srt"),
        ({"layout": LayoutOptions(min_ms=3000, max_ms=2000)}, {}, "BAD_FORMAT", "3000.*2000"),
        ({"layout": LayoutOptions(chain_ms=50, gap_ms=80)}, {}, "BAD_FORMAT", "50.*80"),
    ],
)
def test_invalid_option_is_refused_with_its_value_and_the_allowed_ones(
    wanted: dict[str, Any], more: dict[str, Any], code: str, names: str
) -> None:
    with pytest.raises(RefusedError, match=names) as caught:
        checked(JobOptions(**wanted), **more)
    assert caught.value.code == code


@pytest.mark.parametrize("language", ["auto", "multi", "en"])
def test_languages_of_the_model_are_accepted(language: str) -> None:
    assert checked(JobOptions(language=language)).language == language


def test_any_whisper_language_is_accepted_before_the_model_is_loaded() -> None:
    assert checked(JobOptions(language="fr"), languages=()).language == "fr"


def test_equal_limits_are_accepted() -> None:
    layout = LayoutOptions(min_ms=2000, max_ms=2000, gap_ms=80, chain_ms=80)
    assert checked(JobOptions(layout=layout)).layout == layout


def test_fault_of_a_check_refuses_the_request() -> None:
    broken: Any = None  # in place of the models
    with pytest.raises(RefusedError) as error:
        job_options(JobOptions(), models=broken, languages={}, after="keep")
    assert error.value.code == "INTERNAL"
