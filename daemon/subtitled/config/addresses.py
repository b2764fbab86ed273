"""Validation of addresses of sockets and web servers."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")

MAX_SOCKET_PATH_BYTES = 107
"""sun_path of unix(7) holds 108 bytes, the last of them NUL."""


def is_web_address(url: str) -> bool:
    """Return whether `url` starts with https:// or http:// and has a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        return False


def endpoint_fault(endpoint: str, *, is_for_clients: bool, has_keys: bool) -> str | None:
    """Return what is allowed instead of `endpoint`; None if it is valid."""
    scheme, _, address = endpoint.partition("://")
    match scheme:
        case "ipc" if address.startswith("/"):
            size = len(address.encode())
            if size > MAX_SOCKET_PATH_BYTES:
                return f"a path of at most {MAX_SOCKET_PATH_BYTES} bytes (this one has {size}); choose a shorter folder"
            return None
        case "tcp":
            host = host_of(address)
            if host is None:
                return "tcp://HOST:PORT with a port from 1 to 65535"
            if is_loopback(host):
                return None
            if not is_for_clients:
                return "tcp:// only on loopback (127.0.0.1, [::1]): workers run on this machine and have no CURVE keys"
            if not has_keys:
                return (
                    "tcp:// only on loopback (127.0.0.1, [::1]) without a [[client]] with a CURVE key: "
                    "`subtitled keys new NAME` creates one"
                )
            return None
        case _:
            return "ipc:///absolute/path or tcp://127.0.0.1:PORT"


def host_of(address: str) -> str | None:
    """Return the host of HOST:PORT; None if it is invalid."""
    match = _HOST_PORT.fullmatch(address)
    return match[1] if match and 1 <= int(match[2]) <= 65_535 else None


def is_wildcard(host: str) -> bool:
    """Return whether `host` is a wildcard address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Return whether `host` is a loopback address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
