"""Which configured model decodes a job: the one that it names, or one that can do its task and language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from subtitled.config.model_files import (
    can_translate,
    is_english_only,
    is_translation_model,
    translation_languages,
)
from subtitled.config.schema import Config, NamedModelConfig
from subtitled.languages import ENGLISH, chinese_of, code_of, option_of

DEFAULT_MODEL = ""
"""Name of the model of `[model]` in the options of a job."""


class ConfiguredModel(Struct, frozen=True, kw_only=True):
    """A model that jobs may name."""

    name: str
    source: str
    """A size, a hub id or a folder."""
    languages: tuple[str, ...] = ()
    """Languages that it is for, as Whisper's codes where it has them."""
    known_languages: tuple[str, ...] = ()
    """Languages of Whisper that it has tokens for; (): not known before it is loaded."""
    tasks: tuple[str, ...]
    """Its tasks on audio; empty for a model that translates text."""
    is_default: bool = False
    is_for_text: bool = False
    """It translates text."""
    sources: tuple[str, ...] = ()
    """Languages that it translates text from; (): any."""
    targets: tuple[str, ...] = ()
    """Languages that it translates text to; (): any."""

    @property
    def option(self) -> str:
        """Its name in the options of a job."""
        return DEFAULT_MODEL if self.is_default else self.name

    def lacks(self, language: str) -> bool:
        """Return whether it has no token for a language and is not configured for it; False if that is not known."""
        known = {"auto", "multi", *self.languages, *self.known_languages}
        return bool(self.known_languages) and language not in known

    def translates(self, source: str | None, target: str) -> bool:
        """Return whether it translates text from `source`, a language or None for an unknown one, to `target`."""
        is_source = source is None or not self.sources or any(_is_same(source, one) for one in self.sources)
        is_target = not self.targets or any(_is_same(target, one) for one in self.targets)
        return self.is_for_text and is_source and is_target


class ModelChoice(Struct, frozen=True):
    """The model of a job, by its name in the job's options, and why it is not the default."""

    model: str = DEFAULT_MODEL
    reason: str = ""
    translation_model: str | None = None
    """The model that translates, where the other one only transcribes; None: the same."""


class ModelChoiceError(ValueError):
    """No configured model can do this job; the message names the models."""


def configured_models(config: Config) -> tuple[ConfiguredModel, ...]:
    """Return all models, the default first."""
    default = ConfiguredModel(
        name=config.model.name,
        source=config.model.name,
        known_languages=_known_languages_of(config.model.name),
        tasks=_tasks_of(config.model.name),
        is_default=True,
    )
    return (
        default,
        *(
            ConfiguredModel(
                name=model.name,
                source=model.source,
                languages=tuple(map(option_of, model.languages)),
                known_languages=_known_languages_of(model.source),
                tasks=tuple(model.tasks) or _tasks_of(model.source),
            )
            if kind_of(model) == "whisper"
            else _translator(model)
            for model in config.models
        ),
    )


def kind_of(model: NamedModelConfig) -> Literal["whisper", "ctranslate2", "openai"]:
    """Return what runs a model."""
    if model.engine != "auto":
        return model.engine
    if model.endpoint:
        return "openai"
    return "ctranslate2" if is_translation_model(model.source) else "whisper"


def _translator(model: NamedModelConfig) -> ConfiguredModel:
    sources, targets = translation_languages(model.source)
    return ConfiguredModel(
        name=model.name,
        source=model.source or model.endpoint,
        tasks=(),
        is_for_text=True,
        sources=model.translate_from or sources,
        targets=model.translate_to or targets,
    )


def choose_translator(
    models: Sequence[ConfiguredModel], *, wanted: str, source: str | None, target: str
) -> ConfiguredModel:
    """Return the model that translates text from `source` (None if unknown) to `target`; raises ModelChoiceError.

    `wanted` is the name of a model, or ""; then it is the first one that covers both languages.
    """
    translators = [model for model in models if model.is_for_text]
    names = ", ".join(model.name for model in translators)
    if not translators:
        raise ModelChoiceError(
            f'no model translates to "{target}"; add [[models]] with engine = "ctranslate2" and a source such as'
            ' "JustFrederik/nllb-200-distilled-600M-ct2-int8", or with engine = "openai" and an endpoint'
        )
    if wanted and wanted not in {model.name for model in translators}:
        raise ModelChoiceError(f"model {wanted[:100]!r} is not one that translates text; use one of: {names}")
    able = [model for model in translators if model.translates(source, target)]
    chosen = next((model for model in able if wanted in {"", model.name}), None)
    if chosen is not None:
        return chosen
    pair = f'to "{target}"' if source is None else f'from "{source}" to "{target}"'
    remedy = f"use {', '.join(model.name for model in able)}" if able else "add one to [[models]]"
    raise ModelChoiceError(f"{wanted or 'none of the models ' + names} translates {pair}; {remedy}")


