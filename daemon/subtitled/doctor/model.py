"""Checks of the models' files."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from msgspec import Struct

from subtitled.config.model_choice import kind_of
from subtitled.config.model_files import (
    DEMO,
    DEMO_TRANSLATION,
    fault_of,
    is_convertible,
    is_folder,
    is_transformers,
)
from subtitled.config.schema import Config, NamedModelConfig
from subtitled.config.translation_files import is_translation_folder, translation_facts
from subtitled.doctor.daemon_user import DaemonUser, run_as
from subtitled.doctor.finding import Finding, ProbeMessage, ProbeStarted, fault, from_error, ok, warning
from subtitled.errors import ModelError

VOCABULARIES = frozenset({"vocabulary.json", "vocabulary.txt"})
HUB_S = 20
_MAX_LIST_BYTES = 2**20
_CONVERT = "ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json"


class CheckedModel(Struct, frozen=True, kw_only=True):
    """A configured model."""

    source: str
    """A size, a hub id or a folder."""
    label: str = "model"
    """Name of the finding."""
    key: str = "model.name"
    """The key of the configuration that has the source."""
    endpoint: NamedModelConfig | None = None
    """Its configuration, if a chat endpoint has it."""


def checked_models(config: Config) -> list[CheckedModel]:
    """Return all models, the default first."""
    others = [
        CheckedModel(
            source=model.source,
            label=f"model {model.name}",
            key=f'source of the model "{model.name}"',
            endpoint=model if kind_of(model) == "openai" else None,
        )
        for model in config.models
    ]
    return [CheckedModel(source=config.model.name), *others]


def folder_finding(folder: str, present: Collection[str], model: CheckedModel | None = None) -> Finding:
    """Check the names of a folder's files."""
    model = model or CheckedModel(source=folder)
    label = model.label
    if is_translation_folder(Path(folder)):
        return _translator_finding(Path(folder), model)
    if "model.bin" not in present or "config.json" not in present:
        missing = ", ".join(name for name in ("model.bin", "config.json") if name not in present)
        remedy = f"convert the model again: {_CONVERT} --model MODEL --output_dir FOLDER; set {model.key} to that folder"
        return fault(label, f"{folder} has no {missing}", remedy)
    if "tokenizer.json" not in present:
        remedy = f"copy tokenizer.json of its original model to {folder}"
        return fault(label, f"{folder} has no tokenizer.json", remedy)
    if not VOCABULARIES & set(present):
        remedy = f"copy vocabulary.json of its original model to {folder}"
        return fault(label, f"{folder} has no vocabulary.json or vocabulary.txt", remedy)
    return ok(label, f"{folder}: {', '.join(sorted(present))}")


class _NoRedirects(HTTPRedirectHandler):
    """A redirect is an error: the key must not reach another server."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def endpoint_finding(model: NamedModelConfig, label: str) -> Finding:
    """Request the list of an endpoint's models; nothing of a job is sent."""
    url = f"{model.endpoint.rstrip('/')}/models"
    try:
        headers = {}
        if model.api_key_file:
            headers["Authorization"] = f"Bearer {Path(model.api_key_file).read_text('utf-8').strip()}"
        with build_opener(_NoRedirects).open(Request(url, headers=headers), timeout=HUB_S) as answer:  # noqa: S310 - the configuration's own URL
            found = json.loads(answer.read(_MAX_LIST_BYTES))
        names = [str(one["id"]) for one in found["data"]]
    except HTTPError as error:
        key = " with the key of api_key_file" if model.api_key_file else " without a key (api_key_file)"
        return fault(
            label, f"{url} answers {error.code} {error.reason}{key}", "check endpoint and api_key_file"
        )
    except OSError as error:
        return fault(
            label,
            f"{url} does not answer: {error}",
            "start the endpoint's server, or check endpoint and api_key_file",
        )
    except (ValueError, LookupError, TypeError):
        return warning(
            label,
            f"{url} does not list its models as OpenAI's interface does",
            "check that endpoint ends with /v1",
        )
    if model.endpoint_model not in names:
        listed = ", ".join(names[:10])
        return warning(
            label,
            f"{model.endpoint} does not list {model.endpoint_model}",
            f"set endpoint_model to one of {listed}",
        )
    return ok(
        label,
        f"{model.endpoint} has {model.endpoint_model}; the text of translated jobs is sent there",
    )


