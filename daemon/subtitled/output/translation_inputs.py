"""The inputs of a job's translations: model, glossary and stored sentences for each language."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from subtitled import log
from subtitled.config.model_choice import ConfiguredModel, ModelChoiceError, choose_translator
from subtitled.languages import ENGLISH, iso_639, named_language
from subtitled.output.layout_process import TranslationInput
from subtitled.translation.glossary import Glossary, GlossaryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from subtitled.core.actions import StoredTranslation
    from subtitled.core.records import Job
    from subtitled.storage.reader import Reader
    from subtitled.storage.rows import JobRow

_log = log.get()


def translation_inputs(
    row: JobRow, reader: Reader, models: Sequence[ConfiguredModel]
) -> tuple[TranslationInput, ...]:
    """Return the inputs of a job's translations, except into its own language; for the thread of `reader`."""
    job = row.job
    is_english = job.options.task == "translate"
    language = ENGLISH if is_english else job.language or job.options.language
    source = named_language(language)
    own = {iso_639(language), *([ENGLISH] if "translate" in job.options.tasks else [])}
    glossary = _glossary_of(job)
    found = []
    for target in job.translate_to:
        if target in own:  # its file is that of the transcript
            continue
        stored = reader.translations(job.id, target)
        model, problem = _model_of(job, source, target, stored, models)
        found.append(
            TranslationInput(
                target=target,
                model=model,
                is_requested=model == job.requested_model(target),
                problem=problem,
                glossary=glossary.terms(target),
                stored=stored,
            )
        )
    return tuple(found)


def _model_of(
    job: Job,
    source: str | None,
    target: str,
    stored: Mapping[str, StoredTranslation],
    models: Sequence[ConfiguredModel],
) -> tuple[str, str]:
    """Return the name of the model that translates a job to a language, and why it cannot; "" if it can.

    It is the one that the job names, else the one that translated its sentences so far, also if others come before it now: an
    edit must not translate all sentences again. Without any model it is still that one: its translations stay.
    """
    named = job.translate_model(target)
    models_used = Counter(row.model for row in stored.values() if not row.problem)
    used = min(models_used, key=lambda name: (-models_used[name], name), default="")
    problem = ""
    for wanted in (named,) if named else dict.fromkeys((used, job.options.translate_model, "")):
        try:
            return choose_translator(models, wanted=wanted, source=source, target=target).option, ""
        except ModelChoiceError as error:
            problem = problem or str(error)
    return named or used, problem


def _glossary_of(job: Job) -> Glossary:
    """Return a job's glossary: that of its inbox, with its own terms before them; a file with faults is logged and left out."""
    texts = [job.options.glossary]
    if job.options.glossary_file:
        try:
            texts.insert(0, Path(job.options.glossary_file).read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            _log.warning(log.GLOSSARY_INVALID, job=job.id, path=job.options.glossary_file, cause=str(error))
    found = Glossary("")
    for text in texts:
        try:
            found = found.with_terms(Glossary(text))
        except GlossaryError as error:
            _log.warning(log.GLOSSARY_INVALID, job=job.id, path=job.options.glossary_file, cause=str(error))
    return found