def _is_same(language: str, other: str) -> bool:
    """Return whether two names are the same language; characters of Chinese differ only if both names say which."""
    characters = {chinese_of(language), chinese_of(other)} - {"off"}
    if len(characters) > 1:
        return False
    code = code_of(language)
    first, second = (tag.replace("_", "-").partition("-")[0].lower() for tag in (language, other))
    return first == second or (code is not None and code == code_of(other))


def choose_model(
    models: Sequence[ConfiguredModel], *, wanted: str, tasks: Iterable[str], language: str
) -> ModelChoice:
    """Return the model of a job; raises ModelChoiceError.

    `wanted` is the name of a model, or ""; then a model that is for the `language` goes before the default, and the default
    before the others, as far as they can do the `tasks` and have tokens for the `language`. A model that can only transcribe, where a translation is needed too,
    leaves that to the next one that can translate.
    """
    needed = set(tasks)
    able = [model for model in models if needed <= set(model.tasks)]
    if not wanted:
        able = [model for model in able if not model.lacks(language)] or able
    if needed == {"transcribe", "translate"}:
        choice = _transcriber(models, wanted=wanted, language=language)
        translator = next((model for model in able if _suits(model, language)), None)
        is_split = choice is not None and not choice.lacks(language) and not needed <= set(choice.tasks)
        if choice is not None and is_split and translator is not None:
            first = _reason(choice, wanted=wanted, language=language)
            reason = "; ".join(
                filter(
                    None,
                    [first, f"{translator.name} translates: {_lack(choice, needed)} does not support it"],
                )
            )
            return ModelChoice(choice.option, reason, translator.option)
    if wanted:
        model = next((one for one in models if one.name == wanted), None)
        if model is None:
            raise ModelChoiceError(f"model {wanted[:100]!r} is not configured; use one of: {_names(models)}")
        if model not in able:
            raise _cannot(model, needed, able)
        return ModelChoice(model.option, _reason(model, wanted=wanted, language=language))
    for model in able:
        if language in model.languages:
            return ModelChoice(model.option, _reason(model, wanted=wanted, language=language))
    default = models[0]
    if default in able:
        return ModelChoice()
    for model in able:
        if _suits(model, language):
            return ModelChoice(model.option, f"{_lack(default, needed, language)} does not support it")
    raise _cannot(default, needed, [])


def _transcriber(models: Sequence[ConfiguredModel], *, wanted: str, language: str) -> ConfiguredModel | None:
    """Return the model that transcribes: the one that is named, one for the language, or the default."""
    able = [model for model in models if "transcribe" in model.tasks]
    if wanted:
        return next((model for model in able if model.name == wanted), None)
    return next((model for model in able if language in model.languages), models[0])


def _suits(model: ConfiguredModel, language: str) -> bool:
    """Return whether a model may be chosen for jobs whose language is not among its own."""
    return not model.languages or language in {"auto", "multi"}


def _reason(model: ConfiguredModel, *, wanted: str, language: str) -> str:
    """Return why a model was chosen that was named, or is for the language; "" for the default."""
    if wanted:
        return "" if model.is_default else "requested"
    return f'language "{language}": {model.name} is configured for it' if language in model.languages else ""


def _lack(model: ConfiguredModel, needed: set[str], language: str = "") -> str:
    """Return what a model does not support: a task, or the language."""
    if needed <= set(model.tasks):
        return f'language "{language}": the model {model.name}'
    return f'task "{min(needed - set(model.tasks))}": the model {model.name}'


def _cannot(model: ConfiguredModel, needed: set[str], able: Sequence[ConfiguredModel]) -> ModelChoiceError:
    remedy = _names(able) if able else 'a multilingual model such as "large-v3"'
    return ModelChoiceError(f"{_lack(model, needed)} does not support it; use {remedy}")


def _tasks_of(source: str) -> tuple[str, ...]:
    return ("transcribe", "translate") if can_translate(source) else ("transcribe",)


def _known_languages_of(source: str) -> tuple[str, ...]:
    return (ENGLISH,) if is_english_only(source) else ()


def _names(models: Iterable[ConfiguredModel]) -> str:
    return ", ".join(f"{one.name} (default)" if one.is_default else one.name for one in models)
