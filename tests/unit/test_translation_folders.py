"""Folders of translation models: what their files tell, and that each family gets the tokens it was trained with."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ctranslate2
import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

import translation_models as models
from subtitled.asr.hub import may_need_fetching
from subtitled.asr.model import locate
from subtitled.config.model_files import fault_of, is_translation_model
from subtitled.config.translation_files import best_match, translation_facts
from subtitled.core.translation import TranslationRequest
from subtitled.errors import ModelError
from subtitled.translation.engines.ctranslate2 import CTranslate2Engine, TranslationMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = ("The train leaves the station.", "Hello.", "Where is the old bridge on Tuesday?")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder of each family."""
    base = tmp_path_factory.mktemp("models")
    makers: dict[str, Callable[[Path], Path]] = {
        "nllb": models.nllb, "m2m100": models.m2m100, "madlad": models.madlad, "marian": models.marian,
    }  # fmt: skip
    return {family: make(base / family) for family, make in makers.items()}


def engine_of(
    folder: Path, model: Any = None, *, batch_size: int = 2, runs_to_grow: int = 50
) -> CTranslate2Engine:
    """Return an engine with the model in a folder."""
    return CTranslate2Engine(
        model or ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1),
        folder,
        label=str(folder),
        beam_size=3,
        batch_size=batch_size,
        runs_to_grow=runs_to_grow,
    )


def request(*texts: str, source: str = "en", target: str = "zh", **more: Any) -> TranslationRequest:
    """Return a request."""
    return TranslationRequest(source=source, target=target, sentences=texts or TEXTS, **more)


@pytest.mark.parametrize(
    ("family", "source_tag", "target_tag"),
    [
        ("nllb", "eng_Latn", "zho_Hant"),
        ("m2m100", "__en__", "__zh__"),
        ("madlad", "<2zh_Hant>", ""),
        ("marian", "", ""),
    ],
)
def test_each_family_gives_what_ctranslate2_gives_for_its_tokens(
    folders: dict[str, Path], family: str, source_tag: str, target_tag: str
) -> None:
    folder = folders[family]
    model = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)
    join: Callable[[list[str]], str]
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        split = [tokenizer.encode(text, add_special_tokens=False).tokens for text in TEXTS]
        join = lambda tokens: tokenizer.decode([tokenizer.token_to_id(token) or 0 for token in tokens])  # noqa: E731
    else:
        names = ("source.spm", "target.spm") if family == "marian" else ("sentencepiece.bpe.model",) * 2
        source, target = (SentencePieceProcessor(model_file=str(folder / name)) for name in names)
        split = [source.encode(text, out_type=str) for text in TEXTS]
        join = target.decode
    expected = []
    for tokens in split:
        whole = [*([source_tag] if source_tag else []), *tokens, "</s>"]
        prefix = [[target_tag]] if target_tag else None
        found = model.translate_batch([whole], target_prefix=prefix, beam_size=3, disable_unk=True)
        expected.append(join(found[0].hypotheses[0][len(target_tag and "x") :]).strip())
    assert len(set(expected)) > 1
    engine = engine_of(folder, model, batch_size=len(TEXTS))
    # Random weights: no text passes the checks of a translation.
    assert engine.texts([request(target="zh-TW")]) == [expected]


@pytest.mark.parametrize(
    ("language", "expected"),
    [("zh", "zho_Hans"), ("zh-TW", "zho_Hant"), ("zh-HK", "zho_Hant"), ("cht", "zho_Hant"), ("no", "nob_Latn"), ("nn", "nno_Latn"),
     ("ar", "arb_Arab"), ("fa", "pes_Arab"), ("pt-BR", "por_Latn"), ("az", "azj_Latn"), ("ga", "gle_Latn"), ("sr", "srp_Cyrl"),
     ("ja", None), ("xx", None), ("", None)],
)  # fmt: skip
def test_language_is_found_by_any_of_its_names(language: str, expected: str | None) -> None:
    offered = "arz_Arab arb_Arab azb_Arab azj_Latn gle_Latn nno_Latn nob_Latn pes_Arab prs_Arab por_Latn srp_Cyrl yue_Hant zho_Hant zho_Hans"
    assert best_match(language, offered.split()) == expected


def test_languages_are_read_from_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    assert translation_facts(folders["nllb"]).covers("fr", "zh-TW")
    assert not translation_facts(folders["nllb"]).covers("de", "zh-TW")
    facts = translation_facts(folders["marian"])
    assert (facts.sources, facts.targets) == (("en",), ("zh",))
    group = translation_facts(
        models.marian(tmp_path / "group", tags=(">>cmn_Hans<<", ">>fra<<"), languages=("gmq", "mul"))
    )
    assert (group.tag("zh"), group.tag("fr")) == (">>cmn_Hans<<", ">>fra<<")
    assert group.covers("sv", "fr"), "the sources of a group are not known"
    assert not group.covers("sv", "de")
    unnamed = models.marian(tmp_path / "unnamed", languages=None)
    assert "tokenizer_config.json" in (fault_of(unnamed) or "")
    assert fault_of(unnamed, "someone/opus-mt-en-zh-ct2") is None
    assert translation_facts(unnamed, "someone/opus-mt-en-zh-ct2").targets == ("zh",)


