"""Which results look wrong, and which result replaces one that does."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faster_whisper.transcribe import TranscriptionOptions

from subtitled.asr.fallback import (
    DecodedWindow,
    DecodingAttempt,
    decode_again,
    decode_first,
    scored_attempt,
)

if TYPE_CHECKING:
    from subtitled.core.transcription import DecodingDecision

OPTIONS: Any = SimpleNamespace(
    compression_ratio_threshold=2.4, log_prob_threshold=-1.0, no_speech_threshold=0.6
)


def attempt(*, logprob: float = -0.3, ratio: float = 1.2, no_speech_prob: float = 0.1) -> DecodingAttempt:
    return DecodingAttempt(
        SimpleNamespace(no_speech_prob=no_speech_prob, sequences_ids=[[]]), logprob, ratio, 0.0
    )


@pytest.mark.parametrize(
    ("made", "doubt", "is_silence"),
    [
        (attempt(), None, False),
        (attempt(ratio=2.5), "compression_ratio", False),
        (attempt(ratio=2.4), None, False),
        (attempt(logprob=-1.1), "log_prob", False),
        (attempt(logprob=-1.0), None, False),
        (attempt(logprob=-1.1, no_speech_prob=0.7), None, True),
        (attempt(logprob=-1.1, no_speech_prob=0.7, ratio=9), None, True),
        (attempt(logprob=-0.9, no_speech_prob=0.7, ratio=9), "compression_ratio", False),
        (attempt(logprob=-1.0, no_speech_prob=0.7), None, True),
    ],
)
def test_results_are_judged_as_faster_whisper_does(
    made: DecodingAttempt, doubt: str | None, is_silence: bool
) -> None:
    assert (made.doubt(OPTIONS), made.is_silence(OPTIONS)) == (doubt, is_silence)


class Letters:
    """A tokenizer whose tokens are the code points of letters, and 1000 and above timestamps."""

    eot = 1000
    language_code = "en"

    def decode(self, tokens: list[int]) -> str:
        """Return the text of some tokens."""
        return "".join(chr(token) for token in tokens if token < self.eot)


class FakeModel:
    """Gives one text after the other, whatever it is asked to decode."""

    def __init__(self, *texts: str, logprob: float) -> None:
        self.model = self
        self.time_precision = 0.02
        self._texts = iter(texts)
        self._logprob = logprob

    def generate(self, *_: Any, **__: Any) -> list[Any]:
        """Return the result of one window: the next text."""
        tokens = [ord(letter) for letter in next(self._texts)]
        return [SimpleNamespace(sequences_ids=[tokens], scores=[self._logprob], no_speech_prob=0.0)]


def decoded(*texts: str, logprob: float = -0.1) -> tuple[str, DecodingAttempt, list[DecodingDecision]]:
    """Return the text used for a window for which the model gives `texts`, one at each temperature."""
    first, *others = texts
    model: Any = FakeModel(*others, logprob=logprob)
    tokenizer: Any = Letters()
    options: Any = TranscriptionOptions(
        **{field.name: None for field in fields(TranscriptionOptions)}
        | {"temperatures": [0.2 * at for at in range(len(texts))], "length_penalty": 1.0, "best_of": 5}
        | {"max_initial_timestamp": 1.0, **vars(OPTIONS)}
    )
    tokens = [ord(letter) for letter in first]
    result = SimpleNamespace(sequences_ids=[tokens], scores=[logprob], no_speech_prob=0.0)
    made = scored_attempt(result, tokenizer, options, 0.0)
    window = DecodedWindow(prompt=[], tokenizer=tokenizer, seconds=30.0, attempts=[made])
    decode_again(model, np.zeros((1, 3), np.float32), [window], options)
    taken = window.best(options)
    return tokenizer.decode(taken.tokens), taken, window.decisions


CHORUS = "let us go fishing in the brook " * 5
LOOP = "nine " * 40


def test_a_repetition_that_comes_back_word_for_word_is_a_refrain() -> None:
    """No other temperature is tried; the text counts as sure, with the temperature at which it was first decoded."""
    text, taken, decisions = decoded(CHORUS, CHORUS.title(), "something else")
    assert (text, taken.temperature, taken.doubt(OPTIONS)) == (CHORUS, 0.0, None)
    assert [decision.temperature for decision in decisions] == [0.2]


@pytest.mark.parametrize("others", [("nine " * 41, "nine " * 52), (LOOP, LOOP)])
def test_a_repetition_without_end_is_no_refrain(others: tuple[str, ...]) -> None:
    """It has another number of rounds each time, or more than fit into a song."""
    _, taken, decisions = decoded(LOOP, *others)
    assert taken.doubt(OPTIONS) == "compression_ratio"
    assert len(decisions) == 2


def test_an_improbable_text_that_comes_back_is_accepted() -> None:
    """Higher temperatures would only give less probable ones; the text is reported with the temperature that confirmed it."""
    text, taken, decisions = decoded("mumbled", "Mumbled", "something else", logprob=-1.5)
    assert (text, taken.temperature) == ("mumbled", 0.2)
    assert [(decision.cause, decision.temperature) for decision in decisions] == [("log_prob", 0.2)]


def test_an_improbable_text_is_decoded_again_at_each_temperature() -> None:
    """None of the texts comes back: the most probable one is used, with the last temperature."""
    text, taken, decisions = decoded("seven", "one", "three", logprob=-4.4)
    assert text == "one"
    assert taken.temperature == 0.4
    assert [(decision.cause, decision.temperature) for decision in decisions] == [
        ("log_prob", 0.2),
        ("log_prob", 0.4),
    ]


def test_the_text_of_a_window_is_limited_by_its_length_and_language() -> None:
    """CTranslate2 counts each token twice."""
    limits: list[int] = []

    def generate(*_: Any, max_length: int, **__: Any) -> list[Any]:
        limits.append(max_length)
        return [SimpleNamespace(no_speech_prob=0.0, sequences_ids=[[1]], scores=[-0.1]) for _ in limits]

    def window(seconds: float, language: str) -> DecodedWindow:
        tokenizer: Any = SimpleNamespace(language_code=language, decode=lambda _: "a")
        return DecodedWindow(prompt=[1], tokenizer=tokenizer, seconds=seconds, attempts=[])

    model: Any = SimpleNamespace(model=SimpleNamespace(generate=generate), time_precision=0.02)
    options: Any = SimpleNamespace(**{field.name: 1 for field in fields(TranscriptionOptions)})
    for language, seconds, tokens in (("en", 5, 84), ("ru", 5, 124), ("en", 30, 224)):
        decode_first(model, np.zeros((1, 4, 2)), [window(seconds, language)], options)
        assert limits.pop() == 2 * tokens
