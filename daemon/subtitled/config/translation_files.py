"""Properties of a CTranslate2 translation model from its folder: its family, and the languages it translates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct

from subtitled.languages import code_of, target_tag

Family = Literal["nllb", "m2m100", "madlad", "marian"]

_SPEC = b"TransformerSpec"
"""What model.bin of every encoder-decoder model for text begins with, after its version and the name's length."""
_TAGS: Final[tuple[tuple[Family, re.Pattern[str]], ...]] = (
    ("nllb", re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")),
    ("m2m100", re.compile(r"__([a-z]{2,3}(?:_[A-Za-z]+)?)__")),
    ("madlad", re.compile(r"<2([a-z]{2,3}(?:_[A-Za-z]+)?)>")),
    ("marian", re.compile(r">>([a-z]{2,3}(?:_[A-Za-z]+)?)<<")),
)
"""The tokens that stand for a language in the vocabulary of each family."""
_VOCABULARIES = ("shared_vocabulary", "source_vocabulary")
SENTENCEPIECE_FILES: Final = ("sentencepiece.bpe.model", "spiece.model", "sentencepiece.model")
"""SentencePiece models for both sides; Marian has one for each side."""
MARIAN_FILES: Final = ("source.spm", "target.spm")
EXTRA_FILES: Final = (*SENTENCEPIECE_FILES, *MARIAN_FILES, "tokenizer_config.json")
"""Files of the checkpoint that a converted translation model needs, besides tokenizer.json."""
_PAIR = re.compile(r"opus-mt(?:-tc-(?:big|base))?-([A-Za-z_]+)-([A-Za-z_]+)")
"""In the name of an OPUS-MT model."""


class TranslationModelFacts(Struct, frozen=True, kw_only=True):
    """Facts about a translation model from the files of its folder."""

    family: Family
    tags: dict[str, str]
    """The tokens of its languages, by language: "zho_Hant" or "zh"; empty for a Marian model with one target."""
    sources: tuple[str, ...]
    """Languages that it translates from; (): not known, or more than the files name."""
    targets: tuple[str, ...]
    """Languages that it translates into."""

    def covers(self, source: str, target: str) -> bool:
        """Return whether it translates from `source` into `target`, each by any name."""
        return (not self.sources or best_match(source, self.sources) is not None) and best_match(
            target, self.targets
        ) is not None

    def tag(self, language: str) -> str | None:
        """Return the token of a language by any name, in the script that the name requests, if the model has it."""
        found = best_match(language, tuple(self.tags))
        return None if found is None else self.tags[found]


def is_translation_folder(folder: Path) -> bool:
    """Return whether a folder contains a CTranslate2 model that translates text."""
    try:
        with (folder / "model.bin").open("rb") as file:
            return file.read(64)[6:].startswith(_SPEC)
    except OSError:
        return False


def translation_fault(folder: Path, name: str = "") -> str | None:
    """Return why a translation model's folder cannot be used, with a remedy; None if it can."""
    if not (folder / "config.json").is_file():
        return "the folder has no config.json; convert the model again (ct2-transformers-converter)"
    if _vocabulary_file(folder) is None:
        return "the folder has no shared_vocabulary.json and no source_vocabulary.json; convert the model again (ct2-transformers-converter)"
    has_json = (folder / "tokenizer.json").is_file()
    has_both = any((folder / file).is_file() for file in SENTENCEPIECE_FILES)
    has_sides = all((folder / file).is_file() for file in MARIAN_FILES)
    if not (has_json or has_both or has_sides):
        return (
            "the folder has no tokenizer; copy tokenizer.json (NLLB-200, MADLAD-400), sentencepiece.bpe.model (M2M-100), or source.spm "
            "and target.spm (OPUS-MT) from the original model into it"
        )
    facts = translation_facts(folder, name)
    needs_pieces = not has_json or (facts.family == "marian" and has_sides)
    if needs_pieces and find_spec("sentencepiece") is None:
        return (
            "its tokenizer needs the package sentencepiece, which is not installed: pip install sentencepiece"
        )
    if not facts.targets:
        return (
            "its target language is not known: the vocabulary names none; copy tokenizer_config.json with source_lang and target_lang "
            'into the folder, or name the folder as the model, such as "opus-mt-en-zh"'
        )
    return None


def translation_facts(folder: Path, name: str = "") -> TranslationModelFacts:
    """Return the facts of a folder; `name` is the hub id or path that it was named by.

    Reads the vocabulary, which takes 0.1 s for 256,000 tokens; unchanged files are read only once. Raises OSError and ValueError.
    """
    file = _vocabulary_file(folder)
    if file is None:
        raise ValueError(f"{folder} has no vocabulary")
    config = folder / "tokenizer_config.json"
    stamps = tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in (file, config))
    return _facts(file, config, name or folder.name, stamps)


