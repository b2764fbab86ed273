"""From the configured model's name to a loaded faster-whisper model."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from subtitled.errors import ModelError

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

DEMO = "demo"
NEEDED_FILES = ("model.bin", "config.json", "tokenizer.json")


class NotReachableError(ModelError):
    """The model must be downloaded and cannot be just now; a later try may do."""


def resolve(name: str) -> str:
    """Return what faster-whisper is to load: a folder, a size or a hub id. Raises ModelError for a bad folder."""
    if name == DEMO:
        return str(files("subtitled") / "demo" / "model")
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith("."):
            raise ModelError(
                f"model.name = {name!r}: no such folder; name a CTranslate2 folder, a size or a hub id"
            )
        return name
    missing = [file for file in NEEDED_FILES if not (folder / file).is_file()]
    if missing:
        raise ModelError(
            f"model.name = {name!r}: the folder has no {', '.join(missing)}; "
            "a CTranslate2 Whisper model has model.bin, config.json and tokenizer.json "
            "(ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json)"
        )
    return name


def compute_type_for(wanted: str, device: str) -> str:
    """Return CTranslate2's compute type: "auto" is float16 on a GPU that has it, int8 on a CPU."""
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "int8"
    from ctranslate2 import get_supported_compute_types

    supported = get_supported_compute_types("cuda")
    return next((kind for kind in ("float16", "int8_float32", "float32") if kind in supported), "default")


def load(name: str, *, device: str, compute_type: str, cpu_threads: int) -> WhisperModel:
    """Load a model; blocks for as long as loading, or downloading, takes.

    Raises ModelError when the name, the folder or the compute type is wrong, NotReachableError when the hub does not
    answer; CUDA's own errors come through as RuntimeError.
    """
    from faster_whisper import WhisperModel

    path = resolve(name)
    kind = compute_type_for(compute_type, device)
    try:
        return WhisperModel(path, device=device, compute_type=kind, cpu_threads=cpu_threads)
    except ValueError as error:
        raise ModelError(f"model.name = {name!r}, compute_type = {kind!r} on {device}: {error}") from error
    except RuntimeError as error:
        if "CUDA" in str(error) or "cu" in str(error).split(" ")[0]:
            raise
        raise ModelError(f"model.name = {name!r} on {device}: {error}") from error
    except OSError as error:  # the hub's errors are OSErrors, those of the network among them
        if _is_refusal(error):
            raise ModelError(f"model.name = {name!r}: {error}") from error
        raise NotReachableError(f"model.name = {name!r}: cannot be downloaded now: {error}") from error


def _is_refusal(error: OSError) -> bool:
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    return isinstance(error, (HFValidationError, RepositoryNotFoundError))
