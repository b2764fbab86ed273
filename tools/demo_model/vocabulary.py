"""Texts to tokens: byte-level BPE learnt from the grammar, Whisper's special tokens, and 1,501 timestamps."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo_model import grammar

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TIMESTAMPS = 1501
"""0.00 to 30.00 s in steps of 20 ms."""
LONGEST = 448
"""Tokens that a decoder reads at most, a prompt's among them."""
_MERGES = 900
_SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{language}|>" for language in grammar.LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
# Each must be one token, or begin with one that is not the bare space: faster-whisper suppresses the first token of
# " -", " '" and " ♪", and the space alone would be among them.
_WHOLE = (" -", " '", " ♪", ".", "?", "。", "？", ",")


def _counted(seed: int) -> Counter[str]:
    """Return how often BPE is to see each word."""
    r = random.Random(seed)
    count: Counter[str] = Counter()
    for i in range(30_000):
        text = (grammar.english_words if i % 3 == 0 else grammar.english_sentence)(r).text
        count.update(" " + word for word in text.rstrip(".?").split())
    for word in list(count):
        count[word] = min(count[word], 400)
    count.update(dict.fromkeys(grammar.CHINESE_WORDS, 40))
    count.update(dict.fromkeys(grammar.chinese_alphabet(), 3000))  # every character becomes one token
    count.update(dict.fromkeys(_WHOLE, 3000))
    return count


def build(path: Path, seed: int) -> None:
    """Learn the tokenizer and write it as a ``tokenizer.json``.

    Its last ordinary token is the empty string: CTranslate2 takes a Whisper vocabulary that has it for a multilingual
    one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + _MERGES, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words = (word for word, n in sorted(_counted(seed).items()) for _ in range(n))
    tokenizer.train_from_iterator(words, trainer)
    description = json.loads(tokenizer.to_str())
    pieces = description["model"]["vocab"]
    pieces[""] = len(pieces)
    tokenizer = Tokenizer.from_str(json.dumps(description))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.save(str(path))


class Vocabulary:
    """The tokenizer and the ids of its special tokens, by Whisper's names for them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

        def of(token: str) -> int:
            found = tokenizer.token_to_id(token)
            if found is None:
                raise ValueError(
                    f"the tokenizer has no token {token}; it was not made by demo_model.vocabulary"
                )
            return int(found)

        self.eot, self.sot = of("<|endoftext|>"), of("<|startoftranscript|>")
        self.language = {language: of(f"<|{language}|>") for language in grammar.LANGUAGES}
        self.translate, self.transcribe = of("<|translate|>"), of("<|transcribe|>")
        self.previous, self.no_speech = of("<|startofprev|>"), of("<|nospeech|>")
        self.no_timestamps = of("<|notimestamps|>")
        self.empty = of("")
        self.first_timestamp = self.no_timestamps + 1
        self.size = self.first_timestamp + TIMESTAMPS

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a ``tokenizer.json``."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_file(str(path)))

    def timestamp(self, seconds: float) -> int:
        """Return the token of a moment of a window, to the next 20 ms."""
        return self.first_timestamp + min(TIMESTAMPS - 1, max(0, round(seconds * 50)))

    def encoded(self, text: str) -> Any:
        """Return the tokens of a text (``ids``) and where in it each is (``offsets``)."""
        return self.tokenizer.encode(text, add_special_tokens=False)
