"""What the daemon sends the process that speaks with RayConfig for: as JSON on its standard input, since it holds a secret key."""

from __future__ import annotations

from msgspec import Struct

from subtitle.keys import Key
from subtitled.config.addresses import host_of, is_wildcard
from subtitled.config.schema import Config, RayConfig


class RaySettings(Struct, frozen=True, kw_only=True):
    """All that it needs to know. Two that are equal ask for the same."""

    ray: RayConfig
    daemon: str
    """The daemon's local socket, where it is a client as others are."""
    listen: str
    """remote.listen."""
    key: Key
    """With which its workers join."""
    stop_timeout_s: float
    log_level: str
    log_format: str


def errand_of(config: Config, key: Key) -> RaySettings:
    """Return what there is to be done by a configuration whose pool.engine is "ray"."""
    local = [end for end in config.listen.clients if end.startswith("ipc:")]
    return RaySettings(
        ray=config.ray,
        daemon=local[0],
        listen=config.remote.listen,
        key=key,
        stop_timeout_s=config.recovery.stop_timeout_s,
        log_level=config.log.level,
        log_format=config.log.format,
    )


def endpoint_of(errand: RaySettings, own_address: str) -> str:
    """Return where workers on other machines reach the daemon; `own_address`: of this one, as the cluster knows it."""
    if errand.ray.endpoint:
        return errand.ray.endpoint
    host, port = host_of(errand.listen.removeprefix("tcp://")), errand.listen.rpartition(":")[2]
    if host is not None and not is_wildcard(host):
        return errand.listen
    own = f"[{own_address}]" if ":" in own_address else own_address
    return f"tcp://{own}:{port}"
