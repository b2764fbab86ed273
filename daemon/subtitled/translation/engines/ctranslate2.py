"""Translation with CTranslate2: folders of NLLB-200, M2M-100, MADLAD-400 and OPUS-MT (Marian) models.

These models translate one sentence at a time, so the context of a request is not used. A term of the glossary that a
translation lacks is put into the sentence in the place of the original one, which these models mostly copy, and the
sentence is translated again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from subtitled.asr.faster_whisper_compat import is_out_of_memory
from subtitled.asr.progress import report_step
from subtitled.config.translation_files import (
    MARIAN_FILES,
    SENTENCEPIECE_FILES,
    TranslationModelFacts,
    translation_facts,
)
from subtitled.errors import ModelError, SubtitledError
from subtitled.translation.checks import checked
from subtitled.translation.glossary import contains, replaced

if TYPE_CHECKING:
    from ctranslate2 import Translator

    from subtitled.core.translation import SentenceTranslation, TranslationRequest

RUNS_TO_GROW = 50
"""Batches without trouble after which one twice as large is tried, where memory had run out."""
MAX_RUNNING = 2
"""Batches that are started at once: one runs while the texts of the other are made."""
MAX_TOKENS = 256
"""Maximum tokens of one translation: CTranslate2's default. The same for each batch, so that a result does not depend on its neighbours."""


class TranslationMemoryError(SubtitledError):
    """The device has no memory even for one sentence."""


class TextTokenizer(Protocol):
    """Text to a model's tokens and back, without the tokens of languages and of the end."""

    def encode(self, text: str) -> list[str]:
        """Return the tokens of a text."""

    def decode(self, tokens: Sequence[str]) -> str:
        """Return the text of a translation's tokens."""


class _JsonTokenizer:
    """A `tokenizer.json` of the Tokenizers library."""

    def __init__(self, file: Path, *, has_tags_in_text: bool) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # A sentence that has "</s>" or the name of a language's token in it is text like any other.
        self._tokenizer.encode_special_tokens = not has_tags_in_text

    def encode(self, text: str) -> list[str]:
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens

    def decode(self, tokens: Sequence[str]) -> str:
        ids = [self._tokenizer.token_to_id(token) for token in tokens]
        text: str = self._tokenizer.decode([one for one in ids if one is not None], skip_special_tokens=True)
        return text


