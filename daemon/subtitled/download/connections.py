"""Checks of the addresses that this process connects to."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any, NoReturn

from subtitled.config.url_rules import Network, is_allowed_address, is_host

_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex


class AddressRefusedError(OSError):
    """A connection to an address that is not allowed."""


class CheckedConnections:
    """Makes all sockets of this process refuse addresses that are not allowed.

    The address that was checked is the one that is connected to: there is no second lookup of its name which could have
    another result. So redirects and names that change their address reach no other machine.
    """

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self.refused = ""
        """The last refusal, for the error of the download; libraries wrap it in texts of their own."""

    def install(self) -> None:
        """Check all further connections."""
        check = self.check

        def connect(self: socket.socket, address: Any) -> None:
            check(self.family, address)
            _connect(self, address)

        def connect_ex(self: socket.socket, address: Any) -> int:
            check(self.family, address)
            return _connect_ex(self, address)

        def refuse(self: socket.socket, *_: Any) -> NoReturn:
            raise AddressRefusedError(f"{self.family.name}: datagrams are not allowed in a download")

        socket.socket.connect = connect  # type: ignore[method-assign, assignment]
        socket.socket.connect_ex = connect_ex  # type: ignore[method-assign, assignment]
        socket.socket.sendto = refuse  # type: ignore[method-assign, assignment]
        socket.socket.sendmsg = refuse  # type: ignore[method-assign, assignment]

    def check(self, family: int, address: Any) -> None:
        """Raise AddressRefusedError unless an address may be connected to: an IP address, not a name."""
        host = address[0] if isinstance(address, tuple) and address else ""
        if family in {socket.AF_INET, socket.AF_INET6} and is_allowed_address(str(host), self._networks):
            return
        shown = repr(host) if isinstance(host, str) and is_host(host.partition("%")[0]) else "this address"
        self.refused = (
            f"the address {shown} is not public; downloads connect to public addresses and to"
            " url.allowed_networks of the server only"
        )
        raise AddressRefusedError(self.refused)
