"""The models that translate text: configuration, choice by languages, and the settings of their workers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from subtitle.messages import JobOptions
from subtitled.api.peer import RefusedError
from subtitled.api.validation import job_options
from subtitled.config.model_choice import (
    ModelChoiceError,
    choose_model,
    choose_translator,
    configured_models,
    kind_of,
)
from subtitled.config.schema import Config, NamedModelConfig
from subtitled.core.actions import StoredTranslation
from subtitled.core.config_mapping import endpoints_of, model_specs
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.output.translation_inputs import translation_inputs
from subtitled.storage.rows import JobRow
from unit.test_config import faults_of, loaded

NLLB = NamedModelConfig(name="nllb", source="facebook/nllb-200-distilled-600M")
OPUS = NamedModelConfig(name="opus", source="Helsinki-NLP/opus-mt-en-zh")
LLM = NamedModelConfig(
    name="llm",
    endpoint="http://127.0.0.1:11434/v1",
    endpoint_model="qwen3:8b",
    max_concurrent=3,
    translate_to=("zh-TW", "ja"),
)
INBOX = '[[inbox]]\npath = "/in"\noutput = "/out"\n'
ENDPOINT = '[[models]]\nname = "llm"\nendpoint = "http://localhost:1/v1"\nendpoint_model = "m"\n'


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (NLLB, "ctranslate2"),
        (OPUS, "ctranslate2"),
        (LLM, "openai"),
        (NamedModelConfig(name="x", source="google/madlad400-3b-mt"), "ctranslate2"),
        (NamedModelConfig(name="x", source="large-v3"), "whisper"),
        (NamedModelConfig(name="x", source="/any/folder", engine="ctranslate2"), "ctranslate2"),
    ],
)
def test_kind_of_a_model_is_that_of_its_name_or_its_setting(model: NamedModelConfig, kind: str) -> None:
    assert kind_of(model) == kind


@pytest.mark.parametrize(
    ("wanted", "source", "target", "name"),
    [
        ("", "en", "zh", "opus"),
        ("", "en", "zh-TW", "opus"),
        ("", None, "zh", "opus"),
        ("", "de", "zh-TW", "llm"),
        ("", "de", "zh-Hant", "llm"),
        ("", "de", "zh-CN", "nllb"),
        ("", "de", "es", "nllb"),
        ("llm", "en", "ja", "llm"),
    ],
)
def test_first_model_that_covers_both_languages_translates(
    wanted: str, source: str | None, target: str, name: str
) -> None:
    models = configured_models(Config(models=(OPUS, LLM, NLLB)))
    assert choose_translator(models, wanted=wanted, source=source, target=target).name == name


@pytest.mark.parametrize(
    ("models", "wanted", "target", "cause"),
    [
        ((), "", "ja", 'no model translates to "ja"; add [[models]] with engine = "ctranslate2"'),
        ((OPUS,), "", "ja", 'none of the models opus translates from "en" to "ja"; add one to [[models]]'),
        ((OPUS, LLM), "opus", "ja", 'opus translates from "en" to "ja"; use llm'),
        ((OPUS,), "large", "zh", "model 'large' is not one that translates text; use one of: opus"),
    ],
)
def test_languages_that_no_model_covers_are_refused_with_a_remedy(
    models: tuple[NamedModelConfig, ...], wanted: str, target: str, cause: str
) -> None:
    with pytest.raises(ModelChoiceError) as refused:
        choose_translator(configured_models(Config(models=models)), wanted=wanted, source="en", target=target)
    assert cause in str(refused.value)


def test_model_for_text_transcribes_nothing() -> None:
    models = configured_models(Config(models=(NLLB,)))
    assert choose_model(models, wanted="", tasks=("transcribe",), language="de").model == ""
    with pytest.raises(ModelChoiceError, match="does not support it"):
        choose_model(models, wanted="nllb", tasks=("transcribe",), language="de")


def test_endpoint_has_a_worker_of_its_own() -> None:
    config = Config(models=(NLLB, LLM))
    _, nllb, llm = model_specs(config)
    assert (nllb.endpoint_slot, nllb.engine and nllb.engine.kind) == ("", "ctranslate2")
    assert (nllb.may_be_on("gpu0"), llm.may_be_on("gpu0"), llm.may_be_on("endpoint-llm")) == (
        True,
        False,
        True,
    )
    [(slot, engine)] = endpoints_of(config).items()
    assert slot == "endpoint-llm"
    assert engine.endpoint is not None
    assert (engine.endpoint.url, engine.endpoint.model, engine.endpoint.max_concurrent) == (
        "http://127.0.0.1:11434/v1",
        "qwen3:8b",
        3,
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (INBOX + 'translate_to = ["ja"]', 'inbox[0].translate_to: "ja" is not allowed'),
        (INBOX + f'translate_to = ["klingonish"]\n{ENDPOINT}', 'inbox[0].translate_to: "klingonish"'),
        (INBOX + 'glossary = "names.toml"', "inbox[0].glossary"),
        (ENDPOINT + 'source = "large-v3"', "models[0].source"),
        (ENDPOINT + "preload = 1", "models[0].preload"),
        (ENDPOINT + 'tasks = ["transcribe"]', "models[0].tasks"),
        (ENDPOINT + 'translate_to = ["klingonish"]', "models[0].translate_to"),
        (ENDPOINT + 'api_key_file = "key"', "models[0].api_key_file"),
        ('[[models]]\nname = "x"\nendpoint = "ollama"\nendpoint_model = "m"', "models[0].endpoint"),
        ('[[models]]\nname = "x"\nendpoint = "http://x/v1"', "models[0].endpoint_model"),
        (
            ENDPOINT.replace("localhost", "me:secret@localhost"),
            'models[0].endpoint: "http://…@localhost:1/v1"',
        ),
        (ENDPOINT.replace("/v1", "/v1?key=secret"), 'models[0].endpoint: "http://localhost:1/v1…"'),
        (ENDPOINT.replace("/v1", "/v1#secret"), 'models[0].endpoint: "http://localhost:1/v1…"'),
        ('[[models]]\nname = "x"\nengine = "ctranslate2"', "models[0].source"),
        (ENDPOINT + 'engine = "whisper"', "models[0].endpoint"),
    ],
)
def test_faults_of_translations_name_the_key(text: str, fault: str, tmp_path: Path) -> None:
    assert any(found.startswith(fault) for found in faults_of(text, tmp_path)), faults_of(text, tmp_path)
    assert "secret" not in "".join(faults_of(text, tmp_path))


def test_inbox_is_translated_by_a_configured_model(tmp_path: Path) -> None:
    config = loaded(INBOX + f'translate_to = ["cht", "Japanese"]\n{ENDPOINT}', tmp_path)
    assert config.inbox[0].translate_to == ("cht", "Japanese")


def test_languages_of_a_job_become_tags() -> None:
    models = configured_models(Config(models=(NLLB,)))
    wanted = JobOptions(translate_to=("cht", "Japanese", "pt_BR", "ja"))
    options = job_options(wanted, models=models, languages={}, after="keep")
    assert options.translate_to == ("zh-TW", "ja", "pt-BR")


@pytest.mark.parametrize(
    ("wanted", "code", "cause"),
    [
        (JobOptions(translate_to=("klingonish",)), "BAD_FORMAT", "is not a language"),
        (
            JobOptions(translate_to=("ja",), translate_model="gpt"),
            "UNSUPPORTED",
            "is not one that translates",
        ),
        (JobOptions(glossary="x = "), "BAD_FORMAT", "glossary: not valid TOML"),
    ],
)
def test_options_that_cannot_be_kept_are_refused(wanted: JobOptions, code: str, cause: str) -> None:
    models = configured_models(Config(models=(NLLB,)))
    with pytest.raises(RefusedError, match=cause) as refused:
        job_options(wanted, models=models, languages={}, after="keep")
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("models", "options", "added", "model"),
    [
        ((NLLB, LLM), {}, {}, "llm"),
        ((NLLB,), {}, {}, "nllb"),
        ((), {}, {}, "llm"),
        ((NLLB, LLM), {"translate_model": "nllb"}, {}, "nllb"),
        (
            (NLLB, LLM),
            {"translate_model": "llm"},
            {"added_languages": ("ja",), "added_models": (("ja", "nllb"),)},
            "nllb",
        ),
        (
            (NLLB, LLM),
            {},
            {"added_languages": ("es", "ja"), "added_models": (("es", "nllb"),)},
            "llm",
        ),
    ],
)
def test_model_that_has_translated_a_job_translates_what_changes(
    models: tuple[NamedModelConfig, ...], options: dict[str, Any], added: dict[str, Any], model: str
) -> None:
    """Else an edit would translate all sentences again, or delete their translations."""
    job = Job(
        id="a",
        state=JobState.DONE,
        source=b"/a",
        location=b"/a",
        size=1,
        mtime_ns=1,
        options=Options(language="de", translate_to=("ja",), **options),
        order=1,
        **added,
    )
    row = StoredTranslation(target="ja", key="k", source="x", text="y", model="llm")
    reader: Any = SimpleNamespace(translations=lambda _job, target: {"k": row} if target == "ja" else {})
    job_row = JobRow(job=job, media=None, created_ms=0, started_ms=None, ended_ms=None)
    first = translation_inputs(job_row, reader, configured_models(Config(models=models)))[0]
    assert (first.target, first.model, bool(first.problem)) == ("ja", model, not models)
