"""Tiny translation models with random weights, in the folder layouts of NLLB-200, M2M-100, MADLAD-400 and OPUS-MT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import TransformerSpec
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import media

WIDTH, FEED_FORWARD, POSITIONS = 16, 32, 600
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
CORPUS = [sentence.text for name in ("demo", "demo-zh") for sentence in media.true_text(name)]


def nllb(folder: Path) -> Path:
    """Write a model with the tags of NLLB-200 and a `tokenizer.json`."""
    tags = ("eng_Latn", "zho_Hans", "zho_Hant", "fra_Latn")
    return _with_json(folder, models.BPE(unk_token=SPECIAL[3]), tags)


def madlad(folder: Path) -> Path:
    """Write a model with the tags of MADLAD-400 and a `tokenizer.json`."""
    return _with_json(folder, models.BPE(unk_token=SPECIAL[3]), ("<2en>", "<2zh>", "<2zh_Hant>", "<2fr>"))


def m2m100(folder: Path) -> Path:
    """Write a model with the tags of M2M-100 and one SentencePiece model for both sides."""
    folder.mkdir(parents=True)
    pieces = _pieces(folder / "sentencepiece.bpe.model", "bpe")
    _write(folder, [*SPECIAL, *pieces, "__en__", "__zh__", "__fr__"])
    return folder


def marian(
    folder: Path, *, tags: tuple[str, ...] = (), languages: tuple[str, str] | None = ("en", "zh")
) -> Path:
    """Write a model as of OPUS-MT, with a SentencePiece model for each side; `tags`: of its targets, if it has several."""
    folder.mkdir(parents=True)
    both = dict.fromkeys(
        piece for name in ("source.spm", "target.spm") for piece in _pieces(folder / name, "unigram")
    )
    if languages is not None:
        config = {"source_lang": languages[0], "target_lang": languages[1]}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    _write(folder, ["</s>", "<unk>", *both, *tags], start="</s>")
    return folder


def _with_json(folder: Path, model: models.Model, tags: tuple[str, ...]) -> Path:
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(tag, special=True, normalized=False) for tag in tags])
    tokenizer.save(str(folder / "tokenizer.json"))
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    _write(folder, [by_id[number] for number in range(len(by_id))])
    return folder


def _pieces(file: Path, kind: str) -> list[str]:
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_prefix=str(file.with_suffix("")),
        vocab_size=200,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    file.with_suffix(".model").rename(file)
    file.with_suffix(".vocab").unlink(missing_ok=True)
    processor = SentencePieceProcessor(model_file=str(file))
    return [processor.id_to_piece(number) for number in range(3, processor.get_piece_size())]


def _write(folder: Path, vocabulary: list[str], *, start: str = "</s>") -> None:
    """Write `model.bin`, `config.json` and `shared_vocabulary.json`."""
    random = np.random.default_rng(len(vocabulary))

    def weights(*shape: int) -> Any:
        return random.normal(0, 0.3, shape).astype(np.float32)

    def linear(layer: Any, rows: int, columns: int) -> None:
        layer.weight, layer.bias = weights(rows, columns), weights(rows)

    def norm(layer: Any) -> None:
        layer.gamma, layer.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    def attention(layer: Any, *rows: int) -> None:
        norm(layer.layer_norm)
        for part, count in zip(layer.linear, rows, strict=True):
            linear(part, count * WIDTH, WIDTH)

    spec = TransformerSpec.from_config((1, 1), 2)
    for side in (spec.encoder, spec.decoder):
        norm(side.layer_norm)
        side.position_encodings.encodings = weights(POSITIONS, WIDTH)
        for layer in side.layer:
            attention(layer.self_attention, 3, 1)
            if side is spec.decoder:
                attention(layer.attention, 1, 2, 1)
            norm(layer.ffn.layer_norm)
            linear(layer.ffn.linear_0, FEED_FORWARD, WIDTH)
            linear(layer.ffn.linear_1, WIDTH, FEED_FORWARD)
    spec.encoder.embeddings[0].weight = weights(len(vocabulary), WIDTH)
    spec.decoder.embeddings.weight = weights(len(vocabulary), WIDTH)
    linear(spec.decoder.projection, len(vocabulary), WIDTH)
    spec.decoder.projection.bias[vocabulary.index("</s>")] = 3.0  # most texts end soon
    spec.register_source_vocabulary(vocabulary)
    spec.register_target_vocabulary(vocabulary)
    spec.config.decoder_start_token = start
    spec.config.eos_token = "</s>"  # noqa: S105 - a token of text
    spec.config.unk_token = "<unk>"  # noqa: S105 - likewise
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