def _translator_finding(folder: Path, model: CheckedModel) -> Finding:
    """Check the folder of a translation model."""
    if (why := fault_of(folder, model.source)) is not None:
        return fault(model.label, f"{folder}: {why}", f"fix the folder, or set {model.key} to another one")
    facts = translation_facts(folder, model.source)
    names = ", ".join(facts.targets[:8]) + (
        f" and {len(facts.targets) - 8} more" if len(facts.targets) > 8 else ""
    )
    return ok(model.label, f"{folder}: translates into {names}")


def check(
    model: CheckedModel, account: DaemonUser, ask_hub: Callable[[CheckedModel], Iterator[Finding]]
) -> Iterator[Finding]:
    """Check a model's files; `ask_hub` runs `probe_hub` in a child process."""
    if model.endpoint is not None:
        endpoint = model.endpoint
        yield from run_as(account, lambda: [endpoint_finding(endpoint, model.label)])
    elif model.source == DEMO:
        yield ok(model.label, "the bundled demo model: only for demonstration, with about 200 words")
    elif model.source == DEMO_TRANSLATION:
        yield ok(
            model.label,
            "the bundled translation model: only for the demonstration's sentences, English and Chinese",
        )
    elif is_folder(model.source):
        yield from run_as(account, lambda: [_folder(model, account)])
    else:
        yield from ask_hub(model)


def _folder(model: CheckedModel, account: DaemonUser) -> Finding:
    name, label = model.source, model.label
    folder = Path(name)
    if is_convertible(folder):
        return warning(
            label, f"{name} is a Transformers checkpoint", "none needed: the first start converts it"
        )
    if is_transformers(folder):
        return from_error(label, ModelError(fault_of(folder)), f"convert it: {_CONVERT}")
    try:
        present = [path.name for path in folder.iterdir()]
        for path in filter(Path.is_file, folder.iterdir()):
            with path.open("rb") as file:
                file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return fault(
            label, f"{name}: no such folder", f"set {model.key} to a CTranslate2 folder, a size or a hub id"
        )
    except PermissionError as error:
        who = f"{account.name} cannot read {error.filename}"
        return fault(label, who, f"type: chmod -R a+rX {quote(name)} (and a+x the folders above it)")
    return folder_finding(name, present, model)


def probe_hub(settings: CheckedModel) -> Iterator[ProbeMessage]:
    """Look for a model in the cache, then on the hub, without a download."""
    label, key = settings.label, settings.key
    own_copy = (
        f"give this machine access to the hub for the first start, or set {key} to a folder with the model"
    )
    yield ProbeStarted(name=label, remedy=own_copy)
    from faster_whisper.utils import _MODELS
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    from subtitled.asr.model import snapshot_of

    known = _MODELS.get(settings.source, settings.source)
    try:
        folder = snapshot_of(settings.source)
    except ModelError as error:
        sizes = f"set {key} to one of {', '.join(_MODELS)}, a hub id or a folder"
        yield from_error(label, error, sizes)
        return
    if folder is not None and fault_of(folder, settings.source) is None:
        yield folder_finding(str(folder), [path.name for path in folder.iterdir()], settings)
        return
    try:
        HfApi().model_info(known, revision="main", timeout=HUB_S)
    except (RepositoryNotFoundError, HFValidationError) as error:
        yield from_error(label, error, f"set {key} to a size, an existing hub id or a folder")
    except Exception as error:  # noqa: BLE001 - errors of the hub's library, its HTTP client or the system
        cause = " ".join(str(error).split())
        yield fault(label, f"{known} is not on this machine, and the hub does not answer: {cause}", own_copy)
    else:
        text = f"{known} is not on this machine yet; the first start downloads it"
        yield warning(label, text, "none needed; or start the daemon now and wait for worker.ready")
