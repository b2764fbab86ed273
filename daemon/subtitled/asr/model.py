"""From the configured model's name to a loaded model: faster-whisper's, or CTranslate2's for text; nothing here uses the network."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from subtitled.asr import memory
from subtitled.asr.cpu_model import CpuModel
from subtitled.asr.cuda import check_libraries, free_bytes
from subtitled.asr.model_size import read_size
from subtitled.config.model_files import BUNDLED, fault_of, folder_of, is_convertible
from subtitled.config.translation_files import is_translation_folder
from subtitled.errors import ModelError

if TYPE_CHECKING:
    from ctranslate2 import Translator
    from faster_whisper import WhisperModel

CPU_BATCH = 8
"""The fastest that was measured (docs/tuning.md)."""
CPU_TEXT_BATCH = 32
"""Sentences; benchmarks/translation.py measures it."""
MIN_CPU_BATCH = 4
"""Where memory is short, batches of a CPU become smaller before fewer of them are decoded at once."""
MAX_CPU_STREAMS = 16
"""Python's part of a window would keep more of them waiting for each other."""
CPU_SHARE = 0.5
"""Share of the host's free memory that all CPU slots together may use for their weights and batches."""
SENTENCE_BYTES = 8 * 2**20
"""Memory of a sentence in a batch."""
DEFAULT_BATCH = 16
MAX_BATCH = 32
"""Published measurements are flat from 16 on; a larger batch only delays short clips."""
WINDOW_BYTES = 64 * 2**20
"""Memory of a window in a batch, whatever the model."""
WINDOW_SHARE = 0.25
"""And as a share of the model's file. Both together are above what the layers' sizes add up to, at beam size 5 in float16:
0.25 GB for large-v3-turbo (1.6 GB), 0.8 GB for large-v3 (3.1 GB), 0.06 GB for tiny (0.08 GB)."""
USED_SHARE = 0.8
"""Share of the free memory that a batch may use, since other programs and CTranslate2's workspaces need some."""


class HubUnreachableError(ModelError):
    """The model must be downloaded, and the hub is unreachable; a later attempt may succeed."""


def locate(name: str) -> Path:
    """Return the folder of a model that is on this machine.

    Raises ModelError for a bad folder or name, HubUnreachableError for a model that has to be fetched first (`fetch`).
    """
    folder = folder_of(name)
    if name in BUNDLED and folder is not None:
        return folder
    if folder is not None:
        if is_convertible(folder):
            return _present(name, converted_folder(folder))
        if (why := fault_of(folder)) is not None:
            raise ModelError(f"the model {name!r}: {why}")
        return folder
    return _present(name, snapshot_of(name))


def converted_folder(folder: Path) -> Path:
    """Return where a checkpoint of Transformers is, or will be, once it is converted; another one if it changes."""
    import hashlib

    from huggingface_hub.constants import HF_HOME

    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    digest = hashlib.sha256(repr((str(folder.resolve()), facts)).encode()).hexdigest()[:16]
    return Path(HF_HOME, "converted", f"{folder.name}-{digest}")


def snapshot_of(name: str) -> Path | None:
    """Return the folder that a size or hub id was downloaded to before, complete or not; None if it never was.

    Raises ModelError for a name that can be neither.
    """
    from faster_whisper import download_model

    try:
        return Path(download_model(name, local_files_only=True))
    except FileNotFoundError:  # of the hub's library: nothing in its cache
        return None
    except ValueError as error:
        raise ModelError(f"the model {name!r}: {error}") from error


def _present(name: str, folder: Path | None) -> Path:
    if folder is None or fault_of(folder, name) is not None:
        raise HubUnreachableError(f"the model {name!r}: not on this machine yet, or incomplete")
    return folder


def compute_type_for(wanted: str, device: str) -> str:
    """Return CTranslate2's compute type: "auto" is float16 on a GPU that has it, int8 on a CPU."""
    if wanted != "auto":
        return wanted
    if device == "cpu":
        return "int8"
    from ctranslate2 import get_supported_compute_types

    supported = get_supported_compute_types("cuda")
    return next((kind for kind in ("float16", "int8_float32", "float32") if kind in supported), "default")


class Streams(Struct, frozen=True):
    """How a worker divides its work: `count` batches at once, each of up to `batch_size` segments or sentences."""

    count: int
    batch_size: int


def cpu_streams(
    name: str, *, threads: int, batch_size: int, compute_type: str, is_text: bool, most: int | None = None
) -> Streams:
    """Return the streams of a CPU slot with so many threads, at most `most`; `batch_size` 0: the fastest that was measured.

    Several of them need a second copy of the weights (`cpu_model`).
    """
    batch_size = batch_size or (CPU_TEXT_BATCH if is_text else CPU_BATCH)
    free = memory.free_bytes("cpu")
    if free is None:
        return Streams(1, batch_size)
    own = int(free * CPU_SHARE * min(1.0, threads / (os.cpu_count() or 1)))
    try:
        size = read_size(locate(name))
    except ValueError:  # a format of the future, or a damaged file, which CTranslate2 reports
        return Streams(1, batch_size)
    weights = size.weights_bytes(compute_type_for(compute_type, "cpu"))
    window, encoding = (SENTENCE_BYTES, 0) if is_text else (size.window_bytes, size.encoding_bytes)
    if own >= 2 * weights + size.file_bytes:  # which is read whole before it is converted
        found = streams_within(
            own - 2 * weights, window, threads, batch_size, encoding, most or MAX_CPU_STREAMS
        )
        if found.count > 1:
            return found
    return streams_within(own - weights, window, threads, batch_size, encoding, most=1)


