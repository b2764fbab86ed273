"""Properties of a model from its name or its folder's files, before it is loaded."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED_FILES = ("model.bin", "config.json", "tokenizer.json")
"""Files of a CTranslate2 model; without the last, faster-whisper would fetch another model's from the hub."""
COPIED_FILES = ("tokenizer.json", "preprocessor_config.json")
"""Files of the checkpoint that a converted model needs, besides the weights."""
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_LARGE_V3_MELS = 128
"""Mel bins of large-v3 and models derived from it; all other models have 80."""
_ENGLISH_TOKENS = 51_864
"""Vocabulary size of English-only models; multilingual models have more tokens."""
# Whisper's own README: turbo returns the original language even when asked to translate. The distilled
# models were trained on transcription alone, and the .en ones know no other language.
_TRANSCRIBE_ONLY = re.compile(r"(.*[-_])?turbo([-_].*)?|(.*[-_])?distil[-_].*|.*\.en", re.IGNORECASE)

_TRANSLATION_MODEL = re.compile(r"nllb|m2m[-_]?100|madlad|opus[-_]mt", re.IGNORECASE)
_LANGUAGE_PAIR = re.compile(
    r"opus[-_]mt[-_](?:tc[-_]big[-_]|tc[-_]base[-_])?([a-z]{2,3})[-_]([a-z]{2,3})(?![a-z])"
)


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


def is_folder(name: str) -> bool:
    """Return whether a model's name is a folder rather than a size or a hub id."""
    return name.startswith(("/", "./", "../", "~")) or Path(name).is_dir()


def is_transformers(folder: Path) -> bool:
    """Return whether a folder contains an unconverted Whisper checkpoint of Hugging Face Transformers."""
    has_weights = any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)
    is_whisper = _read(folder / "config.json").get("model_type") == "whisper"
    return is_whisper and has_weights and not (folder / "model.bin").exists()


def is_convertible(folder: Path) -> bool:
    """Return whether a folder contains such a checkpoint, and this environment can convert it."""
    is_possible = find_spec("torch") is not None and find_spec("transformers") is not None
    return is_possible and is_transformers(folder) and (folder / "tokenizer.json").is_file()


def conversion(folder: Path, target: Path) -> list[str]:
    """Return the command that converts a checkpoint of Transformers into a CTranslate2 model."""
    copied = [name for name in COPIED_FILES if (folder / name).is_file()]
    return [
        "ct2-transformers-converter",
        *("--model", str(folder), "--output_dir", str(target)),
        *(("--copy_files", *copied) if copied else ()),
        *("--quantization", "float16"),
    ]


def fault_of(folder: Path) -> str | None:
    """Return why a folder is not a CTranslate2 model, with a remedy; None if it is one."""
    if not folder.is_dir():
        return "no such folder; name a CTranslate2 folder, a size or a hub id"
    if is_transformers(folder):
        target = folder.with_name(f"{folder.name}-ct2")
        remedy = (
            f"convert it where torch and transformers are installed, and name {target}: "
            f"{shlex.join(conversion(folder, target))}"
        )
        if not (folder / "tokenizer.json").is_file():
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


def is_translation_model(source: str) -> bool:
    """Return whether a model translates text, according to its name or its folder's files."""
    folder = Path(source)
    if folder.is_dir():
        vocabularies = ("shared_vocabulary", "source_vocabulary")  # Whisper has a `vocabulary` alone
        return any((folder / f"{name}.{kind}").is_file() for name in vocabularies for kind in ("json", "txt"))
    return _TRANSLATION_MODEL.search(source) is not None


def translation_fault_of(folder: Path) -> str | None:
    """Return why a folder is not a CTranslate2 translation model, with a remedy; None if it is one."""
    if not folder.is_dir():
        return "no such folder; name the folder of a translation model in CTranslate2 format, or a hub id"
    if not (folder / "model.bin").is_file():
        return "the folder has no model.bin; convert the model: ct2-transformers-converter --model MODEL --output_dir FOLDER"
    return None


def language_pair_of(source: str) -> tuple[str, str] | None:
    """Return the languages that a model translates from and to, if its name says so: "opus-mt-en-zh"."""
    found = _LANGUAGE_PAIR.search(source.rstrip("/").rpartition("/")[2].lower())
    return (found[1], found[2]) if found else None


def is_english_only(name: str) -> bool:
    """Return whether a model knows English alone, according to its name or its folder's files."""
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
