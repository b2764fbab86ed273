"""Which addresses may be downloaded: schemes, hosts and networks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import SplitResult, quote, urlsplit

from subtitled.errors import SubtitledError

MAX_URL_CHARS = 2048
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_RESERVED = tuple(
    map(
        ipaddress.ip_network,
        ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "fec0::/10"),
    )
)
"""Networks that Python, or some of its releases, call global: metadata of Azure and Oracle, 6to4 relays, local NAT64, site-local."""
_ISATAP = (bytes.fromhex("00005efe"), bytes.fromhex("02005efe"))
"""Bytes before the IPv4 address at the end of an IPv6 one, in any network (RFC 5214)."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class UrlError(SubtitledError):
    """An address that may not be downloaded; the text contains the remedy."""


def check_url(url: str, allowed_hosts: Iterable[str]) -> str:
    """Return `url` with its host in ASCII and without its fragment; raises UrlError."""
    if len(url) > MAX_URL_CHARS:
        raise UrlError(f"the URL has {len(url)} characters; the limit is {MAX_URL_CHARS}")
    if re.search(r"[\x00-\x20\x7f\\\\]", url):
        raise UrlError(
            f"URL {_shown(url)!r} contains a space, a control character or a backslash; encode it as %XX"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UrlError(f"URL {_shown(url)!r} is invalid: {error}") from None
    if parts.scheme.lower() not in {"http", "https"}:
        raise UrlError(
            f"URL {_shown(url)!r}: the scheme {parts.scheme[:20]!r} is not supported; use https:// or http://"
        )
    if "@" in parts.netloc:
        raise UrlError(
            f"URL {_shown(url)!r} contains a user name or password, which would be stored and logged; submit it without"
        )
    host = _ascii_host(parts, url)
    if not is_allowed_host(host, allowed_hosts):
        allowed = ", ".join(allowed_hosts)
        raise UrlError(
            f"URL {_shown(url)!r}: the host {host!r} is not allowed; "
            + (
                f"url.allowed_hosts on the server: {allowed}"
                if allowed
                else "the server accepts no URLs (url.allowed_hosts)"
            )
        )
    netloc = f"[{host}]" if ":" in host else host
    netloc += f":{port}" if port is not None else ""
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~?[]")
    return SplitResult(parts.scheme.lower(), netloc, path or "/", query, "").geturl()


def _ascii_host(parts: SplitResult, url: str) -> str:
    """Return the host in lower case, as ASCII; raises UrlError for one that is ambiguous."""
    host = (parts.hostname or "").rstrip(".")
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise UrlError(f"URL {_shown(url)!r}: {host!r} is not an IPv6 address") from None
    try:
        host = host.encode("idna").decode("ascii").lower() if not host.isascii() else host.lower()
    except UnicodeError:
        raise UrlError(f"URL {_shown(url)!r}: the host {host[:100]!r} is not a host name") from None
    # 2130706433, 0x7f.1 and 127.1 are addresses to a resolver, which a reader and a list of hosts do not recognize.
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise UrlError(
                f"URL {_shown(url)!r}: {host!r} is not an IPv4 address; write four decimal numbers without leading zeros"
            ) from None
    if not is_host(host):
        raise UrlError(f"URL {_shown(url)!r}: the host {host[:100]!r} is not a host name")
    return host


def is_host(host: str) -> bool:
    """Return whether `host` is a host name in lower case, or an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split("."))
    return True


def is_allowed_host(host: str, allowed: Iterable[str]) -> bool:
    """Return whether a host, or a domain that it belongs to, is in the list; "*" allows all."""
    return any(one in {"*", host} or (not is_address(host) and host.endswith(f".{one}")) for one in allowed)


def is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_network(text: str) -> Network | None:
    """Return a network; None if it is invalid."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def is_allowed_address(text: str, networks: Iterable[Network]) -> bool:
    """Return whether an IP address may be connected to: a public one, or one in `networks`.

    An IPv6 address that stands for an IPv4 address (mapped, 6to4, NAT64) is allowed if that one is; one that contains it
    besides its network (ISATAP), if both are. An invalid address is not allowed.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    embedded = _embedded(address)
    if embedded is not None:
        return is_allowed_address(str(embedded), networks)
    if address.packed[-8:-4] in _ISATAP:
        inner = ipaddress.IPv4Address(address.packed[-4:])
        if not is_allowed_address(str(inner), networks):
            return False
    if any(address in network for network in networks):
        return True
    if any(address in network for network in _RESERVED):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64 or (address.packed[:12] == bytes(12) and int(address) > 1):
        return ipaddress.IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def without_queries(text: str) -> str:
    """Return a text in which the URLs have no query, which may be a secret, such as the signature of a link."""
    return re.sub(r"""(https?://[^\s?#'"<>]*)\?[^\s'"<>]*""", r"\1?…", text, flags=re.IGNORECASE)


def _shown(url: str) -> str:
    """Return a URL for a message, without a password or query."""
    plain, mark, _ = re.sub(r"//[^/?#]*@", "//…@", url).partition("?")
    return f"{plain[:200]}{'?…' if mark else ''}"
