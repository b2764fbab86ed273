"""The engine gives the results of faster-whisper with the same options, and reports its decisions."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

import media
from subtitled.asr.engine import Engine
from subtitled.asr.model import load
from subtitled.asr.progress import steps_reported_to
from subtitled.asr.prompts import PromptRequest
from subtitled.config.layout_limits import LayoutLimits
from subtitled.config.schema import DecodingConfig
from subtitled.core.plan import SegmentSound, Span
from subtitled.core.transcription import DecisionKind, DecodingDecision, Word
from subtitled.cues.phrases import spelling
from subtitled.cues.text_width import fits_one_cue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faster_whisper import WhisperModel
    from numpy.typing import NDArray

    from subtitled.core.protocol import SegmentResult

PROMPT = "The teacher reads. He wants"
HOTWORDS = "Wednesday, fish"
CHINESE = "请打开窗户。"


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    return load("demo", device="cpu", compute_type="int8", cpu_threads=1)


def english(start_s: float = 0.4) -> NDArray[np.int16]:
    return media.recording()[int(start_s * media.RATE) : int((start_s + 6) * media.RATE)]


def chinese() -> NDArray[np.int16]:
    return media.recording("demo-zh.flac")[: 6 * media.RATE]


def decoded(
    model: WhisperModel, asked: Sequence[tuple[NDArray[np.int16], PromptRequest]], **decoding: Any
) -> list[SegmentResult]:
    engine = Engine(model, beam_size=5, batch_size=8, decoding=DecodingConfig(**decoding))
    features = [engine.features(pcm) for pcm, _ in asked]
    return engine.transcribe(features, [request for _, request in asked], word_timestamps=False)


def texts(result: SegmentResult) -> list[str]:
    return [phrase.text.strip() for phrase in result.phrases]


def are_alike(words: Sequence[Word], others: Sequence[Word]) -> bool:
    """Say whether words are the same, their times to two frames: with the size of a batch the last digits differ."""
    return len(words) == len(others) and all(
        one.text == other.text
        and abs(one.start_ms - other.start_ms) <= 40
        and abs(one.end_ms - other.end_ms) <= 40
        for one, other in zip(words, others, strict=True)
    )


def direct(model: WhisperModel, pcm: NDArray[np.int16], **options: Any) -> list[tuple[str, float]]:
    """Return text and score of each phrase as faster-whisper itself gives them."""
    found, _ = model.transcribe(
        pcm.astype(np.float32) / 32768, condition_on_previous_text=False, language="en", **options
    )
    return [(phrase.text.strip(), phrase.avg_logprob) for phrase in found]


def test_prompts_of_any_length_share_a_lease_and_act_as_in_faster_whisper(model: WhisperModel) -> None:
    """Each segment has its own; CTranslate2 itself takes only equally long ones in one call."""
    pcm = english()
    wishes: list[dict[str, Any]] = [
        {},
        {"initial_prompt": PROMPT},
        {"hotwords": HOTWORDS},
        {"initial_prompt": PROMPT, "hotwords": HOTWORDS},
        {"initial_prompt": CHINESE},
    ]
    results = decoded(model, [(pcm, PromptRequest(language="en", **wish)) for wish in wishes])
    given = [[(phrase.text.strip(), phrase.avg_logprob) for phrase in result.phrases] for result in results]
    for result, expected in zip(given, (direct(model, pcm, **wish) for wish in wishes), strict=True):
        assert [text for text, _ in result] == [text for text, _ in expected]
        # The windows have less silence at their end.
        assert [score for _, score in result] == pytest.approx([score for _, score in expected], abs=0.1)
    assert len({str(one) for one in given}) > 2, "the prompts make a difference"


@pytest.mark.parametrize(
    ("language", "rules", "frames"),
    [
        ("en", {}, [1000]),
        (None, {}, [3000]),
        ("en", {"log_prob_threshold": 0.0, "no_speech_threshold": 1.0, "temperatures": (0.0,)}, [1000, 3000]),
    ],
)
def test_short_audio_is_padded_to_the_whole_window_only_where_it_matters(
    model: WhisperModel,
    monkeypatch: pytest.MonkeyPatch,
    language: str | None,
    rules: dict[str, Any],
    frames: list[int],
) -> None:
    """An unknown language is detected, and a result that looks wrong is decoded again, with silence up to 30 s."""
    sizes: list[int] = []
    encode = model.encode

    def encode_and_note(features: NDArray[np.float32]) -> Any:
        sizes.append(features.shape[-1])
        return encode(features)

    monkeypatch.setattr(model, "encode", encode_and_note)
    [result] = decoded(
        model,
        [(english()[: 2 * 16_000], PromptRequest(language=language, may_be_short=language is not None))],
        **rules,
    )
    assert sizes[: len(frames)] == frames
    assert "Good morning" in " ".join(texts(result))


def test_a_prompt_cannot_give_the_model_orders(model: WhisperModel) -> None:
    """Special tokens in its text are left out: one would end the lease of all that share it."""
    order = "<|startoftranscript|><|zh|><|translate|>"
    plain, ordered, only = decoded(
        model,
        [
            (english(), PromptRequest(language="en", initial_prompt=PROMPT)),
            (
                english(),
                PromptRequest(language="en", initial_prompt=f"{order} {PROMPT}", hotwords="<|endoftext|>"),
            ),
            (english(), PromptRequest(language="en", initial_prompt=order)),
        ],
    )
    assert texts(ordered) == texts(plain)
    assert only.phrases


def test_the_longest_prompt_is_shortened_as_faster_whisper_does(model: WhisperModel) -> None:
    [result] = decoded(
        model, [(english(), PromptRequest(language=None, initial_prompt="and the fish " * 400))]
    )
    assert result.language == "en"


def test_translation_is_english_and_shares_a_batch_with_transcription(model: WhisperModel) -> None:
    spoken, translated = decoded(
        model,
        [
            (chinese(), PromptRequest(language=None)),
            (chinese(), PromptRequest(language=None, task="translate")),
        ],
    )
    assert (spoken.language, translated.language) == ("zh", "zh")
    assert "公园广播" in "".join(texts(spoken))
    assert "park radio" in " ".join(texts(translated))


@pytest.mark.parametrize("batch_size", [1, 8])
def test_speech_in_two_languages_is_decoded_in_both(model: WhisperModel, batch_size: int) -> None:
    parts = [english(), chinese()]
    pause = np.zeros(media.RATE // 2, np.int16)
    second = len(parts[0]) + len(pause)
    sound = SegmentSound((Span(0, len(parts[0])), Span(second, second + len(parts[1]))))
    engine = Engine(model, beam_size=5, batch_size=batch_size)
    features = engine.features(np.concatenate([parts[0], pause, parts[1]]))
    [mixed] = engine.transcribe(
        [features], [PromptRequest(language="multi")], sounds=[sound], word_timestamps=False
    )
    languages = [phrase.language or mixed.language for phrase in mixed.phrases]
    assert languages == sorted(languages)
    assert set(languages) == {"en", "zh"}
    in_english, in_chinese = decoded(
        model, [(parts[0], PromptRequest(language="en")), (parts[1], PromptRequest(language="zh"))]
    )
    # The English window ends in the pause, a little later than its recording.
    assert texts(mixed)[0] == texts(in_english)[0]
    assert texts(mixed)[languages.index("zh") :] == texts(in_chinese)


class OneWordWhisper:
    """In the place of CTranslate2's Whisper model: each window contains one word, at its start; the later ones repeat it."""

    def __init__(self, model: WhisperModel, tokens: list[int], *, repeated: int = 1) -> None:
        self._whisper = model.model
        self._tokens = tokens
        self._repeated = repeated
        self.decoded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whisper, name)

    def generate(self, _encoded: Any, prompts: Any, **_options: Any) -> list[SimpleNamespace]:
        """Return the same result for each window; raises AssertionError after ten."""
        first, *word, last = self._tokens
        tokens = [first, *word * (self._repeated if self.decoded else 1), last]
        self.decoded += len(prompts)
        assert self.decoded <= 10, "nearly the same window is decoded again and again"
        return [SimpleNamespace(sequences_ids=[tokens], scores=[-0.1], no_speech_prob=0.0) for _ in prompts]


