"""Whisper models of any shape with random weights, straight from CTranslate2's spec: no download, no torch.

The text means nothing; the arithmetic is the real one. Decoding takes the same number of tokens for every window, with
confidence: position p of the decoder is so strongly the embedding of one token that this token is what comes next, and after
so many the next is the end. So there is no repetition, no low probability, and nothing is decoded twice.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WORDS = 50_256
PROMPT = 3
"""Tokens before the first decoded one: start, language, task."""
POSITIONS = 448
CERTAINTY = 25.0
"""Logit of the next token; those of the others are around 0."""
LOUDNESS = 2000.0
"""Length of a position's embedding: more than all layers add."""


class Shape(Struct, frozen=True):
    """The size of a model."""

    encoder_layers: int
    decoder_layers: int
    width: int
    heads: int
    mels: int


SHAPES = {
    "large-v3-turbo": Shape(32, 4, 1280, 20, 128),
    "large-v3": Shape(32, 32, 1280, 20, 128),
    "random-tiny": Shape(2, 2, 128, 2, 80),
}


def write_model(folder: Path, shape: Shape, *, tokens: int, seed: int = 0) -> None:
    """Write a folder that faster-whisper loads: float16, 100 languages, `tokens` decoded for each window."""
    from ctranslate2.specs import WhisperSpec

    random = np.random.default_rng(seed)
    vocabulary = _vocabulary()
    spec = WhisperSpec(shape.encoder_layers, shape.heads, shape.decoder_layers, shape.heads)
    _fill(spec, shape, random)
    _steer(spec.decoder, shape, vocabulary, tokens, random)
    spec.register_vocabulary(vocabulary)
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], []
    spec.config.alignment_heads = [[shape.decoder_layers - 1, 0]]
    first = vocabulary.index("<|startoftranscript|>") + 1
    spec.config.lang_ids = list(range(first, first + 100))
    spec.validate()
    spec.optimize(quantization="float16")
    folder.mkdir()
    spec.save(str(folder))
    _write_tokenizer(folder, vocabulary)
    preprocessor = {"feature_size": shape.mels, "chunk_length": 30, "n_fft": 400, "hop_length": 160}
    (folder / "preprocessor_config.json").write_text(json.dumps({**preprocessor, "sampling_rate": 16_000}))


def _vocabulary() -> list[str]:
    """Return tokens in the order of Whisper's large-v3: words, then what is special."""
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    special = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    marks = ["endoftext", "startoftranscript", *_LANGUAGE_CODES, *special]
    times = (f"{place * 0.02:.2f}" for place in range(1501))
    # By the empty token CTranslate2 knows that a model is multilingual.
    return [*(f"w{place}" for place in range(WORDS)), "", *(f"<|{name}|>" for name in (*marks, *times))]


def _fill(spec: Any, shape: Shape, random: np.random.Generator) -> None:
    """Give every layer its random weights."""
    width = shape.width

    def weight(*sizes: int) -> NDArray[np.float16]:
        values = random.standard_normal(sizes, dtype=np.float32)
        values *= 0.02
        return values.astype(np.float16)

    def linear(layer: Any, rows: int, columns: int) -> None:
        layer.weight, layer.bias = weight(rows, columns), np.zeros(rows, np.float16)

    def norm(layer: Any) -> None:
        layer.gamma, layer.beta = np.ones(width, np.float16), np.zeros(width, np.float16)

    def attention(layer: Any, *sizes: int) -> None:
        norm(layer.layer_norm)
        for part, rows in zip(layer.linear, sizes, strict=True):
            linear(part, rows, width)

    def feed_forward(layer: Any) -> None:
        norm(layer.layer_norm)
        linear(layer.linear_0, 4 * width, width)
        linear(layer.linear_1, width, 4 * width)

    encoder, decoder = spec.encoder, spec.decoder
    for convolution, channels in ((encoder.conv1, shape.mels), (encoder.conv2, width)):
        convolution.weight, convolution.bias = weight(width, channels, 3), np.zeros(width, np.float16)
    encoder.position_encodings.encodings = weight(1500, width)
    norm(encoder.layer_norm)
    for layer in encoder.layer:
        attention(layer.self_attention, 3 * width, width)
        feed_forward(layer.ffn)
    decoder.scale_embeddings = False
    norm(decoder.layer_norm)
    for layer in decoder.layer:
        attention(layer.self_attention, 3 * width, width)
        attention(layer.attention, width, 2 * width, width)
        feed_forward(layer.ffn)


def _steer(
    decoder: Any, shape: Shape, vocabulary: list[str], tokens: int, random: np.random.Generator
) -> None:
    """Have each position say which token comes next."""
    embeddings = random.standard_normal((len(vocabulary), shape.width), dtype=np.float32)
    embeddings *= CERTAINTY / shape.width
    following = random.permutation(WORDS)[:POSITIONS]
    following[PROMPT + tokens - 1 :] = vocabulary.index("<|endoftext|>")
    said = embeddings[following]
    positions = LOUDNESS * said / np.linalg.norm(said, axis=1, keepdims=True)
    decoder.embeddings.weight = embeddings.astype(np.float16)
    decoder.projection.weight = decoder.embeddings.weight
    decoder.position_encodings.encodings = positions.astype(np.float16)


def _write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel({token: place for place, token in enumerate(vocabulary)}, unk_token="w0"))  # noqa: S106
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in vocabulary[WORDS + 1 : WORDS + 109]]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
