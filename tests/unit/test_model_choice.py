"""The model of a job: named, or chosen by language and task."""

from __future__ import annotations

import pytest

from subtitle.messages import JobOptions
from subtitled.api.peer import RefusedError
from subtitled.api.validation import job_options
from subtitled.config.model_choice import (
    ModelChoice,
    ModelChoiceError,
    choose_model,
    configured_models,
)
from subtitled.config.schema import Config, InboxConfig, ModelConfig, NamedModelConfig
from subtitled.core.config_mapping import model_specs
from subtitled.core.model_placement import ModelSpec
from subtitled.core.protocol import EngineSettings
from subtitled.http.errors import RequestError
from subtitled.http.openai import model_object, model_objects, owner_of, resolve_model
from subtitled.inboxes.arrivals import inbox_options

CONFIG = Config(
    model=ModelConfig(name="large-v3-turbo"),
    models=(
        NamedModelConfig(name="hakka", source="/models/hakka", languages=("hak",), tasks=("transcribe",)),
        NamedModelConfig(name="danish", source="/models/danish", languages=("Danish",)),
        NamedModelConfig(name="translator", source="large-v3"),
    ),
)
MODELS = configured_models(CONFIG)
TRANSCRIBE, TRANSLATE = ("transcribe",), ("translate",)
BOTH = ("transcribe", "translate")
IS_FOR_DANISH = 'language "da": danish is configured for it'
NO_TRANSLATION = 'task "translate": the model large-v3-turbo does not support it'

HAKKA_IS_TRANSLATED = 'language "hak": hakka is configured for it; translator translates: task "translate": the model hakka does not support it'


def test_models_can_do_what_their_files_or_names_say() -> None:
    tasks = {model.name: model.tasks for model in MODELS}
    assert tasks == {"large-v3-turbo": TRANSCRIBE, "hakka": TRANSCRIBE, "danish": BOTH, "translator": BOTH}
    assert MODELS[2].languages == ("da",)


@pytest.mark.parametrize(
    ("wanted", "tasks", "language", "choice"),
    [
        ("", TRANSCRIBE, "auto", ModelChoice()),
        ("", TRANSCRIBE, "de", ModelChoice()),
        ("", TRANSCRIBE, "hak", ModelChoice("hakka", 'language "hak": hakka is configured for it')),
        ("", TRANSCRIBE, "da", ModelChoice("danish", IS_FOR_DANISH)),
        ("", TRANSLATE, "da", ModelChoice("danish", IS_FOR_DANISH)),
        ("", TRANSLATE, "de", ModelChoice("translator", NO_TRANSLATION)),
        ("", BOTH, "auto", ModelChoice("", f"danish translates: {NO_TRANSLATION}", "danish")),
        ("", BOTH, "de", ModelChoice("", f"translator translates: {NO_TRANSLATION}", "translator")),
        ("", BOTH, "da", ModelChoice("danish", IS_FOR_DANISH)),
        ("", BOTH, "hak", ModelChoice("hakka", HAKKA_IS_TRANSLATED, "translator")),
        (
            "hakka",
            BOTH,
            "de",
            ModelChoice("hakka", f"requested; {HAKKA_IS_TRANSLATED.split('; ')[1]}", "translator"),
        ),
        ("translator", BOTH, "de", ModelChoice("translator", "requested")),
        ("", TRANSLATE, "hak", ModelChoice("translator", NO_TRANSLATION)),
        ("translator", TRANSCRIBE, "da", ModelChoice("translator", "requested")),
        ("large-v3-turbo", TRANSCRIBE, "da", ModelChoice()),
    ],
)
def test_model_is_chosen_by_name_language_and_task(
    wanted: str, tasks: tuple[str, ...], language: str, choice: ModelChoice
) -> None:
    assert choose_model(MODELS, wanted=wanted, tasks=tasks, language=language) == choice


def test_model_that_lacks_the_language_is_not_chosen() -> None:
    config = Config(model=ModelConfig(name="base.en"), models=(NamedModelConfig(name="all", source="base"),))
    models = configured_models(config)
    assert [model.known_languages for model in models] == [("en",), ()]
    choice = choose_model(models, wanted="", tasks=TRANSCRIBE, language="de")
    assert choice == ModelChoice("all", 'language "de": the model base.en does not support it')
    for language in ("en", "auto"):
        assert choose_model(models, wanted="", tasks=TRANSCRIBE, language=language) == ModelChoice()


def test_languages_of_a_loaded_model_decide_the_choice() -> None:
    """A folder may have any name; which languages its model has is known when it is loaded."""
    loaded = {"": ("en", "fr"), "danish": ("da",)}
    options = job_options(JobOptions(language="de"), models=MODELS, languages=loaded, after="keep")
    assert options.model == "translator"
    assert "large-v3-turbo does not support it" in options.model_reason
    with pytest.raises(RefusedError, match="'de': the model danish supports da"):
        job_options(JobOptions(language="de", model="danish"), models=MODELS, languages=loaded, after="keep")


