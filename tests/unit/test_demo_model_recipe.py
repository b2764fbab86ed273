"""The recipe of the demo model: what it says, what it hears, what it asks for; and that the bundled model is its own."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

import media
from demo_model import bitext, features, grammar, programme, targets, translation, vocabulary
from demo_model.__main__ import SEED
from demo_model.targets import NOWHERE, Sentence
from demo_model.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

MODEL = media.DEMO / "model"
SLOT = re.compile(r"\{(\w+?)\d*\}")


@pytest.fixture(scope="module")
def tokens() -> Vocabulary:
    return Vocabulary.load(MODEL / "tokenizer.json")


def pattern(rule: str) -> str:
    """Return a regular expression of all that a rule of the English grammar can say."""
    options = (
        "".join(pattern(part) if at % 2 else re.escape(part) for at, part in enumerate(SLOT.split(option)))
        for option in grammar.ENGLISH[rule]
    )
    return "(?:" + "|".join(options) + ")"


def meanings(text: str) -> set[str]:
    """Return what the Chinese grammar can mean by a sentence."""
    found = set()
    for chinese, english in grammar.CHINESE["sentence"]:
        slots = SLOT.findall(chinese)
        options = ("|".join(here for here, _ in grammar.CHINESE[slot]) for slot in slots)
        said = re.fullmatch(re.sub(r"\{\w+\}", "({})", chinese).format(*options), text.rstrip("。"))
        if said is None:
            continue
        meant = english
        for slot, here in zip(slots, said.groups(), strict=True):
            meant = re.sub(r"\{" + slot + r"\d*\}", dict(grammar.CHINESE[slot])[here], meant, count=1)
        found.add(f"{meant[0].upper()}{meant[1:]}.")
    return found


def test_features_are_those_of_faster_whisper_over_digital_silence() -> None:
    """A sound twice in a window, composed frame by frame, and the whole of it through faster-whisper."""
    sound = np.asarray(media.speech(3.0) / 32768, np.float32)
    window = np.zeros(30 * media.RATE, np.float32)
    frames = np.full((3000, features.MELS), features.FLOOR, np.float32)
    said = features.log_power(sound)
    for at in (100, 1000):
        window[at * 160 : at * 160 + len(sound)] += sound
        place = slice(at - features.LEAD, at - features.LEAD + len(said))
        frames[place] = np.maximum(frames[place], said)
    theirs = FeatureExtractor(feature_size=features.MELS)(window)[:, :3000].T
    assert np.abs(features.normalised(frames) - theirs).max() < 1e-4


def test_a_sound_and_its_half_are_added_as_power() -> None:
    frames = np.zeros((1, features.MELS), np.float32)
    assert np.allclose(features.added(frames, frames), np.log10(2), atol=1e-5)


def test_one_text_in_ten_is_held_out_and_none_of_them_is_drawn_for_training() -> None:
    r = random.Random(1)
    drawn = [grammar.english_words(r).text for _ in range(4000)]
    assert 0.08 < np.mean([grammar.held_out(text) for text in drawn]) < 0.125
    for language in grammar.LANGUAGES:
        for test in (False, True):
            texts = [grammar.draw(r, language, test=test) for _ in range(200)]
            assert {grammar.held_out(text.text) for text in texts} == {test}
            assert {text.language for text in texts} == {language}


def test_the_same_seed_draws_the_same_texts() -> None:
    first, second = ([grammar.draw(random.Random(7), "zh", test=False) for _ in range(3)] for _ in range(2))
    assert first == second


def test_chinese_sentences_mean_what_their_translation_says() -> None:
    """Each slot has the same pick on both sides."""
    r = random.Random(3)
    places = dict(grammar.CHINESE["place"])
    seen = 0
    for _ in range(500):
        text = grammar.chinese_sentence(r)
        assert text.translation is not None
        assert "{" not in text.text + text.translation
        for chinese, english in places.items():
            if chinese in text.text:
                seen += 1
                assert english in text.translation
    assert seen > 100


def test_what_the_recordings_say_is_of_the_grammar_and_never_trained_on() -> None:
    sentence = re.compile(pattern("sentence"), re.IGNORECASE)
    for line in programme.ENGLISH:
        assert sentence.fullmatch(line.text.rstrip(".")), line.text
    assert all(line.translation in meanings(line.text) for line in programme.CHINESE)
    assert all(grammar.held_out(text) for text in programme.TEXTS - grammar.FIXED)
    assert len(programme.TEXTS & grammar.FIXED) <= 6, "greetings"
    assert not any(grammar.held_out(text) for text in grammar.FIXED), "their meaning could not be guessed"


@pytest.mark.parametrize("name", ["demo", "demo-zh"])
def test_the_text_beside_a_recording_is_what_its_programme_says(name: str) -> None:
    lines = programme.ENGLISH if name == "demo" else programme.CHINESE
    rows = [row.split("\t") for row in (media.DEMO / f"{name}.txt").read_text("utf-8").splitlines()]
    assert [row[2:] for row in rows] == [
        [line.text] + ([line.translation] if line.translation else []) for line in lines
    ]
    ends = 0.0
    for (start, end, *_), line in zip(rows, lines, strict=True):
        assert float(start) == pytest.approx(ends + line.pause_s, abs=0.02)
        assert float(end) > float(start)
        ends = float(end)
    assert ends <= len(media.recording(f"{name}.flac")) / media.RATE


def test_the_recipe_makes_the_tokenizer_that_is_bundled(tmp_path: Path) -> None:
    vocabulary.build(tmp_path / "tokenizer.json", SEED)
    made, bundled = (
        json.loads((folder / "tokenizer.json").read_bytes())["model"] for folder in (tmp_path, MODEL)
    )
    assert (made["vocab"], made["merges"]) == (bundled["vocab"], bundled["merges"])


def test_every_word_and_every_character_is_one_token(tokens: Vocabulary) -> None:
    for word in grammar.WORDS:
        assert len(tokens.encoded(" " + word).ids) == 1, word
    for character in grammar.chinese_alphabet():
        assert len(tokens.encoded(character).ids) == 1, character


def test_the_bundled_model_sees_thirty_seconds_and_is_small() -> None:
    assert json.loads((MODEL / "preprocessor_config.json").read_bytes())["chunk_length"] == 30
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 6_000_000


def test_a_window_is_written_in_one_pass_and_a_sentence_cut_off_is_left_to_the_next(
    tokens: Vocabulary,
) -> None:
    one, two = (tokens.encoded(text).ids for text in (" Hello.", " Thank you."))
    sentences = [
        Sentence(0.5, 1.1, [(one[0], 0.5, 1.1), (one[1], 1.08, 1.2)], None, cut=False),
        Sentence(28.0, 30.0, [(two[0], 28.0, 28.5)], None, cut=True),
    ]
    prompt = tokens.encoded(" Good morning.").ids
    stamped, plain = (
        targets.speech(
            tokens,
            "en",
            sentences,
            prompt,
            translate=False,
            timestamps=timestamps,
            offset_s=0.0,
            early=None,
        )
        for timestamps in (True, False)
    )
    head = [tokens.previous, *prompt, tokens.sot, tokens.language["en"], tokens.transcribe]
    at = tokens.timestamp
    assert stamped.tokens == [*head, at(0.5), *one, at(1.1), at(28.0)]
    assert plain.tokens == [*head, tokens.no_timestamps, *one, two[0]]
    for target in (stamped, plain):
        assert len(target.tokens) == len(target.labels) == len(target.where)
        assert target.labels[-1] == tokens.eot
        learnt = [label for label in target.labels if label != targets.IGNORED]
        assert learnt[0] == tokens.language["en"], "a prompt is read, not learnt"
    # The full stop is heard in the pause, so that the next word begins where it is spoken.
    assert stamped.where[stamped.labels.index(one[1])] == (54, 1400)


def test_silence_is_written_as_nothing_and_named_where_the_language_would_be(tokens: Vocabulary) -> None:
    for timestamps in (True, False):
        target = targets.silence(tokens, "zh", [], translate=False, timestamps=timestamps)
        assert target.labels[0] == tokens.no_speech
        assert target.labels[-1] == tokens.eot
        assert set(target.where) == {NOWHERE}
        assert target.tokens[-1] == (tokens.first_timestamp if timestamps else tokens.empty)


def test_english_grammar_has_a_counterpart_for_each_rule() -> None:
    assert set(bitext.SENTENCES) == set(grammar.ENGLISH["sentence"])
    assert {rule: len(texts) for rule, texts in bitext.COUNTERPARTS.items()} == {
        rule: len(texts) for rule, texts in grammar.ENGLISH.items() if rule != "sentence"
    }


def test_no_sentence_has_two_translations() -> None:
    r = random.Random(1)
    by_side: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for number in range(20_000):
        pair = (bitext.english_pair, bitext.chinese_pair)[number % 2](r)
        assert not {"{", "}", "|"} & set("".join(pair))
        for side in (0, 1):
            assert by_side[side].setdefault(pair[side], pair[1 - side]) == pair[1 - side]
    for line in (*programme.ENGLISH, *programme.CHINESE):
        assert bitext.is_held_out((line.text, line.translation)) or line.text in grammar.FIXED


def test_bundled_translation_model_translates_the_demonstration_and_held_out_sentences() -> None:
    model = translation.Translator(media.DEMO / "translation")
    for side in (0, 1):
        source, target = translation.TAGS[side], translation.TAGS[1 - side]
        spoken = [pair for pair, spoken_side in translation.demo_pairs() if spoken_side == side]
        found = model.translate([pair[side] for pair in spoken], source, target)
        assert found == [pair[1 - side] for pair in spoken]
        r = random.Random(side)
        pairs = [bitext.draw(r, test=True) for _ in range(200)]
        found = model.translate([pair[side] for pair in pairs], source, target)
        assert sum(text == pair[1 - side] for text, pair in zip(found, pairs, strict=True)) >= 0.99 * len(
            pairs
        )
    files = list((media.DEMO / "translation").iterdir())
    assert sum(file.stat().st_size for file in files) <= 3_000_000
