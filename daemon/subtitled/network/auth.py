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
"""The sockets whose clients must show a key (ZeroMQ RFC 27)."""

W = TypeVar("W")


class Principal(Struct, frozen=True, kw_only=True):
    """A client that may speak."""

    name: str = ""
    """Name of its key; empty where none is asked for."""
    role: Literal["user", "admin"] = "admin"
    is_local: bool = False
    """It came in by the local socket, which the file system guards."""

    def may_see(self, owner: str) -> bool:
        """Say whether jobs of this owner exist for it."""
        return self.role == "admin" or owner == self.name

    @property
    def only(self) -> str | None:
        """The one owner whose jobs it sees; None for all."""
        return None if self.role == "admin" else self.name


def whos(clients: Iterable[schema.ClientConfig]) -> dict[str, Principal]:
    """Return who the configuration's clients are, by their keys."""
    return {client.key: Principal(name=client.name, role=client.role) for client in clients}


class AllowList(Generic[W]):
    """The keys that may speak, and whose they are; `callback` is called in the authenticator's thread, the rest in the loop's."""

    def __init__(self, known: Mapping[str, W], *, refused: Callable[[str], None]) -> None:
        """`refused` is called, in the authenticator's thread, with the key of each connection that shows another."""
        self._refused = refused
        self._known = dict(known)

    def replace(self, known: Mapping[str, W]) -> None:
        """Put another list into force, also for those who are connected."""
        self._known = dict(known)

    def callback(self, domain: str, key: bytes) -> bool:
        """Say whether a connection with this public key (in Z85) is let in; pyzmq calls it."""
        del domain
        text = key.decode("ascii", "replace")
        if text in self._known:
            return True
        self._refused(text)
        return False

    def find(self, key: object) -> W | None:
        """Return whose key this is; None when it is no longer on the list."""
        return self._known.get(key) if isinstance(key, str) else None

    def find_sender(self, frame: zmq.Frame) -> W | None:
        """Return who has sent a frame by a door that asks for keys; None for whose key is no longer on the list."""
        try:
            return self.find(frame.get("User-Id"))
        except zmq.ZMQError:
            return None

    def still_has(self, who: W) -> bool:
        """Say whether a client that came in by a key is on the list as it was then."""
        return who in self._known.values()


class Authenticator:
    """The one thread that ZeroMQ asks about the keys of a context's sockets."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Make it; it has no thread before the first list."""
        self._context = context
        self._thread: ThreadAuthenticator | None = None

    def admit(self, domain: str, allowed: AllowList[Any]) -> None:
        """Let the keys of a list in by the sockets of a domain; before these are bound: ZeroMQ lets everybody in where nobody asks."""
        if self._thread is None:
            self._thread = ThreadAuthenticator(self._context)
            self._thread.start()
        self._thread.configure_curve_callback(domain=domain, credentials_provider=allowed)

    def stop(self) -> None:
        """End the thread, before the context ends; may be repeated."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None


class ServerKey(Struct, frozen=True, kw_only=True):
    """The server's own key pair, in Z85."""

    public: str
    secret: str

    def __repr__(self) -> str:
        """Keep the secret out of logs and tracebacks."""
        return f"ServerKey(public={self.public!r})"


def server_key_path(found: schema.Config) -> Path:
    """Return the file of the server's own key."""
    return Path(found.listen.server_key or Path(found.state.dir, "server.key"))


def server_key(path: Path) -> ServerKey:
    """Return the server's key, making it where there is none; it then belongs to the owner of its folder.

    Raises SubtitledError for a file that cannot be used.
    """
    try:
        if not path.exists():
            _make(path)
        mode = path.stat().st_mode & 0o077
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SubtitledError(f"the server's key {path}: {error.strerror}; see listen.server_key") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SubtitledError(
            f"the server's key {path}: not TOML: {error}; restore it from a backup"
        ) from error
    if mode:
        raise SubtitledError(f"the server's key {path}: others may read it; type: chmod 600 {path}")
    public, secret = table.get("public"), table.get("secret")
    if not (isinstance(public, str) and isinstance(secret, str) and is_key(public) and is_key(secret)):
        raise SubtitledError(f"the server's key {path}: holds no key pair; restore it from a backup")
    return ServerKey(public=public, secret=secret)


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    public, secret = new_pair()
    text = (
        "# The key of this subtitled server. Clients know its public half: with another one they will not speak to it.\n"
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