def test_unknown_model_is_refused_with_the_list() -> None:
    with pytest.raises(
        ModelChoiceError, match=r"'huge' is not .* large-v3-turbo \(default\), hakka, danish, translator$"
    ):
        choose_model(MODELS, wanted="huge", tasks=TRANSCRIBE, language="auto")


def test_model_that_cannot_do_the_task_is_refused_with_those_that_can() -> None:
    with pytest.raises(ModelChoiceError, match="hakka does not support it; use danish, translator"):
        choose_model(MODELS, wanted="hakka", tasks=TRANSLATE, language="hak")


def test_task_that_no_model_can_do_is_refused() -> None:
    with pytest.raises(ModelChoiceError, match="use a multilingual model"):
        choose_model(MODELS[:2], wanted="", tasks=TRANSLATE, language="de")


def test_choice_is_in_the_options_of_a_job() -> None:
    options = job_options(JobOptions(task="translate"), models=MODELS, languages={}, after="keep")
    assert (options.model, options.model_reason) == ("danish", NO_TRANSLATION)
    options = job_options(JobOptions(language="hak"), models=MODELS, languages={"": ("en",)}, after="keep")
    assert (options.model, options.language) == ("hakka", "hak")
    with pytest.raises(RefusedError, match="'huge' is not configured") as caught:
        job_options(JobOptions(model="huge"), models=MODELS, languages={}, after="keep")
    assert caught.value.code == "UNSUPPORTED"


def test_choice_is_in_the_options_of_an_inbox() -> None:
    assert inbox_options(InboxConfig(task="translate"), MODELS).model == "danish"
    assert inbox_options(InboxConfig(model="translator"), MODELS).model_reason == "requested"
    removed = inbox_options(InboxConfig(model="removed"), MODELS)
    assert removed.model == "removed", "its job fails with the reason"


def test_models_for_the_workers_have_the_settings_of_the_default_and_their_own() -> None:
    config = Config(
        model=ModelConfig(beam_size=3, streams_per_gpu=2, idle_unload_s=60),
        models=(NamedModelConfig(name="a", source="base", compute_type="int8", batch_size="auto"),),
    )
    default, named = model_specs(config)
    assert default == ModelSpec()
    engine = EngineSettings(
        model="base", compute_type="int8", batch_size=0, beam_size=3, streams=2, idle_unload_s=60
    )
    assert named == ModelSpec(name="a", engine=engine)


def test_preloaded_model_is_not_unloaded_when_it_is_idle() -> None:
    config = Config(
        model=ModelConfig(idle_unload_s=60), models=(NamedModelConfig(name="a", source="base", preload=1),)
    )
    _, named = model_specs(config)
    assert named == ModelSpec(name="a", engine=EngineSettings(model="base"), preload=1)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("", ""),
        ("default", ""),
        ("hakka", "hakka"),
        ("gpt-4o-transcribe", ""),
        ("whisper-1", "hakka"),
        ("Systran/any", ""),
        ("same", ""),
    ],
)
def test_model_of_an_openai_client_is_one_of_the_daemons(name: str, model: str) -> None:
    aliases = ("Systran/*", "whisper-1=hakka", "same=default")
    assert resolve_model(name, ("default", "hakka"), aliases) == model


def test_unknown_model_of_an_openai_client_is_refused_with_the_list() -> None:
    with pytest.raises(RequestError, match="use 'default' or 'hakka' or an alias"):
        resolve_model("huge", ("default", "hakka"))


@pytest.mark.parametrize(
    ("source", "owner"),
    [
        ("Systran/faster-whisper-base", "Systran"),
        ("large-v3-turbo", "openai"),
        ("distil-large-v3", "distil-whisper"),
        ("demo", "subtitled"),
        ("/srv/models/hakka", "subtitled"),
        ("./hakka", "subtitled"),
        ("../models/hakka", "subtitled"),
        ("", "subtitled"),
    ],
)
def test_owner_of_a_model_is_that_of_its_repository(source: str, owner: str) -> None:
    assert owner_of(source) == owner


def test_alias_of_a_model_that_a_reload_removed_is_not_listed() -> None:
    models = {"default": "base", "hakka": "me/hakka"}
    aliases = ("one", "two=hakka", "three=removed")
    listed = {found["id"] for found in model_objects(models, aliases)}
    assert {"default", "hakka", "one", "two"} <= listed
    assert "three" not in listed
    assert model_object("two", models, aliases)["owned_by"] == "me"
    with pytest.raises(RequestError, match="'three' does not exist"):
        model_object("three", models, aliases)
