"""The model: its files there and whole, before anything loads them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from shlex import quote

from msgspec import Struct

from subtitled.asr.model import DEMO
from subtitled.config.model_files import fault_of, is_convertible, is_folder, is_transformers
from subtitled.doctor.daemon_user import DaemonUser, run_as
from subtitled.doctor.finding import Finding, ProbeStarted, Said, fault, from_error, ok, warning
from subtitled.errors import ModelError

VOCABULARIES = frozenset({"vocabulary.json", "vocabulary.txt"})
HUB_S = 20
_CONVERT = "ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json"


class HubModelProbe(Struct, frozen=True, kw_only=True):
    """`model.name`, a size or hub id."""

    name: str


def folder_finding(folder: str, present: Collection[str]) -> Finding:
    """Judge a folder by the names of its files."""
    if "model.bin" not in present or "config.json" not in present:
        missing = ", ".join(name for name in ("model.bin", "config.json") if name not in present)
        remedy = f"convert the model anew: {_CONVERT} --model MODEL --output_dir FOLDER; name that folder in model.name"
        return fault("model", f"{folder} has no {missing}", remedy)
    if "tokenizer.json" not in present:
        remedy = f"copy tokenizer.json of the model that it was made from into {folder}"
        return fault("model", f"{folder} has no tokenizer.json", remedy)
    if not VOCABULARIES & set(present):
        remedy = f"copy vocabulary.json of the model that it was made from into {folder}"
        return fault("model", f"{folder} has no vocabulary.json or vocabulary.txt", remedy)
    return ok("model", f"{folder}: {', '.join(sorted(present))}")


def check(
    name: str, account: DaemonUser, ask_hub: Callable[[HubModelProbe], Iterator[Finding]]
) -> Iterator[Finding]:
    """Check the model's files; `ask_hub` runs `on_hub` in a process of its own."""
    if name == DEMO:
        yield ok("model", "the bundled demo model: for demonstration, it knows 205 words")
    elif is_folder(name):
        yield from run_as(account, lambda: [_folder(name, account)])
    else:
        yield from ask_hub(HubModelProbe(name=name))


def _folder(name: str, account: DaemonUser) -> Finding:
    folder = Path(name)
    if is_convertible(folder):
        return warning(
            "model", f"{name} is a checkpoint of Transformers", "nothing: the first start converts it"
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
            "model", f"{name}: no such folder", "name a CTranslate2 folder, a size or a hub id in model.name"
        )
    except PermissionError as error:
        who = f"{account.name} may not read {error.filename}"
        return fault("model", who, f"type: chmod -R a+rX {quote(name)} (and a+x the folders above it)")
    return folder_finding(name, present)


def on_hub(settings: HubModelProbe) -> Iterator[Said]:
    """Look for a model in the cache, and without it for the hub; nothing is downloaded."""
    own_copy = (
        "let this machine reach the hub for the first start, or name a folder with the model in model.name"
    )
    yield ProbeStarted(name="model", remedy=own_copy)
    from faster_whisper.utils import _MODELS
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    from subtitled.asr.model import snapshot_of

    known = _MODELS.get(settings.name, settings.name)
    try:
        folder = snapshot_of(settings.name)
    except ModelError as error:
        sizes = f"name one of {', '.join(_MODELS)}, a hub id or a folder in model.name"
        yield from_error("model", error, sizes)
        return
    if folder is not None and fault_of(folder) is None:
        yield folder_finding(str(folder), [path.name for path in folder.iterdir()])
        return
    try:
        HfApi().model_info(known, revision="main", timeout=HUB_S)
    except (RepositoryNotFoundError, HFValidationError) as error:
        yield from_error("model", error, "name a size, a hub id that exists or a folder in model.name")
    except Exception as error:  # noqa: BLE001 - of the hub's library, of its HTTP client, of the system
        cause = " ".join(str(error).split())
        yield fault(
            "model", f"{known} is not on this machine, and the hub does not answer: {cause}", own_copy
        )
    else:
        text = f"{known} is not on this machine yet; the first start downloads it"
        yield warning("model", text, "nothing, or start the daemon now and wait for worker.ready")
