"""Checks of values beyond their types: names, addresses, folders."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from subtitle.keys import KEY_NAME, KEY_NAME_RULE, is_key
from subtitle.messages import LayoutOptions
from subtitled.config.addresses import endpoint_fault, host_of, is_loopback, is_web_address
from subtitled.config.layout_limits import LayoutLimits, check_limits
from subtitled.config.model_choice import (
    ConfiguredModel,
    ModelChoiceError,
    choose_model,
    choose_translator,
    configured_models,
    kind_of,
)
from subtitled.config.model_files import fault_of, is_convertible, is_folder, is_translation_model
from subtitled.config.schema import Config, InboxConfig, ModelConfig, NamedModelConfig
from subtitled.config.toml_struct import ConfigFaults, shown
from subtitled.config.url_rules import is_host, parse_network
from subtitled.languages import is_audio_track, named_language, option_of, target_tag

SIZES = (
    "tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en", "large-v1", "large-v2", "large-v3",
    "large", "large-v3-turbo", "turbo", "distil-small.en", "distil-medium.en", "distil-large-v2", "distil-large-v3",
    "distil-large-v3.5",
)  # fmt: skip
"""Names of models on the hub that faster-whisper supports (`_MODELS` of faster_whisper/utils.py)."""

COMPUTE_TYPES = (
    "auto",
    "default",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
)
"""CTranslate2's `compute_type` values (its documentation, "Quantization")."""

# As _LANGUAGE_CODES of faster_whisper/tokenizer.py 1.2.1, which is not imported here because it takes a second.
LANGUAGES = tuple(
    """
    af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy
    id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa
    sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo zh yue
    """.split()  # noqa: SIM905 - as a list it would take a hundred lines
)
"""The language codes of Whisper."""

RAY_HOST = "ray"
"""The key name of the workers that Ray starts."""
RAY_REMEDY = "pip install 'subtitled[ray]'"
URL_REMEDY = "pip install 'subtitled[url]', or the package yt-dlp"
OPENCC_REMEDY = "pip install 'subtitled[zh]', or the package opencc-python-reimplemented"

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_DEVICE = re.compile(r"cpu|cuda:(\d{1,3}|(GPU|MIG)-[0-9a-zA-Z/-]+)")


def check(config: Config, faults: ConfigFaults) -> None:
    """Report the faults of `config` to `faults`; keys with a fault already are skipped."""
    _check_model(config, faults)
    _check_named_models(config, faults)
    _check_decoding(config, faults)
    _check_devices(config, faults)
    _check_times(config, faults)
    _check_inbox_values(config, faults)
    _check_inbox_folders(config, faults)
    _check_clients(config, faults)
    _check_sockets(config, faults)
    _check_remote(config, faults)
    _check_ray(config, faults)
    _check_uploads(config, faults)
    _check_url(config, faults)
    _check_http(config, faults)
    _check_hooks(config, faults)
    _check_state(config, faults)


def _check_model(config: Config, faults: ConfigFaults) -> None:
    name = config.model.name
    if not faults.is_faulty("model.name"):
        _check_source("model.name", name, faults)
    _check_weights("model", config.model, faults)


