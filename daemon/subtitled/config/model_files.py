"""Properties of a model from its name or its folder's files, before it is loaded."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from subtitled.config.translation_files import (
    EXTRA_FILES,
    is_translation_folder,
    language_pair_of,
    translation_facts,
    translation_fault,
)
from subtitled.languages import code_of

DEMO = "demo"
DEMO_TRANSLATION = "demo-translation"
BUNDLED = {DEMO: "model", DEMO_TRANSLATION: "translation"}
"""The models that the package contains, each with its folder in `demo`."""
NEEDED_FILES = ("model.bin", "config.json", "tokenizer.json")
"""Files of a CTranslate2 model; without the last, faster-whisper would fetch another model's from the hub."""
COPIED_FILES = ("tokenizer.json", "preprocessor_config.json", *EXTRA_FILES)
"""Files of the checkpoint that a converted model needs, besides the weights."""
_CONVERTIBLE = frozenset({"whisper", "m2m_100", "marian", "t5"})
"""Model types of Transformers: speech recognition, and the translation models of `translation_files`."""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_LARGE_V3_MELS = 128
"""Mel bins of large-v3 and models derived from it; all other models have 80."""
_ENGLISH_TOKENS = 51_864
"""Vocabulary size of English-only models; multilingual models have more tokens."""
# Whisper's own README: turbo returns the original language even when asked to translate. The distilled
# models were trained on transcription alone, and the .en ones support no other language.
_TRANSLATOR = re.compile(r"nllb|m2m[-_]?100|madlad|opus[-_]mt", re.IGNORECASE)
"""In the hub ids of translation models."""
_TRANSCRIBE_ONLY = re.compile(r"(.*[-_])?turbo([-_].*)?|(.*[-_])?distil[-_].*|.*\.en", re.IGNORECASE)


def digest_of(weights: Path) -> str:
    """Return the SHA-256 of a model's weights in hex, which identifies the model; an unchanged file is read only once.

    Blocks for about a second a gigabyte. Raises OSError.
    """
    facts = weights.stat()
    return _digest(weights, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=8)
def _digest(weights: Path, _size: int, _mtime_ns: int) -> str:
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_of(name: str) -> Path | None:
    """Return the folder of a model that is bundled or named by its folder; None for a size or a hub id."""
    if name in BUNDLED:
        return Path(str(files("subtitled") / "demo" / BUNDLED[name]))
    return Path(name) if is_folder(name) else None


def is_translation_model(name: str) -> bool:
    """Return whether a model translates text, according to its folder's files, or to its name if it is a hub id."""
    folder = folder_of(name)
    if folder is None:
        return _TRANSLATOR.search(name) is not None
    if is_transformers(folder):
        return _read(folder / "config.json").get("model_type") != "whisper"
    return is_translation_folder(folder)


def translation_languages(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the languages that a translation model translates from, and to: () for any, or if they are not known yet."""
    folder = folder_of(name)
    try:
        if folder is not None and is_translation_folder(folder):
            facts = translation_facts(folder, name)
            return facts.sources, facts.targets
    except (OSError, ValueError):
        return (), ()  # `fault_of` reports it
    source, target = language_pair_of(name)
    return (source,) if code_of(source) else (), (target,) if code_of(target) else ()


def is_folder(name: str) -> bool:
    """Return whether a model's name is a folder rather than a size or a hub id."""
    return name.startswith(("/", "./", "../", "~")) or Path(name).is_dir()


def is_transformers(folder: Path) -> bool:
    """Return whether a folder contains an unconverted checkpoint of Hugging Face Transformers, for speech or translation."""
    has_weights = any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)
    is_ours = _read(folder / "config.json").get("model_type") in _CONVERTIBLE
    return is_ours and has_weights and not (folder / "model.bin").exists()


def is_convertible(folder: Path) -> bool:
    """Return whether a folder contains such a checkpoint, and this environment can convert it."""
    is_possible = find_spec("torch") is not None and find_spec("transformers") is not None
    return is_possible and is_transformers(folder) and _has_tokenizer(folder)