@pytest.mark.parametrize("repeated", [1, 30])
def test_speech_that_gets_no_other_text_is_reported_and_not_decoded_many_times(
    model: WhisperModel, monkeypatch: pytest.MonkeyPatch, repeated: int
) -> None:
    """Neither the same text again nor a loop is decoded once more with silence up to 30 s."""
    first = model.hf_tokenizer.token_to_id("<|notimestamps|>") + 1
    tokens = [first, *model.hf_tokenizer.encode(" Good", add_special_tokens=False).ids, first + 20]
    monkeypatch.setattr(model, "model", OneWordWhisper(model, tokens, repeated=repeated))
    sizes: list[int] = []
    encode = model.encode

    def encode_and_note(features: NDArray[np.float32]) -> Any:
        sizes.append(features.shape[-1])
        return encode(features)

    monkeypatch.setattr(model, "encode", encode_and_note)
    engine = Engine(model, beam_size=5, batch_size=8)
    features = engine.features(np.tile(english(), 2))
    [found] = engine.transcribe([features], [PromptRequest(language="en")], word_timestamps=False)
    assert texts(found)
    assert sizes[0] == 3000
    assert sizes[1:]
    assert max(sizes[1:]) < 3000, "a short rest is not padded to the whole window"
    assert sum(end_ms - start_ms for start_ms, end_ms in found.unheard) > 8_000


