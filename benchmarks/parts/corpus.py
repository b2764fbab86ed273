"""The folder of real recordings, and errors against their texts."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER_VARIABLE = "SUBTITLED_REAL_SPEECH"
NORMALISER = ("whisper-normalizer==0.1.15", "regex==2026.11.19", "more-itertools==11.2.1")
BY_CHARACTER = frozenset({"zh", "ja", "ko"})


class Recording(Struct, frozen=True):
    """One recording, as `corpus.json` describes it."""

    file: str
    kind: str
    seconds: float
    language: str | None = None
    """ISO 639-1, "mixed", or None without speech."""
    text: str | None = None
    """The text; None or empty where no transcript is known."""

    @property
    def has_speech(self) -> bool:
        """Return whether it contains speech or singing."""
        return not self.file.startswith("none_")

    @property
    def group(self) -> str:
        """Return the row of the table that its errors count in."""
        if self.kind == "long":
            return Path(self.file).stem
        return {"en": "English", "zh": "Chinese"}.get(self.language or "", "other")


class Errors(Struct, frozen=True):
    """Differences between a text and the true text, in words or characters."""

    said: int
    substituted: int = 0
    left_out: int = 0
    added: int = 0

    @property
    def share(self) -> float:
        """Return the error rate."""
        return (self.substituted + self.left_out + self.added) / max(1, self.said)

    def plus(self, other: Errors) -> Errors:
        """Return the sum of two texts."""
        return Errors(
            self.said + other.said,
            self.substituted + other.substituted,
            self.left_out + other.left_out,
            self.added + other.added,
        )


def corpus_folder() -> Path:
    """Return the folder of recordings, there or not: $SUBTITLED_REAL_SPEECH, else `shared/real-speech` beside the checkout."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path(__file__).parents[3] / "shared" / "real-speech"


def load_corpus(folder: Path) -> list[Recording]:
    """Return the recordings of a folder."""
    return msgspec.json.decode((folder / "corpus.json").read_bytes(), type=list[Recording])


def tokens(text: str, language: str | None) -> list[str]:
    """Return what is compared of a text: normalised words; of Chinese, Japanese and Korean simplified characters."""
    if language in BY_CHARACTER:
        plain = unicodedata.normalize("NFKC", _simplified().convert(text)).casefold()
        return [char for char in plain if unicodedata.category(char)[0] in "LN"]
    # Whisper's normaliser knows the typewriter's apostrophe alone; with a typographic one "beauty's" is two words.
    words: str = _normaliser(is_english=language == "en")(text.replace("\u2019", "'"))
    return words.split()


@cache
def _simplified() -> Any:
    from opencc import OpenCC

    return OpenCC("t2s")


def install_normaliser(folder: Path) -> None:
    """Install Whisper's text normaliser for this run, unless it is there; raises CalledProcessError."""
    if find_spec("whisper_normalizer") is None:
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps")
        subprocess.run([*pip, f"--target={folder}", *NORMALISER], check=True, stderr=subprocess.DEVNULL)
        sys.path.append(str(folder))


@cache
def _normaliser(*, is_english: bool) -> Any:
    """Return Whisper's own normaliser."""
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if is_english else BasicTextNormalizer()


def errors_of(said: Sequence[str], written: Sequence[str]) -> Errors:
    """Return the fewest differences that turn the true text into the written one (Levenshtein)."""
    # Each cell: differences, then how many of them are substituted, left out, added.
    row = [(at, 0, 0, at) for at in range(len(written) + 1)]
    for number, word in enumerate(said, start=1):
        above, row = row, [(number, 0, number, 0)]
        for at, other in enumerate(written, start=1):
            total, substituted, left_out, added = above[at - 1]
            best = above[at - 1] if word == other else (total + 1, substituted + 1, left_out, added)
            total, substituted, left_out, added = above[at]
            best = min(best, (total + 1, substituted, left_out + 1, added))
            total, substituted, left_out, added = row[at - 1]
            row.append(min(best, (total + 1, substituted, left_out, added + 1)))
    return Errors(len(said), *row[-1][1:])