def _has_tokenizer(folder: Path) -> bool:
    names: tuple[str, ...] = ("tokenizer.json",)
    if _read(folder / "config.json").get("model_type") != "whisper":
        names += EXTRA_FILES[:-1]
    return any((folder / name).is_file() for name in names)


def conversion(folder: Path, target: Path) -> list[str]:
    """Return the command that converts a checkpoint of Transformers into a CTranslate2 model."""
    copied = [name for name in COPIED_FILES if (folder / name).is_file()]
    return [
        "ct2-transformers-converter",
        *("--model", str(folder), "--output_dir", str(target)),
        *(("--copy_files", *copied) if copied else ()),
        *("--quantization", "float16"),
    ]


def fault_of(folder: Path, name: str = "") -> str | None:
    """Return why a folder is not a CTranslate2 model for speech or translation, with a remedy; None if it is one.

    `name` is the hub id that it was downloaded from, if it was.
    """
    if not folder.is_dir():
        return "no such folder; name a CTranslate2 folder, a size or a hub id"
    if is_translation_folder(folder):
        try:
            return translation_fault(folder, name)
        except (OSError, ValueError) as error:
            return str(error)
    if is_transformers(folder):
        target = folder.with_name(f"{folder.name}-ct2")
        remedy = (
            f"convert it where torch and transformers are installed, and name {target}: "
            f"{shlex.join(conversion(folder, target))}"
        )
        if not _has_tokenizer(folder):
            remedy = f"it has no tokenizer.json (AutoTokenizer.from_pretrained(…).save_pretrained(…) makes one); {remedy}"
        return f"a checkpoint of Hugging Face Transformers; {remedy}"
    missing = [name for name in NEEDED_FILES if not (folder / name).is_file()]
    if missing:
        return (
            f"the folder has no {', '.join(missing)}; a CTranslate2 Whisper model has model.bin, config.json and "
            "tokenizer.json (ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json)"
        )
    return None


def can_translate(name: str) -> bool:
    """Return whether a model can translate, according to its name or its folder's files."""
    if _TRANSCRIBE_ONLY.fullmatch(Path(name).name):
        return False
    folder = Path(name)
    if not folder.is_dir():
        return True
    config = _read(folder / "config.json")
    if config.get("model_type") == "whisper":  # of Transformers
        layers, mels = config.get("decoder_layers"), config.get("num_mel_bins")
        tokens = config.get("vocab_size")
    else:
        layers = _count_layers(config.get("alignment_heads"))
        mels = _read(folder / "preprocessor_config.json").get("feature_size")
        tokens = _count_tokens(folder)
    # Turbo and distil-large-v3 are large-v3 with most of its decoder gone.
    is_cut_down = mels == _LARGE_V3_MELS and isinstance(layers, int) and layers <= 4
    return not is_cut_down and tokens != _ENGLISH_TOKENS


def is_english_only(name: str) -> bool:
    """Return whether a model supports only English, according to its name or its folder's files."""
    folder = Path(name)
    if not folder.is_dir():
        return folder.name.endswith(".en")
    config = _read(folder / "config.json")
    is_checkpoint = config.get("model_type") == "whisper"  # of Transformers
    return (config.get("vocab_size") if is_checkpoint else _count_tokens(folder)) == _ENGLISH_TOKENS


def _count_layers(alignment_heads: Any) -> int | None:
    """Return the minimum number of decoder layers: the alignment heads include those of the last layers."""
    try:
        return 1 + max(int(layer) for layer, _ in alignment_heads)
    except (TypeError, ValueError):
        return None


def _count_tokens(folder: Path) -> int | None:
    try:
        if (file := folder / "vocabulary.json").is_file():
            return len(json.loads(file.read_bytes()))
        return len((folder / "vocabulary.txt").read_bytes().splitlines())
    except (OSError, ValueError, TypeError):
        return None


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
