"""What a configuration's values must be where workers run on other hosts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from subtitle.keys import KEY_NAME, KEY_NAME_RULE, is_key
from subtitled.config.addresses import host_of

if TYPE_CHECKING:
    from subtitled.config.schema import Config
    from subtitled.config.toml_struct import Faults

RAY_HOST = "ray"
"""The name of the key that workers have which Ray has placed."""
RAY_REMEDY = "pip install 'subtitled[ray]'"


def takes_others(config: Config) -> bool:
    """Say whether transcribe workers may come from other hosts."""
    return bool(config.remote.listen)


def check_cluster(config: Config, faults: Faults) -> None:
    """Add to `faults` what is wrong in [remote] and [ray]; keys already faulty are passed over."""
    _check_remote(config, faults)
    _check_ray(config, faults)


def _check_remote(config: Config, faults: Faults) -> None:
    listen = config.remote.listen
    if listen and not faults.is_faulty("remote.listen"):
        scheme, _, address = listen.partition("://")
        if scheme != "tcp" or host_of(address) is None:
            faults.add("remote.listen", listen, '"" (off), or tcp://HOST:PORT with a port from 1 to 65535')
        elif listen in (*config.listen.clients, config.listen.workers):
            faults.add("remote.listen", listen, "an endpoint of its own; this one is in [listen] too")
    owners: dict[str, str] = {}
    for name, key in config.remote.keys.items():
        got = {name: key}
        if not KEY_NAME.fullmatch(name):
            faults.add("remote.keys", got, f"for a name, {KEY_NAME_RULE}")
        if not is_key(key):
            faults.add("remote.keys", got, "a public key, as `subtitled keys new NAME --worker` prints it")
        elif key in owners:
            faults.add("remote.keys", got, f"a key of its own; this one is {owners[key]}'s too")
        owners.setdefault(key, name)


def _check_ray(config: Config, faults: Faults) -> None:
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
        faults.add("remote.keys", {RAY_HOST: "…"}, "another name: Ray's workers have this one")
    if not any(end.startswith("ipc:") for end in config.listen.clients) and not faults.is_faulty(
        "listen.clients"
    ):
        faults.add(
            "listen.clients", config.listen.clients, 'one that is ipc://PATH, while pool.engine is "ray"'
        )
    if not config.remote.listen and not faults.is_faulty("remote.listen"):
        faults.add(
            "remote.listen", "", 'tcp://HOST:PORT, which its workers reach, while pool.engine is "ray"'
        )