def streams_within(
    free: int,
    window_bytes: int,
    threads: int,
    batch_size: int,
    encoding_bytes: int = 0,
    most: int = MAX_CPU_STREAMS,
) -> Streams:
    """Return as many streams as there are threads, if so much memory has room for them, and the batch of each.

    Each has as many threads as the others, and encodes one window at a time. Batches become smaller, down to
    `MIN_CPU_BATCH`, before there are fewer of them.
    """
    least_bytes = min(batch_size, MIN_CPU_BATCH) * window_bytes + encoding_bytes
    most = max(1, min(threads, most, free // least_bytes))
    count = threads // -(-threads // most)
    return Streams(count, max(1, min(batch_size, (free // count - encoding_bytes) // window_bytes)))


def gpu_batch_size(name: str, *, streams: int) -> int:
    """Return how many segments, or sentences, each stream of a GPU with its model loaded has room to decode at once."""
    free = free_bytes()
    return DEFAULT_BATCH if free is None else batch_size_for(free // streams, _model_bytes(name))


def batch_size_for(free: int, model_bytes: int) -> int:
    """Return the batch size, 1 to `MAX_BATCH`, for so much free memory and a model file of that size."""
    return max(1, min(MAX_BATCH, int(free * USED_SHARE / _window_bytes(model_bytes))))


def _model_bytes(name: str) -> int:
    return (locate(name) / "model.bin").stat().st_size


def _window_bytes(model_bytes: int) -> int:
    return int(WINDOW_BYTES + WINDOW_SHARE * model_bytes)


def load(
    name: str, *, device: str, compute_type: str, cpu_threads: int, streams: int = 1
) -> WhisperModel | Translator:
    """Load a model that is on this machine; blocks for as long as loading takes. Its folder decides which kind it is.

    On a CPU `cpu_threads` are divided between the streams.

    Raises ModelError when the name, the folder or the compute type is wrong, HubUnreachableError when it has to be fetched
    first; CUDA's own errors come through as RuntimeError.
    """
    folder = locate(name)
    if device != "cpu":
        check_libraries()
    kind = compute_type_for(compute_type, device)
    try:
        # OpenMP keeps threads for each thread that has run with several, as loading does, until that one ends. With more of
        # them than processors it does not spin while they wait for each other: a clip would take two to five times as long.
        with ThreadPoolExecutor(1, thread_name_prefix="load") as thread:
            model = thread.submit(
                _loaded,
                folder,
                device=device,
                compute_type=kind,
                cpu_threads=cpu_threads,
                streams=streams,
            ).result()
    except ValueError as error:
        raise ModelError(f"the model {name!r} with compute_type {kind!r} on {device}: {error}") from error
    except RuntimeError as error:
        if "CUDA" in str(error) or "cu" in str(error).split(" ")[0]:
            raise
        raise ModelError(f"the model {name!r} on {device}: {error}") from error
    if device != "cpu":
        _try_out(model)
    return model


def _loaded(
    folder: Path, *, device: str, compute_type: str, cpu_threads: int, streams: int
) -> WhisperModel | Translator:
    if is_translation_folder(folder):
        from ctranslate2 import Translator

        return Translator(
            str(folder),
            device=device,
            compute_type=compute_type,
            intra_threads=max(1, cpu_threads // streams),
            inter_threads=streams,
        )
    from faster_whisper import WhisperModel

    load_with = partial(WhisperModel, str(folder), device=device, compute_type=compute_type)
    if device != "cpu" or streams == 1:
        return load_with(cpu_threads=cpu_threads, num_workers=streams)
    # One after the other: while weights are read and converted they take twice the memory.
    model = load_with(cpu_threads=max(1, cpu_threads // streams), num_workers=streams)
    model.model = CpuModel(model.model, load_with(cpu_threads=cpu_threads).model)
    return model


def weights_of(model: WhisperModel | Translator) -> Any:
    """Return CTranslate2's own model, which can be unloaded and loaded again."""
    return model.model if hasattr(model, "feature_extractor") else model


def _try_out(model: WhisperModel | Translator) -> None:
    """Decode a window of silence, or a token of text, so that a faulty device is found before it gets work."""
    if not hasattr(model, "feature_extractor"):
        model.translate_batch([["</s>"]], beam_size=1, max_decoding_length=1)
        return
    import numpy as np

    silence = np.zeros((model.model.n_mels, 3000), np.float32)
    start = model.hf_tokenizer.token_to_id("<|startoftranscript|>")
    model.model.generate(model.encode(silence), [[start]], beam_size=1, max_length=4)