@lru_cache(maxsize=16)
def _facts(file: Path, config: Path, name: str, _stamps: tuple[int, ...]) -> TranslationModelFacts:
    tokens = _tokens(file)
    for family, pattern in _TAGS:
        tags = {found[found.lastindex or 0]: token for token in tokens if (found := pattern.fullmatch(token))}
        if tags and family != "marian":
            languages = tuple(tags)
            return TranslationModelFacts(family=family, tags=tags, sources=languages, targets=languages)
    source, target = _marian_languages(config, name)
    # Groups such as "mul", "ROMANCE" and "gmq" are not languages: any source is accepted.
    sources = (source,) if code_of(source) else ()
    targets = tuple(tags) or ((target,) if target else ())
    return TranslationModelFacts(family="marian", tags=tags, sources=sources, targets=targets)


def _marian_languages(config: Path, name: str) -> tuple[str, str]:
    """Return the source and the target of a Marian model; "" for what is not known."""
    try:
        data: Any = json.loads(config.read_bytes())
    except (OSError, ValueError):
        data = {}
    source, target = (
        (data.get(key) for key in ("source_lang", "target_lang")) if isinstance(data, dict) else (None, None)
    )
    if isinstance(source, str) and isinstance(target, str):
        return source, target
    return language_pair_of(name)


def language_pair_of(name: str) -> tuple[str, str]:
    """Return the source and the target in the name of an OPUS-MT model: "opus-mt-en-zh"; "" for none."""
    found = _PAIR.search(name)
    return (found[1], found[2]) if found else ("", "")


def _vocabulary_file(folder: Path) -> Path | None:
    names = (f"{stem}.{suffix}" for stem in _VOCABULARIES for suffix in ("json", "txt"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _tokens(file: Path) -> list[str]:
    """Return the tokens of a vocabulary file; raises ValueError for one that is not a list of texts."""
    if file.suffix == ".txt":
        return file.read_text("utf-8").split("\n")
    tokens = json.loads(file.read_bytes())
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(
            f"{file.name} is not a list of tokens; convert the model again (ct2-transformers-converter)"
        )
    return tokens


def best_match(language: str, offered: Sequence[str]) -> str | None:
    """Return the one of `offered` that is `language`, each by any name; None if there is none.

    Of several, the one in the script, then in the region that the name asks for or that is usual; "zh" means simplified
    characters, "zh-TW" traditional ones.
    """
    wanted = _parts(target_tag(language) or language)
    if not wanted[0]:
        return None

    def distance(one: str) -> tuple[bool, bool, bool, str]:
        name, script, region, exact = _parts(one)
        return script != wanted[1], exact != wanted[3], region != wanted[2], name + one

    same: Iterable[str] = (one for one in offered if _parts(one)[0] == wanted[0])
    return min(same, key=distance, default=None)


@lru_cache(4096)
def _parts(tag: str) -> tuple[str, str, str, str]:
    """Return a language's code, its usual or given script and region, and the code before dialects are joined to it."""
    from langcodes import Language  # its tables take 0.1 s

    code = code_of(tag)
    try:
        found = Language.get(tag.replace("_", "-")).prefer_macrolanguage()
        if (
            code is not None and code_of(found.language) != code
        ):  # a name that the standard reads as another language
            found = Language.get(code)
        full = found.maximize()
    except ValueError:
        return code or "", "", "", code or ""
    return code or found.language or "", full.script or "", full.territory or "", found.language or ""