class _PieceTokenizer:
    """SentencePiece models: one for each side, or the same for both."""

    def __init__(self, source: Path, target: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._source = SentencePieceProcessor(model_file=str(source))
        self._target = self._source if source == target else SentencePieceProcessor(model_file=str(target))

    def encode(self, text: str) -> list[str]:
        pieces: list[str] = self._source.encode(text, out_type=str)
        return pieces

    def decode(self, tokens: Sequence[str]) -> str:
        text: str = self._target.decode(list(tokens))
        return text


class _Job(Struct):
    """A sentence on its way through the model."""

    tokens: list[str]
    prefix: list[str]
    text: str | None = None
    """The translation."""
    fault: str = ""


class CTranslate2Engine:
    """One loaded translation model; may be used from several threads at once."""

    name = "ctranslate2"

    def __init__(
        self,
        model: Translator,
        folder: Path,
        *,
        label: str,
        beam_size: int,
        batch_size: int,
        runs_to_grow: int = RUNS_TO_GROW,
    ) -> None:
        """`label` is the model's name in outputs. Raises ModelError if the folder's tokenizer cannot be used."""
        self.model = model
        self.batch_size = batch_size
        self.facts = _facts_of(folder, label)
        self.version = f"{Path(label).name}, {model.compute_type}"
        self._tokenizer = _tokenizer_of(folder, self.facts, label)
        self._beam_size = beam_size
        config = json.loads((folder / "config.json").read_bytes())
        self._end = [] if config.get("add_source_eos") else [str(config.get("eos_token") or "</s>")]
        self._tags = frozenset(self.facts.tags.values())
        self._limit = batch_size
        """Sentences translated at once; halved when memory runs out, and growing again."""
        self._runs_since_limit = 0
        self._runs_to_grow = runs_to_grow

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages that the model translates from or into, as its folder names them."""
        return tuple(dict.fromkeys((*self.facts.sources, *self.facts.targets)))

    def translate(self, requests: Sequence[TranslationRequest]) -> list[list[SentenceTranslation]]:
        """Return one result for each sentence of each request, in order.

        The sentences of all requests are translated in batches of similar lengths, whatever their languages. Reports a step
        (`asr.progress`) after each batch. Raises TranslationMemoryError, and RuntimeError for a fault of the device.
        """
        rows = self._translated(requests)
        return [
            checked(request, [job.text for job in row], [job.fault for job in row])
            for request, row in zip(requests, rows, strict=True)
        ]

    def texts(self, requests: Sequence[TranslationRequest]) -> list[list[str | None]]:
        """Return what the model makes of each sentence of each request, unchecked; None: nothing."""
        return [[job.text for job in row] for row in self._translated(requests)]

    def _translated(self, requests: Sequence[TranslationRequest]) -> list[list[_Job]]:
        jobs = [[self._job(request, text) for text in request.sentences] for request in requests]
        self._run(job for row in jobs for job in row)
        again: list[tuple[_Job, _Job, list[str]]] = []
        for request, row in zip(requests, jobs, strict=True):
            for text, job in zip(request.sentences, row, strict=True):
                if missing := _missing_terms(request, text, job.text):
                    repeat = self._job(request, replaced(text, missing))
                    again.append((job, repeat, [translation for _, translation in missing]))
        self._run(repeat for _, repeat, _ in again)
        for job, repeat, wanted in again:
            if repeat.text and all(term.casefold() in repeat.text.casefold() for term in wanted):
                job.text = repeat.text
        return jobs

    def _job(self, request: TranslationRequest, text: str) -> _Job:
        """Return a sentence's tokens in the format of the model's family."""
        facts = self.facts
        if not facts.covers(request.source, request.target):
            return _Job(
                [], [], fault=f"{self.version} does not translate {request.source} into {request.target}"
            )
        source, target = facts.tag(request.source), facts.tag(request.target)
        match facts.family:
            case "nllb" | "m2m100":
                return _Job([str(source), *self._tokenizer.encode(text), *self._end], [str(target)])
            case "madlad":
                # The tag is part of the text, so that what follows it is split as it was in training.
                tokens = self._tokenizer.encode(f"{target} {text}")
                first = tokens.index(str(target)) + 1 if target in tokens else 0
                rest = (
                    token for token in tokens[first:] if token not in self._tags and token not in self._end
                )
                return _Job([*(tokens[:first] or [str(target)]), *rest, *self._end], [])
            case "marian":
                return _Job([*([target] if target else []), *self._tokenizer.encode(text), *self._end], [])

    def _run(self, jobs: Iterable[_Job]) -> None:
        """Translate sentences, in batches of similar lengths; the next batch runs while the texts of one are made."""
        waiting = sorted((job for job in jobs if job.tokens), key=lambda job: -len(job.tokens))
        running: deque[tuple[list[_Job], list[Any]]] = deque()
        while waiting or running:
            while waiting and len(running) < MAX_RUNNING:
                batch = waiting[: self._limit]
                del waiting[: len(batch)]
                running.append((batch, self._start(batch)))
            batch, results = running.popleft()
            try:
                self._finish(batch, results)
            except (RuntimeError, MemoryError, ValueError) as error:
                if is_out_of_memory(error):
                    if len(batch) == 1:
                        raise TranslationMemoryError(
                            f"out of memory with a single sentence: {error}"
                        ) from error
                    self._limit = max(1, len(batch) // 2)
                    self._runs_since_limit = 0
                    waiting[:0] = batch
                    continue
                if self.model.device != "cpu" and isinstance(error, RuntimeError):
                    raise
                self._translate_singly(batch, error)
            self._grow()
            report_step()

    def _translate_singly(self, batch: Sequence[_Job], error: Exception) -> None:
        """Translate the sentences of a batch that failed one by one: one that is too long for the model fails alone."""
        for job in batch:
            try:
                if len(batch) == 1:
                    raise error
                self._finish([job], self._start([job]))
            except (RuntimeError, ValueError) as fault:
                job.fault = f"{self.version}: {fault}"

    def _start(self, batch: Sequence[_Job]) -> list[Any]:
        """Start to translate a batch, in CTranslate2's own thread; return its pending results."""
        has_prefix = bool(batch[0].prefix)
        pending: list[Any] = self.model.translate_batch(
            [job.tokens for job in batch],
            target_prefix=[job.prefix for job in batch] if has_prefix else None,
            beam_size=self._beam_size,
            max_input_length=0,
            max_decoding_length=MAX_TOKENS,
            disable_unk=True,
            asynchronous=True,
        )
        return pending

    def _finish(self, batch: Sequence[_Job], pending: Sequence[Any]) -> None:
        """Wait for the results of a batch, and make their texts; raise what CTranslate2 raises."""
        for job, one in zip(batch, pending, strict=True):
            tokens = one.result().hypotheses[0][len(job.prefix) :]
            job.text = self._tokenizer.decode([token for token in tokens if token not in self._tags]).strip()

    def _grow(self) -> None:
        self._runs_since_limit += 1
        if self._limit < self.batch_size and self._runs_since_limit >= self._runs_to_grow:
            self._limit = min(self.batch_size, self._limit * 2)
            self._runs_since_limit = 0


def _missing_terms(request: TranslationRequest, text: str, made: str | None) -> list[tuple[str, str]]:
    """Return the terms of the glossary that a sentence has and its translation lacks."""
    if made is None:
        return []
    return [
        (term, translation)
        for term, translation in request.glossary
        if contains(text, term) and translation.casefold() not in made.casefold()
    ]


def _facts_of(folder: Path, label: str) -> TranslationModelFacts:
    try:
        return translation_facts(folder, label)
    except (OSError, ValueError) as error:
        raise ModelError(f"the model {label!r}: {error}") from error


def _tokenizer_of(folder: Path, facts: TranslationModelFacts, label: str) -> TextTokenizer:
    """Return the tokenizer of a folder; raises ModelError."""
    make: Callable[[], TextTokenizer]
    sides = [folder / name for name in MARIAN_FILES]
    both = next((folder / name for name in SENTENCEPIECE_FILES if (folder / name).is_file()), None)
    json_file = folder / "tokenizer.json"
    if facts.family == "marian" and all(file.is_file() for file in sides):
        make = lambda: _PieceTokenizer(*sides)  # noqa: E731 - one of three
    elif json_file.is_file() or both is None:
        make = lambda: _JsonTokenizer(json_file, has_tags_in_text=facts.family == "madlad")  # noqa: E731
    else:
        make = lambda: _PieceTokenizer(both, both)  # noqa: E731
    try:
        return make()
    except Exception as error:  # Tokenizers raises Exception itself, SentencePiece several kinds
        raise ModelError(f"the model {label!r}: its tokenizer cannot be read: {error}") from error