def test_a_loop_where_there_was_no_text_is_decoded_once_more_with_a_sample(
    model: WhisperModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model.hf_tokenizer.token_to_id("<|notimestamps|>") + 1
    good, morning = (
        model.hf_tokenizer.encode(text, add_special_tokens=False).ids for text in (" Good", " morning")
    )
    whisper = OneWordWhisper(model, [first, *good, first + 20], repeated=30)
    beam_search = whisper.generate

    def generate(encoded: Any, prompts: Any, **options: Any) -> list[SimpleNamespace]:
        if options["beam_size"] > 1:
            return beam_search(encoded, prompts, **options)
        assert options["num_hypotheses"] == 1
        tokens = [first, *morning, first + 500]
        return [SimpleNamespace(sequences_ids=[tokens], scores=[-0.1], no_speech_prob=0.0) for _ in prompts]

    monkeypatch.setattr(whisper, "generate", generate)
    monkeypatch.setattr(model, "model", whisper)
    engine = Engine(model, beam_size=5, batch_size=8)
    features = engine.features(np.tile(english(), 2))
    [found] = engine.transcribe([features], [PromptRequest(language="en")], word_timestamps=False)
    assert [text.strip() for text in texts(found)] == ["Good", "morning"]
    assert {(one.cause, one.temperature) for one in found.decisions} == {("compression_ratio", 0.2)}


def test_a_result_that_looks_wrong_is_decoded_again(model: WhisperModel) -> None:
    """Every text is less than certain: none looks right with that threshold. An equal second text ends the attempts."""
    sure, doubted = (
        decoded(model, [(english(), PromptRequest(language="en"))], **rules)[0]
        for rules in (
            {},
            {"log_prob_threshold": 0.0, "no_speech_threshold": 1.0, "temperatures": (0.0, 0.2, 0.4)},
        )
    )
    assert (sure.decisions, sure.fallbacks, sure.temperature) == ((), 0, 0.0)
    first, *others = doubted.decisions
    assert first == DecodingDecision(verdict=DecisionKind.FALLBACK, cause="log_prob", temperature=0.2)
    assert doubted.temperature == max(decision.temperature for decision in (first, *others))
    assert doubted.fallbacks >= 1
    assert doubted.phrases


def test_windows_that_look_wrong_are_decoded_again_together(model: WhisperModel) -> None:
    """One call of the model for all of them at each temperature; each segment keeps its own text, language and decisions."""
    calls: list[str] = []
    asked = [(english(), PromptRequest(language=None)), (chinese(), PromptRequest(language=None))] * 2
    first = decoded(model, asked, temperatures=(0.0,))
    with steps_reported_to(lambda: calls.append(sys._getframe(2).f_code.co_name)):
        found = decoded(
            model, asked, log_prob_threshold=0.0, no_speech_threshold=1.0, temperatures=(0.0, 0.01)
        )
    assert [result.language for result in found] == ["en", "zh", "en", "zh"]
    for one, result in zip(first, found, strict=True):
        assert texts(result)[0] == texts(one)[0]
        assert [decision.temperature for decision in result.decisions] == [0.01] * result.fallbacks
    assert all(result.fallbacks for result in found)
    assert 0 < calls.count("generate") < 2 * sum(result.windows for result in found)


def test_a_lease_can_be_stopped_after_each_window_that_a_cpu_encodes(model: WhisperModel) -> None:
    class StoppedError(Exception):
        pass

    def stop() -> None:
        raise StoppedError

    with steps_reported_to(stop), pytest.raises(StoppedError) as stopped:
        decoded(model, [(english(), PromptRequest(language="en"))] * 3)
    assert "encode" in [frame.name for frame in stopped.traceback]


def test_certain_segments_are_reported_while_others_are_decoded_again(model: WhisperModel) -> None:
    """Each segment is reported at most once, with its final result; the last ones are only returned."""
    reports: list[dict[int, SegmentResult]] = []
    engine = Engine(model, beam_size=5, batch_size=1)
    sounds = [english(), english()[:0], chinese()]
    results = engine.transcribe(
        [engine.features(pcm) for pcm in sounds],
        [PromptRequest(language=language) for language in ("en", "en", "zh")],
        word_timestamps=False,
        on_results=lambda found: reports.append(dict(found)),
    )
    reported = [at for report in reports for at in report]
    assert 1 <= len(reported) == len(set(reported)) < 3
    assert all(results[at] == result for report in reports for at, result in report.items())


def test_one_temperature_means_no_second_try(model: WhisperModel) -> None:
    [result] = decoded(
        model,
        [(english(), PromptRequest(language="en"))],
        log_prob_threshold=0.0,
        no_speech_threshold=1.0,
        temperatures=(0.0,),
    )
    assert (result.decisions, result.temperature) == ((), 0.0)


def test_damaged_recordings_are_doubted_by_the_default_measures(model: WhisperModel) -> None:
    """With one temperature they are taken as they come: the doubt is the model's own, not the fallback's."""
    asked = [(media.damaged(name), PromptRequest(language="en")) for name in ("slow", "skipping")]
    slow, looped = decoded(model, asked, temperatures=(0.0,), max_repeats=0)
    assert slow.fallbacks == looped.fallbacks == 0
    assert slow.phrases[0].avg_logprob < DecodingConfig().log_prob_threshold
    assert looped.phrases[-1].compression_ratio > DecodingConfig().compression_ratio_threshold


def test_word_times_change_neither_text_nor_the_edges_that_tokens_gave(model: WhisperModel) -> None:
    """Words are in order inside their phrases, in two languages of one batch; aligned alone or in a batch they are the same."""
    engine = Engine(model, beam_size=5, batch_size=8)
    features = [engine.features(pcm) for pcm in (english(), chinese(), english(48))]
    requests = [PromptRequest(language=None)] * len(features)
    plain = engine.transcribe(features, requests, word_timestamps=False)
    timed = engine.transcribe(features, requests, word_timestamps=True)
    assert [result.language for result in timed] == ["en", "zh", "en"]
    for one, other in zip(plain, timed, strict=True):
        *closed, last = [replace(phrase, words=()) for phrase in other.phrases]
        assert closed == list(one.phrases[:-1])
        # Cut off in a sentence, the model leaves its end open: without words it is that of the audio.
        assert last.end_ms == one.phrases[-1].end_ms or (last.end_ms < one.phrases[-1].end_ms == 6000)
        assert replace(last, end_ms=one.phrases[-1].end_ms) == one.phrases[-1]
        for phrase in other.phrases:
            assert spelling(phrase.words) == spelling([Word(phrase.text, 0, 0, 0.0)])
            times = [time for word in phrase.words for time in (word.start_ms, word.end_ms)]
            assert [phrase.start_ms, *times, phrase.end_ms] == sorted(
                [phrase.start_ms, *times, phrase.end_ms]
            )
    for at, array in enumerate(features):
        [alone] = engine.transcribe([array], requests[:1], word_timestamps=True)
        for one_phrase, phrase in zip(alone.phrases, timed[at].phrases, strict=True):
            assert are_alike(one_phrase.words, phrase.words)


def test_words_are_timed_where_a_phrase_is_more_than_one_cue(model: WhisperModel) -> None:
    """Left to itself the engine aligns those windows alone; what it finds there is what aligning all of them finds."""

    def limits(language: str | None) -> LayoutLimits:
        return (
            LayoutLimits(max_chars=40, max_lines=1)
            if language == "en"
            else LayoutLimits(max_chars=9, max_lines=1)
        )

    stretches = (english(), english(16), english(22), chinese())
    engine = Engine(model, beam_size=5, batch_size=8, limits=limits)
    features = [engine.features(pcm) for pcm in stretches]
    requests = [PromptRequest(language=None)] * len(features)
    whole = engine.transcribe(features, requests, word_timestamps=True)
    chosen = engine.transcribe(features, requests, word_timestamps="auto")
    timed: list[bool] = []
    for one, other in zip(whole, chosen, strict=True):
        assert texts(one) == texts(other)
        for phrase, found in zip(one.phrases, other.phrases, strict=True):
            length_ms = phrase.end_ms - phrase.start_ms
            is_long = not fits_one_cue(phrase.text, length_ms, limits(one.language), one.language)
            assert found.words or not is_long
            timed.append(bool(found.words))
            assert not found.words or are_alike(found.words, phrase.words)
    assert sorted(set(timed)) == [False, True]


def test_silence_is_dropped_and_reported(model: WhisperModel) -> None:
    """By the thresholds alone: with these everything counts as silence."""
    [result] = decoded(
        model, [(english(), PromptRequest(language="en"))], log_prob_threshold=0.0, no_speech_threshold=0.0
    )
    assert not result.is_speech
    assert result.phrases == ()
    assert result.decisions == (
        DecodingDecision(verdict=DecisionKind.SILENCE, cause="no_speech_prob", temperature=0.0),
    )


def test_a_loop_is_cut_and_reported(model: WhisperModel) -> None:
    """The same word over and over is what the model decodes here, and rightly: with stricter limits the engine cuts it."""
    word = media.recording()[int(0.4 * media.RATE) : int(3.2 * media.RATE)]
    pcm = np.concatenate([word] * 2)
    rules = {"compression_ratio_threshold": 1.0, "temperatures": (0.0,)}
    [kept] = decoded(model, [(pcm, PromptRequest(language="en"))], **rules, max_repeats=0)
    [cut] = decoded(model, [(pcm, PromptRequest(language="en"))], **rules, max_repeats=2)
    assert texts(kept) == texts(cut) * 2
    assert [decision.verdict for decision in cut.decisions] == [DecisionKind.LOOP]
    assert kept.decisions == ()


def test_chinese_without_a_prompt_gets_the_configured_one(model: WhisperModel) -> None:
    """The language is detected in the batch, which then has prompts of two lengths."""
    wanted = [(chinese(), PromptRequest(language=None)), (english(), PromptRequest(language=None))]
    given = [(chinese(), PromptRequest(language=None, initial_prompt=CHINESE)), wanted[1]]
    ours = decoded(model, wanted, chinese_prompt=CHINESE)
    assert [result.language for result in ours] == ["zh", "en"]
    assert [result.phrases for result in ours] == [result.phrases for result in decoded(model, given)]
    assert ours[0].phrases != decoded(model, wanted, chinese_prompt="")[0].phrases
