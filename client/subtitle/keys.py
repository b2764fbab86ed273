"""CURVE keys in files: the identity of a client, and the server that it trusts."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path

import msgspec
import zmq
import zmq.utils.z85
from msgspec import Struct

from subtitle.errors import KeyFileError

KEY_VARIABLE = "SUBTITLE_KEY"
KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of keys: safe in logs, file names and TOML."""
KEY_NAME_RULE = "1 to 64 letters (of ASCII), digits, dots, hyphens, underscores"
"""The same in words."""
KEY_LENGTH = 40
"""Characters of a key in Z85 (ZeroMQ RFC 32): 32 bytes."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Key(Struct, frozen=True, kw_only=True):
    """A key pair in Z85, and the public key of its server."""

    name: str
    """Its name in the server's configuration."""
    public: str
    secret: str
    server: str

    def __repr__(self) -> str:
        """Omit the secret from logs and tracebacks."""
        return f"Key(name={self.name!r}, public={self.public!r})"


def new_pair() -> tuple[str, str]:
    """Return a new public and secret key in Z85."""
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def load_key(path: str | Path) -> Key:
    """Return the key of a file; raises KeyFileError if others may read the file, or it contains no key."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            table = tomllib.load(file)
    except OSError as error:
        raise KeyFileError(
            f"{path}: cannot be read: {error.strerror}; `subtitled keys new` creates keys"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: not a key file: {error}; `subtitled keys new` creates one") from error
    if mode & _OTHERS:
        raise KeyFileError(f"{path}: mode {mode:04o} lets others use the key; type: chmod 600 {path}")
    try:
        key = msgspec.convert(table, Key)
    except msgspec.ValidationError as error:
        raise KeyFileError(f"{path}: not a key file: {error}; `subtitled keys new` creates one") from error
    for field in ("public", "secret", "server"):
        if not is_key(getattr(key, field)):
            raise KeyFileError(
                f"{path}: `{field}` must be a key of {KEY_LENGTH} characters in Z85; `subtitled keys new` creates one"
            )
    return key


def key_text(key: Key) -> str:
    """Return the content of a key's file."""
    return (
        f"# The key of the client {key.name!r} of a subtitled server; it gives access as {key.name!r}.\n"
        f"# On the client: subtitle --key FILE …, or SUBTITLE_KEY=FILE, or ~/.config/subtitle/key.toml\n"
        f'name = "{key.name}"\n'
        f'public = "{key.public}"\n'
        f'secret = "{key.secret}"\n'
        f'server = "{key.server}"\n'
    )


def save_key(path: str | Path, key: Key) -> None:
    """Create a key file that only its owner may read; raises FileExistsError, OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as target:
        target.write(key_text(key))
        target.flush()
        os.fsync(target.fileno())


def find_key(path: str | Path | None = None) -> Key | None:
    """Return the key at `path`, else of SUBTITLE_KEY, else of `~/.config/subtitle/key.toml` if it exists, else None.

    Raises KeyFileError.
    """
    named = path or os.environ.get(KEY_VARIABLE)
    if named:
        return load_key(named)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    usual = Path(base, "subtitle", "key.toml")
    return load_key(usual) if usual.exists() else None


def is_key(text: str) -> bool:
    """Return whether `text` is a key in Z85."""
    if len(text) != KEY_LENGTH:
        return False
    try:
        zmq.utils.z85.decode(text.encode())
    except (ValueError, KeyError, UnicodeEncodeError):
        return False
    return True
