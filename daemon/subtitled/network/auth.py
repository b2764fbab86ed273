"""Clients by their keys and what each may see; the server's own key."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import zmq
from msgspec import Struct
from zmq.auth.thread import ThreadAuthenticator

from subtitle.keys import is_key, new_pair
from subtitled.config import schema
from subtitled.errors import SubtitledError

ZAP_DOMAIN = "subtitled"
"""ZAP domain (ZeroMQ RFC 27) of the sockets whose clients need a key."""

P = TypeVar("P")


class Principal(Struct, frozen=True, kw_only=True):
    """An authenticated client."""

    name: str = ""
    """Name of its key; empty on a socket without keys."""
    role: Literal["user", "admin"] = "admin"
    is_local: bool = False
    """It uses the local socket, whose access the file system controls."""

    def may_see(self, owner: str) -> bool:
        """Return whether it may see jobs of this owner."""
        return self.role == "admin" or owner == self.name

    @property
    def only_owner(self) -> str | None:
        """The owner whose jobs it may see; None for all."""
        return None if self.role == "admin" else self.name


def principals(clients: Iterable[schema.ClientConfig]) -> dict[str, Principal]:
    """Return the configured clients by their public keys."""
    return {client.key: Principal(name=client.name, role=client.role) for client in clients}


class AllowList(Generic[P]):
    """The allowed keys and their principals; `callback` runs in the authenticator's thread, the rest in the loop's."""

    def __init__(self, known: Mapping[str, P], *, on_refused: Callable[[str], None]) -> None:
        """`on_refused` is called in the authenticator's thread with each unknown key."""
        self._on_refused = on_refused
        self._known = dict(known)

    def replace(self, known: Mapping[str, P]) -> None:
        """Replace the list, also for connected clients."""
        self._known = dict(known)

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether to accept a connection with this public key (Z85); called by pyzmq."""
        del domain
        text = key.decode("ascii", "replace")
        if text in self._known:
            return True
        self._on_refused(text)
        return False

    def find(self, key: object) -> P | None:
        """Return the principal of a key; None for a key that is not on the list."""
        return self._known.get(key) if isinstance(key, str) else None

    def find_sender(self, frame: zmq.Frame) -> P | None:
        """Return the sender of a frame on a socket with keys; None for a key that was removed from the list."""
        try:
            return self.find(frame.get("User-Id"))
        except zmq.ZMQError:
            return None

    def still_has(self, principal: P) -> bool:
        """Return whether a principal is still on the list, unchanged."""
        return principal in self._known.values()


class Authenticator:
    """The thread that checks keys for all sockets of a ZeroMQ context."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context = context
        self._thread: ThreadAuthenticator | None = None

    def allow(self, domain: str, allowed: AllowList[Any]) -> None:
        """Accept a list's keys on the sockets of a domain.

        To be called before these are bound: without an authenticator ZeroMQ accepts every client.
        """
        if self._thread is None:
            self._thread = ThreadAuthenticator(self._context)
            self._thread.start()
        self._thread.configure_curve_callback(domain=domain, credentials_provider=allowed)

    def stop(self) -> None:
        """Stop the thread; to be called before the context is terminated. May be repeated."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None


class ServerKey(Struct, frozen=True, kw_only=True):
    """The server's own key pair (Z85)."""

    public: str
    secret: str

    def __repr__(self) -> str:
        """Leave out the secret, for logs and tracebacks."""
        return f"ServerKey(public={self.public!r})"


def server_key_path(found: schema.Config) -> Path:
    """Return the path of the server's own key."""
    return Path(found.listen.server_key or Path(found.state.dir, "server.key"))


def server_key(path: Path) -> ServerKey:
    """Return the server's key; a missing file is created, owned by the owner of its folder. Raises SubtitledError."""
    try:
        if not path.exists():
            _create_server_key(path)
        mode = path.stat().st_mode & 0o077
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SubtitledError(f"the server's key {path}: {error.strerror}; see listen.server_key") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SubtitledError(
            f"the server's key {path}: invalid TOML: {error}; restore it from a backup"
        ) from error
    if mode:
        raise SubtitledError(f"the server's key {path}: readable by other users; type: chmod 600 {path}")
    public, secret = table.get("public"), table.get("secret")
    if not (isinstance(public, str) and isinstance(secret, str) and is_key(public) and is_key(secret)):
        raise SubtitledError(f"the server's key {path}: no key pair in it; restore it from a backup")
    return ServerKey(public=public, secret=secret)


def _create_server_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    public, secret = new_pair()
    text = (
        "# The key of this subtitled server. Clients verify its public half: with another key they refuse to connect.\n"
        f'public = "{public}"\nsecret = "{secret}"\n'
    )
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _create(folder, path.name, text.encode())
    finally:
        os.close(folder)


def _create(folder: int, name: str, content: bytes) -> None:
    """Create a file for the folder's owner alone, whole or not at all; a file that exists is kept.

    Root may do this in a folder of another user, who may replace any name in it at any moment. So the file has no name
    before it is complete, and its owner is set on the descriptor.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC
    draft = f".{secrets.token_hex(16)}"
    try:
        file = os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=folder)
        is_named = False
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            raise
        file = os.open(draft, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        is_named = True
    with os.fdopen(file, "wb") as target:
        target.write(content)
        target.flush()
        if os.geteuid() == 0:
            owner = os.fstat(folder)
            os.fchown(target.fileno(), owner.st_uid, owner.st_gid)
        os.fsync(target.fileno())
        with contextlib.suppress(FileExistsError):
            # A path through /proc names this very file, also after its name was replaced.
            os.link(f"/proc/self/fd/{target.fileno()}", name, dst_dir_fd=folder, follow_symlinks=True)
        if is_named:
            os.unlink(draft, dir_fd=folder)