def _check_source(key: str, source: str, faults: ConfigFaults) -> None:
    if not source:
        faults.add(key, source, 'a Whisper size, a hub id, a CTranslate2 folder, or "demo"')
    elif is_folder(source):
        if (
            faults.checks_paths
            and not is_convertible(Path(source))
            and (why := fault_of(Path(source))) is not None
        ):
            faults.add(key, source, f"a folder with a CTranslate2 model: {why}")
    elif source.startswith("openai/whisper-"):
        near = difflib.get_close_matches(_size_in(source), SIZES, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        faults.add(
            key, source, f"a repository in CTranslate2 format; openai's are checkpoints of Transformers{hint}"
        )
    elif "/" not in source and source not in {"demo", *SIZES}:
        near = difflib.get_close_matches(_size_in(source), SIZES, n=1)
        remedy = f'did you mean "{near[0]}"?' if near else f"the sizes are {', '.join(SIZES)}"
        faults.add(key, source, f"a Whisper size, a hub id such as user/model, or a folder; {remedy}")


def _size_in(source: str) -> str:
    """Return a model's name without the words before its size: "base" for "whisper-base"."""
    return source.lower().removeprefix("openai/").removeprefix("faster-").removeprefix("whisper-")


def _check_weights(key: str, model: ModelConfig | NamedModelConfig, faults: ConfigFaults) -> None:
    if not re.fullmatch(r"([0-9a-f]{64})?", model.digest) and not faults.is_faulty(f"{key}.digest"):
        allowed = '"", or 64 hexadecimal digits, as `sha256sum model.bin` prints'
        faults.add(f"{key}.digest", model.digest, allowed)
    if model.compute_type not in COMPUTE_TYPES and not faults.is_faulty(f"{key}.compute_type"):
        faults.add(f"{key}.compute_type", model.compute_type, ", ".join(COMPUTE_TYPES))


def _check_named_models(config: Config, faults: ConfigFaults) -> None:
    names = {config.model.name: "model.name"}
    for index, model in enumerate(config.models):
        key = f"models[{index}]"
        if not faults.is_faulty(f"{key}.name"):
            if not _MODEL_NAME.fullmatch(model.name):
                allowed = "up to 64 letters, digits, and . _ - after the first character"
                faults.add(f"{key}.name", model.name, allowed)
            elif model.name in names:
                faults.add(f"{key}.name", model.name, f"must be unique; {names[model.name]} is the same")
            names.setdefault(model.name, f"{key}.name")
        kind = kind_of(model)
        if kind == "whisper" and not faults.is_faulty(f"{key}.source"):
            _check_source(f"{key}.source", model.source, faults)
        if kind != "whisper":
            _check_translator(key, model, faults)
        if kind != "openai" and model.endpoint and not faults.is_faulty(f"{key}.endpoint"):
            faults.add(f"{key}.endpoint", model.endpoint, f'"", or engine = "openai"; engine is "{kind}"')
        _check_weights(key, model, faults)
        unknown = [one for one in model.languages if not _LANGUAGE.fullmatch(option_of(one))]
        if unknown and not faults.is_faulty(f"{key}.languages"):
            faults.add(f"{key}.languages", unknown[0], 'language codes such as "de", "nan" or "hak"')
        if not model.devices and not faults.is_faulty(f"{key}.devices"):
            faults.add(f"{key}.devices", model.devices, '["*"], or worker slots such as "gpu0" and "cpu*"')
        slots = _slots_of(config)
        if slots and not any(fnmatchcase(slot, one) for slot in slots for one in model.devices):
            faults.add(
                f"{key}.devices", model.devices, f"a pattern of one of the worker slots {', '.join(slots)}"
            )


def _check_translator(key: str, model: NamedModelConfig, faults: ConfigFaults) -> None:
    """Check a model that translates text."""
    if model.tasks:
        faults.add(
            f"{key}.tasks", model.tasks, "[]: tasks are those of audio, and this model translates text"
        )
    for name in ("translate_from", "translate_to"):
        unknown = [one for one in getattr(model, name) if target_tag(one) is None]
        if unknown and not faults.is_faulty(f"{key}.{name}"):
            faults.add(f"{key}.{name}", unknown[0], 'languages such as "en", "zh-TW" or "Japanese"')
    if kind_of(model) == "openai":
        shown = re.sub(r"//[^/?#]*@|[?#].*", lambda found: "//…@" if "@" in found[0] else "…", model.endpoint)
        if not faults.is_faulty(f"{key}.endpoint") and (
            shown != model.endpoint or not is_web_address(model.endpoint)
        ):
            faults.add(
                f"{key}.endpoint",
                shown,
                'a URL such as "http://127.0.0.1:11434/v1" for engine = "openai", without a user, a query or a fragment;'
                " a key is in api_key_file",
            )
        if not model.endpoint_model:
            faults.add(f"{key}.endpoint_model", "", 'the model\'s name at the endpoint, such as "qwen3:8b"')
        if model.source:
            faults.add(f"{key}.source", model.source, '"" for engine = "openai"; the endpoint has the model')
        if model.preload:
            faults.add(f"{key}.preload", model.preload, '0 for engine = "openai"; no worker loads the model')
        _check_readable(f"{key}.api_key_file", model.api_key_file, faults)
    elif not model.source:
        faults.add(
            f"{key}.source", "", "a hub id, or the folder of a translation model in CTranslate2 format"
        )
    elif is_folder(model.source) and faults.checks_paths and not is_convertible(Path(model.source)):
        why = fault_of(Path(model.source))
        if why is None and not is_translation_model(model.source):
            why = "its model transcribes and does not translate text"
        if why is not None:
            faults.add(f"{key}.source", model.source, f"a folder with a translation model: {why}")


def _slots_of(config: Config) -> list[str]:
    """Return the worker slots of pool.devices; empty if they are not known before the start."""
    devices = config.pool.devices
    if isinstance(devices, str) or allows_remote_workers(config):
        return []
    cpus = sum(device == "cpu" for device in devices)
    gpus = [device.removeprefix("cuda:") for device in devices if device != "cpu"]
    if not all(gpu.isdecimal() for gpu in gpus):
        return []
    return [*(f"gpu{gpu}" for gpu in gpus), *(f"cpu{number}" for number in range(cpus))]


def _check_decoding(config: Config, faults: ConfigFaults) -> None:
    temperatures = config.decoding.temperatures
    is_rising = list(temperatures) == sorted(set(temperatures))
    if not (temperatures[:1] == (0.0,) and is_rising) and not faults.is_faulty("decoding.temperatures"):
        faults.add(
            "decoding.temperatures",
            temperatures,
            "must be a rising list that starts with 0.0; [0.0] has no fallback",
        )


def _check_devices(config: Config, faults: ConfigFaults) -> None:
    devices = config.pool.devices
    if devices == "auto" or faults.is_faulty("pool.devices"):
        return
    names = (devices,) if isinstance(devices, str) else devices
    if (not names and not allows_remote_workers(config)) or not all(
        _DEVICE.fullmatch(name) for name in names
    ):
        allowed = (
            '"auto", or a list of "cpu", "cuda:N", "cuda:GPU-uuid" or "cuda:MIG-uuid", one for each worker;'
            " [] only if workers on other hosts may connect (remote.listen)"
        )
        faults.add("pool.devices", devices, allowed)
    gpus = [name for name in names if name != "cpu"]
    if len(gpus) != len(set(gpus)):
        faults.add("pool.devices", devices, "list each GPU once: one worker uses it fully")


def _check_times(config: Config, faults: ConfigFaults) -> None:
    recovery, segments = config.recovery, config.segments
    if recovery.silence_s < 3 * recovery.heartbeat_s and not faults.is_faulty(
        "recovery.silence_s", "recovery.heartbeat_s"
    ):
        allowed = (
            f"at least 3 x recovery.heartbeat_s ({recovery.heartbeat_s}), else healthy workers are killed"
        )
        faults.add("recovery.silence_s", recovery.silence_s, allowed)
    if segments.min_speech_ms >= 1000 * segments.max_segment_s and not faults.is_faulty(
        "segments.min_speech_ms", "segments.max_segment_s"
    ):
        allowed = f"less than segments.max_segment_s ({segments.max_segment_s} s), else all speech is skipped"
        faults.add("segments.min_speech_ms", segments.min_speech_ms, allowed)


def _check_inbox_values(config: Config, faults: ConfigFaults) -> None:
    models = configured_models(config)
    for index, inbox in enumerate(config.inbox):
        key = f"inbox[{index}]"
        if not inbox.formats:
            faults.add(f"{key}.formats", inbox.formats, "at least one format")
        if inbox.karaoke and not (inbox.word_timestamps is True and "ass" in inbox.formats):
            allowed = 'false, unless word_timestamps = true and "ass" is among the formats'
            faults.add(f"{key}.karaoke", inbox.karaoke, allowed)
        if lacks_opencc(inbox.chinese):
            faults.add(f"{key}.chinese", inbox.chinese, f'"off", until OpenCC is installed: {OPENCC_REMEDY}')
        if not is_audio_track(inbox.audio_track) and not faults.is_faulty(f"{key}.audio_track"):
            allowed = 'the number of a track, from 1 to 1000, a language such as "en", or "auto"'
            faults.add(f"{key}.audio_track", inbox.audio_track, allowed)
        language = option_of(inbox.language)
        known = {"auto", "multi", *LANGUAGES, *(code for model in models for code in model.languages)}
        if language not in known and not faults.is_faulty(f"{key}.language"):
            allowed = f'"auto", "multi" (several languages in one file), or one of {" ".join(LANGUAGES)}'
            faults.add(f"{key}.language", inbox.language, allowed)
        _check_inbox_model(key, inbox, models, faults)
        if len(set(inbox.tasks)) < len(inbox.tasks):
            faults.add(f"{key}.tasks", inbox.tasks, "each task once")
        _check_inbox_translations(key, inbox, models, faults)
        _check_layout(key, inbox, faults)


def _check_inbox_model(
    key: str, inbox: InboxConfig, models: Sequence[ConfiguredModel], faults: ConfigFaults
) -> None:
    names = {model.name: model for model in models}
    if inbox.model and inbox.model not in names:
        near = difflib.get_close_matches(inbox.model, names, n=1)
        remedy = f'; did you mean "{near[0]}"?' if near else ""
        faults.add(f"{key}.model", inbox.model, f'"", or one of {", ".join(names)}{remedy}')
        return
    tasks = inbox.tasks or (inbox.task,)
    try:
        choose_model(models, wanted=inbox.model, tasks=tasks, language=option_of(inbox.language))
    except ModelChoiceError:
        cannot = f'since {inbox.model or models[0].name} cannot translate; "large-v3" and "medium" can'
        if inbox.task == "translate":
            faults.add(f"{key}.task", inbox.task, f'"transcribe", {cannot}')
        if "translate" in inbox.tasks:
            faults.add(f"{key}.tasks", inbox.tasks, f"[], {cannot}")


def _check_inbox_translations(
    key: str,
    inbox: InboxConfig,
    models: Sequence[ConfiguredModel],
    faults: ConfigFaults,
) -> None:
    source = named_language(option_of(inbox.language))
    for name in inbox.translate_to if not faults.is_faulty(f"{key}.translate_to") else ():
        if (target := target_tag(name)) is None:
            faults.add(f"{key}.translate_to", name, 'languages such as "en", "zh-TW" or "Japanese"')
            return
        try:
            choose_translator(models, wanted=inbox.translate_model, source=source, target=target)
        except ModelChoiceError as error:
            faults.add(f"{key}.translate_to", name, f"a language that a model translates to: {error}")
            return
    _check_readable(f"{key}.glossary", inbox.glossary, faults)


def _check_readable(key: str, path: str, faults: ConfigFaults) -> None:
    """Check a file that is read later; "" is none."""
    if not path or faults.is_faulty(key) or not _is_absolute(key, path, faults):
        return
    if faults.checks_paths and not os.access(path, os.R_OK):
        faults.add(key, path, f"a file that user {os.geteuid()} can read")


def lacks_opencc(chinese: str) -> bool:
    """Return whether a choice of Chinese characters needs OpenCC, which is not installed; "auto" does without it."""
    return chinese not in {"auto", "off"} and find_spec("opencc") is None


def layout_of(inbox: InboxConfig) -> LayoutOptions:
    """Return the layout options of an inbox."""
    names = LayoutLimits.__struct_fields__
    limits = {name: value for name in names if (value := getattr(inbox, name)) != "auto"}
    return LayoutOptions(profile=inbox.profile, **limits)


def _check_layout(key: str, inbox: InboxConfig, faults: ConfigFaults) -> None:
    try:
        check_limits(layout_of(inbox))
    except ValueError as error:
        faults.add(f"{key}.profile", inbox.profile, f"its limits contradict each other: {error}")


def _check_inbox_folders(config: Config, faults: ConfigFaults) -> None:
    """Check that no inbox is in another, and no output in an inbox, which would process it as a source."""
    trees: dict[str, str] = {}
    for index, inbox in enumerate(config.inbox):
        key = f"inbox[{index}].path"
        if faults.is_faulty(key) or not _is_absolute(key, inbox.path, faults):
            continue
        tree = _resolved(inbox.path, faults)
        for other_key, other in trees.items():
            if _is_inside(tree, other) or _is_inside(other, tree):
                faults.add(
                    key, inbox.path, f"a folder neither the same as, in, nor around {other_key} ({other})"
                )
        trees[key] = tree
        if faults.checks_paths:
            _check_writable(key, inbox.path, faults)
    for index, inbox in enumerate(config.inbox):
        key = f"inbox[{index}].output"
        if inbox.output == "beside" or faults.is_faulty(key) or not _is_absolute(key, inbox.output, faults):
            continue
        _check_outside(key, inbox.output, trees, faults)
        if faults.checks_paths:
            _check_creatable(key, inbox.output, faults, depth=1)


def _check_sockets(config: Config, faults: ConfigFaults) -> None:
    endpoints = [(f"listen.clients[{i}]", endpoint) for i, endpoint in enumerate(config.listen.clients)]
    endpoints.append(("listen.workers", config.listen.workers))
    seen: dict[str, str] = {}
    for key, endpoint in endpoints:
        if faults.is_faulty(key):
            continue
        allowed = endpoint_fault(
            endpoint, is_for_clients=key != "listen.workers", has_keys=bool(config.client)
        )
        if allowed:
            faults.add(key, endpoint, allowed)
        elif endpoint in seen:
            faults.add(key, endpoint, f"must be unique; {seen[endpoint]} has the same endpoint")
        seen.setdefault(endpoint, key)
    metrics = config.listen.metrics
    if metrics and not faults.is_faulty("listen.metrics") and not host_of(metrics):
        faults.add("listen.metrics", metrics, '"" (off), or HOST:PORT such as "127.0.0.1:9477"')


def _check_hooks(config: Config, faults: ConfigFaults) -> None:
    for index, inbox in enumerate(config.inbox):
        for name, command in (("on_done", inbox.on_done), ("on_failed", inbox.on_failed)):
            key = f"inbox[{index}].{name}"
            if command and not command[0]:
                faults.add(key, command, "a program and its arguments, or [] for none")
            elif command and faults.checks_paths and shutil.which(command[0]) is None:
                faults.add(key, command, f"the first item must be a program that user {os.geteuid()} can run")
    hook = config.webhook
    if not faults.is_faulty("webhook.url") and hook.url and not is_web_address(hook.url):
        faults.add("webhook.url", hook.url, '"" (off), or a URL that starts with https:// or http://')
    if hook.secret_file and not faults.is_faulty("webhook.secret_file"):
        is_absolute = _is_absolute("webhook.secret_file", hook.secret_file, faults)
        if is_absolute and faults.checks_paths and not os.access(hook.secret_file, os.R_OK):
            allowed = f"a file that user {os.geteuid()} can read; its content is the secret"
            faults.add("webhook.secret_file", hook.secret_file, allowed)


def _check_clients(config: Config, faults: ConfigFaults) -> None:
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for index, client in enumerate(config.client):
        where = f"client[{index}]"
        if not faults.is_faulty(f"{where}.name"):
            if not KEY_NAME.fullmatch(client.name):
                faults.add(f"{where}.name", client.name, KEY_NAME_RULE)
            elif client.name in names:
                faults.add(
                    f"{where}.name", client.name, f"must be unique; {names[client.name]} has the same name"
                )
            names.setdefault(client.name, where)
        if not faults.is_faulty(f"{where}.key"):
            if not is_key(client.key):
                faults.add(f"{where}.key", client.key, "a public key, as `subtitled keys new NAME` prints it")
            elif client.key in owners:
                faults.add(
                    f"{where}.key", client.key, f"must be unique; {owners[client.key]} has the same key"
                )
            owners.setdefault(client.key, where)


def _check_uploads(config: Config, faults: ConfigFaults) -> None:
    uploads = config.uploads
    for index, path in enumerate(uploads.paths):
        _is_absolute(f"uploads.paths[{index}]", path, faults)
    if uploads.max_spool_mb < uploads.max_file_mb and not faults.is_faulty(
        "uploads.max_spool_mb", "uploads.max_file_mb"
    ):
        allowed = f"at least uploads.max_file_mb ({uploads.max_file_mb}), else the largest file never fits"
        faults.add("uploads.max_spool_mb", uploads.max_spool_mb, allowed)
    server_key = config.listen.server_key
    if server_key and not faults.is_faulty("listen.server_key"):
        _is_absolute("listen.server_key", server_key, faults)


def _check_url(config: Config, faults: ConfigFaults) -> None:
    for index, host in enumerate(config.url.allowed_hosts):
        if host != "*" and not is_host(host):
            faults.add(
                f"url.allowed_hosts[{index}]",
                host,
                'a host without scheme and port, such as "youtube.com", or "*"',
            )
    for index, network in enumerate(config.url.allowed_networks):
        if parse_network(network) is None:
            allowed = "a network such as 10.0.0.0/8 or fd00::/8, without bits beyond its prefix"
            faults.add(f"url.allowed_networks[{index}]", network, allowed)
    if config.url.allowed_hosts and find_spec("yt_dlp") is None and not faults.is_faulty("url.allowed_hosts"):
        faults.add(
            "url.allowed_hosts",
            list(config.url.allowed_hosts),
            f"[], until yt-dlp is installed: {URL_REMEDY}",
        )


def _check_http(config: Config, faults: ConfigFaults) -> None:
    http = config.http
    host = host_of(http.listen)
    if http.listen and not faults.is_faulty("http.listen"):
        if host is None:
            faults.add("http.listen", http.listen, '"" (off), or HOST:PORT with a port from 1 to 65535')
        elif not is_loopback(host) and not http.token_file:
            allowed = "only loopback (127.0.0.1, [::1]) without http.token_file"
            faults.add("http.listen", http.listen, allowed)
    names = {model.name for model in configured_models(config)}
    for i, alias in enumerate(http.models):
        _, separator, name = alias.partition("=")
        if separator and name not in names and not faults.is_faulty("http.models"):
            faults.add(f"http.models[{i}]", alias, f"NAME, or NAME=MODEL with one of {', '.join(names)}")
    for i, origin in enumerate(http.origins):
        if faults.is_faulty("http.origins"):
            break
        if origin == "*":
            if not http.token_file:
                faults.add(f"http.origins[{i}]", origin, '"*" only with http.token_file')
        elif not _ORIGIN.fullmatch(origin):
            faults.add(f"http.origins[{i}]", origin, '"*", or SCHEME://HOST[:PORT] without a path')
    if http.server and not faults.is_faulty("http.server"):
        wanted = endpoint_fault(http.server, is_for_clients=True, has_keys=True)
        if wanted is not None:
            faults.add("http.server", http.server, wanted)
    for name, path in (("http.token_file", http.token_file), ("http.key", http.key)):
        if path and not faults.is_faulty(name):
            is_absolute = _is_absolute(name, path, faults)
            if is_absolute and faults.checks_paths and http.listen and not os.access(path, os.R_OK):
                faults.add(name, path, f"a file that user {os.geteuid()} can read")


def _check_state(config: Config, faults: ConfigFaults) -> None:
    folder = config.state.dir
    if faults.is_faulty("state.dir") or not _is_absolute("state.dir", folder, faults):
        return
    trees = {f"inbox[{i}].path": _resolved(x.path, faults) for i, x in enumerate(config.inbox)}
    _check_outside("state.dir", folder, trees, faults)
    if faults.checks_paths:
        _check_creatable("state.dir", folder, faults, depth=None)


def _is_absolute(key: str, path: str, faults: ConfigFaults) -> bool:
    if Path(path).is_absolute():
        return True
    faults.add(key, path, "must be an absolute path, such as /srv/subtitled/inbox")
    return False


def _resolved(path: str, faults: ConfigFaults) -> str:
    """Give `path` as it is to be compared: without links where the file system may be looked at."""
    return os.path.realpath(path) if faults.checks_paths else os.path.normpath(path)


def _is_inside(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _check_outside(key: str, path: str, trees: dict[str, str], faults: ConfigFaults) -> None:
    for other_key, tree in trees.items():
        if _is_inside(_resolved(path, faults), tree):
            remedy = 'a folder outside it, or "beside"' if key.endswith(".output") else "a folder outside it"
            faults.add(key, path, f"{remedy}; {other_key} ({tree}) is watched with its sub-folders")


def _check_writable(key: str, path: str, faults: ConfigFaults) -> None:
    """Check that `path` is a folder in which this process may create files."""
    if not os.path.lexists(path):
        faults.add(key, path, f"the folder does not exist; create it: mkdir -p {shown(path)}")
    elif not Path(path).is_dir():
        faults.add(key, path, "must be a folder")
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        faults.add(
            key, path, f"user {os.geteuid()} cannot read and write this folder; change its owner or mode"
        )


def _check_creatable(key: str, path: str, faults: ConfigFaults, *, depth: int | None) -> None:
    """Check that `path` is writable, or can be created with at most `depth` new folders (any number if None)."""
    missing = 0
    folder = Path(os.path.normpath(path))
    while not os.path.lexists(folder):
        folder, missing = folder.parent, missing + 1
    if depth is not None and missing > depth:
        parent = str(Path(os.path.normpath(path)).parent)
        faults.add(key, path, f"its parent does not exist; create it: mkdir -p {shown(parent)}")
    elif not missing:
        _check_writable(key, path, faults)
    elif not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        faults.add(
            key,
            path,
            f"the folder cannot be created: user {os.geteuid()} cannot write in {shown(str(folder))}",
        )


def allows_remote_workers(config: Config) -> bool:
    """Return whether transcribe workers on other hosts may connect."""
    return bool(config.remote.listen)


def _check_remote(config: Config, faults: ConfigFaults) -> None:
    listen = config.remote.listen
    if listen and not faults.is_faulty("remote.listen"):
        scheme, _, address = listen.partition("://")
        if scheme != "tcp" or host_of(address) is None:
            faults.add("remote.listen", listen, '"" (off), or tcp://HOST:PORT with a port from 1 to 65535')
        elif listen in (*config.listen.clients, config.listen.workers):
            faults.add("remote.listen", listen, "must be unique; [listen] has the same endpoint")
    owners: dict[str, str] = {}
    for name, key in config.remote.keys.items():
        value = {name: key}
        if not KEY_NAME.fullmatch(name):
            faults.add("remote.keys", value, f"for a name, {KEY_NAME_RULE}")
        if not is_key(key):
            faults.add("remote.keys", value, "a public key, as `subtitled keys new NAME --worker` prints it")
        elif key in owners:
            faults.add("remote.keys", value, f"must be unique; {owners[key]} has the same key")
        owners.setdefault(key, name)


def _check_ray(config: Config, faults: ConfigFaults) -> None:
    ray = config.ray
    if ray.min_workers > ray.max_workers and not faults.is_faulty("ray.min_workers", "ray.max_workers"):
        faults.add("ray.min_workers", ray.min_workers, f"at most ray.max_workers ({ray.max_workers})")
    endpoint = ray.endpoint
    if endpoint and not faults.is_faulty("ray.endpoint"):
        scheme, _, address = endpoint.partition("://")
        if scheme != "tcp" or host_of(address) is None:
            faults.add("ray.endpoint", endpoint, '"", or tcp://HOST:PORT with a port from 1 to 65535')
    if config.pool.engine != "ray" or faults.is_faulty("pool.engine"):
        return
    if find_spec("ray") is None:
        faults.add("pool.engine", "ray", f'"local", until Ray is installed: {RAY_REMEDY}')
    if RAY_HOST in config.remote.keys and not faults.is_faulty("remote.keys"):
        faults.add("remote.keys", {RAY_HOST: "…"}, "reserved for Ray's workers; choose another name")
    if not any(end.startswith("ipc:") for end in config.listen.clients) and not faults.is_faulty(
        "listen.clients"
    ):
        faults.add(
            "listen.clients", config.listen.clients, 'must contain an ipc://PATH if pool.engine is "ray"'
        )
    if not config.remote.listen and not faults.is_faulty("remote.listen"):
        faults.add(
            "remote.listen", "", 'must be a tcp://HOST:PORT that workers can reach if pool.engine is "ray"'
        )
