"""The settings of the autoscaler process: JSON on its standard input, since they have a secret key."""

from __future__ import annotations

from msgspec import Struct

from subtitle.keys import Key
from subtitled.config.addresses import host_of, is_wildcard
from subtitled.config.schema import Config, RayConfig


class RaySettings(Struct, frozen=True, kw_only=True):
    """The autoscaler's settings; equal ones need no restart."""

    ray: RayConfig
    daemon: str
    """The daemon's local socket for clients."""
    listen: str
    """remote.listen."""
    key: Key
    """Key of its workers."""
    stop_timeout_s: float
    log_level: str
    log_format: str


def settings_of(config: Config, key: Key) -> RaySettings:
    """Return the settings for a configuration with pool.engine = "ray"."""
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


def endpoint_of(settings: RaySettings, own_address: str) -> str:
    """Return the daemon's endpoint for workers on other machines; `own_address`: this machine's in the cluster."""
    if settings.ray.endpoint:
        return settings.ray.endpoint
    host, port = host_of(settings.listen.removeprefix("tcp://")), settings.listen.rpartition(":")[2]
    if host is not None and not is_wildcard(host):
        return settings.listen
    own = f"[{own_address}]" if ":" in own_address else own_address
    return f"tcp://{own}:{port}"
