"""The prompt of a window: language, task, and the text before."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

_SPECIAL = re.compile(r"<\|[^|]*\|>")
"""Whisper's special tokens in text; in a prompt they would act as commands."""


MIXED = "multi"


class PromptRequest(Struct, frozen=True, kw_only=True):
    """How one segment is to be decoded."""

    language: str | None
    """None: detect it; MIXED: detect it for each part of the segment."""
    may_be_short: bool = False
    """Short audio may be padded with less silence than Whisper does; texts and times differ slightly."""
    task: str = "transcribe"
    initial_prompt: str = ""
    """Text that counts as spoken before the segment."""
    hotwords: str = ""
    """Words to be expected."""


class PromptBuilder:
    """The tokenizers and prompts of one model."""

    def __init__(self, model: WhisperModel, chinese_prompt: str = "") -> None:
        """`chinese_prompt`: initial prompt of Chinese speech in requests without one."""
        self._model = model
        self._chinese_prompt = chinese_prompt
        self._tokenizers: dict[tuple[str, str], Tokenizer] = {}

    def tokenizer(self, request: PromptRequest, language: str | None) -> Tokenizer:
        """Return the tokenizer of a request; that of English, which differs in one token, while the language is unknown."""
        from faster_whisper.tokenizer import Tokenizer

        key = (language or "en", request.task)
        if key not in self._tokenizers:
            self._tokenizers[key] = Tokenizer(
                self._model.hf_tokenizer,
                self._model.model.is_multilingual,
                task=request.task,
                language=key[0],
            )
        return self._tokenizers[key]

    def prompt(self, request: PromptRequest, language: str | None, *, is_first: bool) -> list[int]:
        """Return the tokens that a window begins with.

        As in `WhisperModel.transcribe` hotwords go before every window, the initial prompt before the first.
        """
        tokenizer = self.tokenizer(request, language)
        initial_prompt = request.initial_prompt
        if not initial_prompt and language == "zh" and request.task == "transcribe":
            initial_prompt = self._chinese_prompt
        said = _plain(initial_prompt) if is_first else ""
        prompt: list[int] = self._model.get_prompt(
            tokenizer,
            tokenizer.encode(f" {said}") if said else [],
            without_timestamps=False,
            hotwords=_plain(request.hotwords) or None,
        )
        return prompt


def _plain(text: str) -> str:
    return _SPECIAL.sub(" ", text).strip()