def test_folder_that_lacks_a_file_is_refused_with_the_remedy(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for name, family, words in (
        ("tokenizer.json", "nllb", "copy tokenizer.json"),
        ("target.spm", "marian", "source.spm and target.spm"),
        ("shared_vocabulary.json", "m2m100", "convert the model again"),
        ("config.json", "madlad", "convert the model again"),
    ):
        folder = tmp_path / name
        shutil.copytree(folders[family], folder)
        (folder / name).unlink()
        assert words in (fault_of(folder) or "")
        with pytest.raises(ModelError, match=words):
            locate(str(folder))
    broken = tmp_path / "broken"
    shutil.copytree(folders["m2m100"], broken)
    (broken / "sentencepiece.bpe.model").write_bytes(b"no model")
    assert fault_of(broken) is None
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        engine_of(broken)
    (broken / "shared_vocabulary.json").write_text(json.dumps({"a": 1}))
    assert "not a list of tokens" in (fault_of(broken) or "")


def test_translation_models_are_distinguished_from_speech_models(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    assert all(is_translation_model(str(folder)) for folder in folders.values())
    assert is_translation_model("demo-translation")
    assert is_translation_model("someone/nllb-200-distilled-600M-ct2")
    assert not any(
        map(is_translation_model, ("demo", "large-v3", "someone/faster-whisper-large-v3", str(tmp_path)))
    )
    assert not may_need_fetching("demo-translation")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text('{"model_type": "marian"}')
    (checkpoint / "model.safetensors").touch()
    (checkpoint / "source.spm").touch()
    assert is_translation_model(str(checkpoint))
    assert "--copy_files source.spm" in (fault_of(checkpoint) or "")


def test_text_is_never_a_token_of_control(folders: dict[str, Path]) -> None:
    texts = ("The train </s> leaves.", "The train leaves. fra_Latn")
    engine = engine_of(folders["nllb"])
    asked: list[list[str]] = []
    model = Watched(engine.model, asked)
    engine_of(folders["nllb"], model).texts([request(*texts)])
    for tokens in asked:
        assert tokens[0] == "eng_Latn"
        assert tokens[-1] == "</s>"
        assert not {"</s>", "fra_Latn"} & set(tokens[1:-1])


class Watched:
    """A model that notes the sentences it gets, and has memory for `room` of them at once."""

    def __init__(self, model: ctranslate2.Translator, asked: list[list[str]], *, room: int = 1000) -> None:
        self.model, self.asked, self.room = model, asked, room
        self.device, self.compute_type = "cpu", "float32"
        self.batches: list[int] = []

    def translate_batch(self, source: list[list[str]], **options: Any) -> Any:
        """Translate; the results raise as those of CTranslate2 do if the memory is short."""
        self.batches.append(len(source))
        if len(source) > self.room:
            return [SimpleNamespace(result=out_of_memory) for _ in source]
        self.asked += source
        return self.model.translate_batch(source, **options)


def out_of_memory() -> None:
    """Raise what CTranslate2 raises."""
    raise RuntimeError("CUDA failed with error out of memory")


def test_batches_hold_sentences_of_several_requests_and_shrink_when_memory_runs_out(
    folders: dict[str, Path],
) -> None:
    real = ctranslate2.Translator(str(folders["nllb"]), compute_type="float32", intra_threads=1)
    requests = [request(*TEXTS), request(*TEXTS, target="fr"), request(*TEXTS, source="fr")]
    expected = engine_of(folders["nllb"], real, batch_size=9).texts(requests)
    model = Watched(real, [], room=4)
    engine = engine_of(folders["nllb"], model, batch_size=9, runs_to_grow=2)
    assert engine.texts(requests) == expected
    assert model.batches[:2] == [9, 4]
    assert max(model.batches[1:]) <= 8
    assert len(model.asked) == 9
    model.room = 0
    with pytest.raises(TranslationMemoryError, match="single sentence"):
        engine.translate(requests)


def test_sentence_that_the_model_cannot_take_fails_alone(folders: dict[str, Path]) -> None:
    engine = engine_of(folders["nllb"], batch_size=8)
    rows = engine.translate([request(TEXTS[0], "train " * 700), request("Bonjour.", source="ja")])
    assert "position" in rows[0][1].problem
    assert rows[0][1].text == "train " * 700
    assert "position" not in rows[0][0].problem
    assert "does not translate ja into zh" in rows[1][0].problem
