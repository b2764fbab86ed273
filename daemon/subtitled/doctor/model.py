"""Checks of the model's files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from shlex import quote

from msgspec import Struct

from subtitled.asr.model import DEMO
from subtitled.config.model_files import fault_of, is_convertible, is_folder, is_transformers
from subtitled.doctor.daemon_user import DaemonUser, run_as
from subtitled.doctor.finding import Finding, ProbeMessage, ProbeStarted, fault, from_error, ok, warning
from subtitled.errors import ModelError

VOCABULARIES = frozenset({"vocabulary.json", "vocabulary.txt"})
HUB_S = 20
_CONVERT = "ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json"


class HubModelProbe(Struct, frozen=True, kw_only=True):
    """`model.name`, a size or hub id."""

    name: str


def folder_finding(folder: str, present: Collection[str]) -> Finding:
    """Check the names of a folder's files."""
    if "model.bin" not in present or "config.json" not in present:
        missing = ", ".join(name for name in ("model.bin", "config.json") if name not in present)
        remedy = f"convert the model again: {_CONVERT} --model MODEL --output_dir FOLDER; set model.name to that folder"
        return fault("model", f"{folder} has no {missing}", remedy)
    if "tokenizer.json" not in present:
        remedy = f"copy tokenizer.json of its original model to {folder}"
        return fault("model", f"{folder} has no tokenizer.json", remedy)
    if not VOCABULARIES & set(present):
        remedy = f"copy vocabulary.json of its original model to {folder}"
        return fault("model", f"{folder} has no vocabulary.json or vocabulary.txt", remedy)
    return ok("model", f"{folder}: {', '.join(sorted(present))}")


def check(
    name: str, account: DaemonUser, ask_hub: Callable[[HubModelProbe], Iterator[Finding]]
) -> Iterator[Finding]:
    """Check the model's files; `ask_hub` runs `probe_hub` in a child process."""
    if name == DEMO:
        yield ok("model", "the bundled demo model: only for demonstration, it has 205 words")
    elif is_folder(name):
        yield from run_as(account, lambda: [_folder(name, account)])
    else:
        yield from ask_hub(HubModelProbe(name=name))


def _folder(name: str, account: DaemonUser) -> Finding:
    folder = Path(name)
    if is_convertible(folder):
        return warning(
            "model", f"{name} is a Transformers checkpoint", "none needed: the first start converts it"
        )
    if is_transformers(folder):
        return from_error("model", ModelError(fault_of(folder)), f"convert it: {_CONVERT}")
    try:
        present = [path.name for path in folder.iterdir()]
        for path in filter(Path.is_file, folder.iterdir()):
            with path.open("rb") as file:
                file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return fault(
            "model", f"{name}: no such folder", "set model.name to a CTranslate2 folder, a size or a hub id"
        )
    except PermissionError as error:
        who = f"{account.name} may not read {error.filename}"
        return fault("model", who, f"type: chmod -R a+rX {quote(name)} (and a+x the folders above it)")
    return folder_finding(name, present)


def probe_hub(settings: HubModelProbe) -> Iterator[ProbeMessage]:
    """Look for a model in the cache, then on the hub, without a download."""
    own_copy = "give this machine access to the hub for the first start, or set model.name to a folder with the model"
    yield ProbeStarted(name="model", remedy=own_copy)
    from faster_whisper.utils import _MODELS
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    from subtitled.asr.model import snapshot_of

    known = _MODELS.get(settings.name, settings.name)
    try:
        folder = snapshot_of(settings.name)
    except ModelError as error:
        sizes = f"set model.name to one of {', '.join(_MODELS)}, a hub id or a folder"
        yield from_error("model", error, sizes)
        return
    if folder is not None and fault_of(folder) is None:
        yield folder_finding(str(folder), [path.name for path in folder.iterdir()])
        return
    try:
        HfApi().model_info(known, revision="main", timeout=HUB_S)
    except (RepositoryNotFoundError, HFValidationError) as error:
        yield from_error("model", error, "set model.name to a size, an existing hub id or a folder")
    except Exception as error:  # noqa: BLE001 - errors of the hub's library, its HTTP client or the system
        cause = " ".join(str(error).split())
        yield fault(
            "model", f"{known} is not on this machine, and the hub does not answer: {cause}", own_copy
        )
    else:
        text = f"{known} is not on this machine yet; the first start downloads it"
        yield warning("model", text, "none needed; or start the daemon now and wait for worker.ready")
