"""Download a model from the hub, or convert it from a checkpoint, once."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from subtitled.asr.model import HubUnreachableError, converted_folder, locate
from subtitled.config.model_files import BUNDLED, conversion, fault_of, is_convertible, is_folder
from subtitled.config.translation_files import EXTRA_FILES
from subtitled.errors import ModelError

OnProgress = Callable[[int, int], None]
"""Called every second with the bytes received so far, and those of the whole model (0 if unknown)."""
PROGRESS_EVERY_S = 1.0
_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model.bin",
    "tokenizer.json",
    "*vocabulary.*",
    *EXTRA_FILES,
)
"""What is downloaded: the files that `download_model` of faster-whisper downloads, and those of translation models."""
PR_SET_PDEATHSIG = 1
CONVERTER = (sys.executable, "-m", "ctranslate2.converters.transformers")


def may_need_fetching(name: str) -> bool:
    """Return whether a model may have to be downloaded or converted; reads names and folders only."""
    return name not in BUNDLED and (not is_folder(name) or is_convertible(Path(name)))


def fetch(name: str, on_progress: OnProgress) -> Path:
    """Download or convert a model if necessary, and return its folder; blocks meanwhile.

    Raises ModelError if the model does not exist or is unusable, HubUnreachableError if the hub does not answer.
    """
    try:
        return locate(name)
    except HubUnreachableError:
        pass
    if is_folder(name):
        convert(Path(name), converted_folder(Path(name)))
    else:
        _download(name, on_progress)
    return locate(name)


def convert(folder: Path, target: Path, command: Sequence[str] = CONVERTER) -> None:
    """Convert a checkpoint of Transformers; `target` appears whole. Raises ModelError when the converter fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    arguments = conversion(folder, draft)
    try:
        done = subprocess.run(
            [*command, *arguments[1:]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            preexec_fn=_die_with_parent,
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ModelError(f"the model {str(folder)!r}: cannot be converted: {lines[-1]}")
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _download(name: str, on_progress: OnProgress) -> None:
    from faster_whisper.utils import disabled_tqdm
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        with _progress(name, on_progress):
            folder = Path(
                snapshot_download(_repository_of(name), allow_patterns=list(_FILES), tqdm_class=disabled_tqdm)
            )
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise ModelError(f"the model {name!r}: {_first_line(error)}") from error
    except Exception as error:
        # Errors of several HTTP libraries, by the hub's version; in any case there is no model.
        raise HubUnreachableError(
            f"the model {name!r}: cannot be downloaded now: {_first_line(error)}"
        ) from error
    if not (folder / "model.bin").is_file():
        command = conversion(folder, Path("FOLDER"))
        command[command.index(str(folder))] = name
        raise ModelError(
            f"the model {name!r} is not in CTranslate2 format; name a converted one, or convert it where torch and transformers are "
            f"installed, and name the folder: {shlex.join(command)}"
        )
    if (why := fault_of(folder, name)) is not None:
        raise ModelError(f"the model {name!r}: downloaded, but unusable: {why}")


@contextmanager
def _progress(name: str, on_progress: OnProgress) -> Iterator[None]:
    """Report the bytes received, by the size of the hub's cache: the only way that all its versions share."""
    done = threading.Event()
    repository = _repository_of(name)
    blobs = _blobs_of(repository)

    def watch() -> None:
        total = _size_of(repository)
        while not done.wait(PROGRESS_EVERY_S):
            received = sum(file.stat().st_size for file in blobs.glob("*") if file.is_file())
            on_progress(min(received, total) if total else received, total)

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _repository_of(name: str) -> str:
    from faster_whisper.utils import _MODELS

    return str(_MODELS.get(name, name))


def _blobs_of(repository: str) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "blobs")


def _size_of(repository: str) -> int:
    """Return the bytes of the files that are downloaded; 0 if the hub does not report them."""
    from huggingface_hub import HfApi

    try:
        files = list(HfApi().list_repo_tree(repository))
    except Exception:  # noqa: BLE001 - as in `_download`, which reports the reason
        return 0
    sizes = ((file.path, getattr(file, "size", 0)) for file in files)
    return sum(size for path, size in sizes if any(fnmatchcase(path, pattern) for pattern in _FILES))


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
