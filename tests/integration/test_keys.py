"""Keys in files: the client's, the server's, the allow-list."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from subtitle.errors import KeyFileError
from subtitle.keys import Key, find_key, is_key, load_key, new_pair, save_key
from subtitled.config import schema
from subtitled.errors import SubtitledError
from subtitled.network.auth import AllowList, Principal, ServerKey, principals, server_key, server_key_path


def a_key(name: str = "laptop") -> Key:
    public, secret = new_pair()
    return Key(name=name, public=public, secret=secret, server=new_pair()[0])


# -- the client's --------------------------------------------------------------------------------------------


def test_saved_key_is_read_back_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    key = a_key()
    save_key(tmp_path / "key.toml", key)
    assert load_key(tmp_path / "key.toml") == key
    assert (tmp_path / "key.toml").stat().st_mode & 0o777 == 0o600


def test_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    save_key(tmp_path / "key.toml", a_key())
    before = (tmp_path / "key.toml").read_bytes()
    with pytest.raises(FileExistsError):
        save_key(tmp_path / "key.toml", a_key())
    assert (tmp_path / "key.toml").read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_key_file_with_open_permissions_is_refused(tmp_path: Path, mode: int) -> None:
    save_key(tmp_path / "key.toml", a_key())
    (tmp_path / "key.toml").chmod(mode)
    with pytest.raises(KeyFileError, match=f"{mode:04o}.*chmod 600"):
        load_key(tmp_path / "key.toml")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name = ", "not a key file"),
        ("\xff", "not a key file"),
        ('name = "x"', "missing required field"),
        ('name = "x"\npublic = "short"\nsecret = "short"\nserver = "short"', "`public` must be a key of 40"),
        ("name = 1", "not a key file"),
    ],
)
def test_invalid_key_file_is_refused_with_its_fault(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "key.toml"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=fault):
        load_key(path)


def test_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"none\.toml: cannot be read.*subtitled keys new"):
        load_key(tmp_path / "none.toml")


def test_key_argument_precedes_the_variable_and_the_default_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SUBTITLE_KEY", raising=False)
    assert find_key() is None
    (tmp_path / "config" / "subtitle").mkdir(parents=True)
    named, variable, usual = a_key("named"), a_key("variable"), a_key("usual")
    save_key(tmp_path / "named.toml", named)
    save_key(tmp_path / "variable.toml", variable)
    save_key(tmp_path / "config" / "subtitle" / "key.toml", usual)
    assert find_key() == usual
    monkeypatch.setenv("SUBTITLE_KEY", str(tmp_path / "variable.toml"))
    assert find_key() == variable
    assert find_key(tmp_path / "named.toml") == named
    monkeypatch.setenv("SUBTITLE_KEY", str(tmp_path / "none.toml"))
    with pytest.raises(KeyFileError, match="none"):
        find_key()


def test_secrets_are_not_shown() -> None:
    key = a_key()
    assert key.secret not in repr(key)
    server = ServerKey(public=key.public, secret=key.secret)
    assert key.secret not in f"{server!r} {server}"


@pytest.mark.parametrize("text", ["", "x" * 39, "x" * 41, "é" * 40, " " * 40, '"' * 40])
def test_text_that_is_not_z85_is_not_a_key(text: str) -> None:
    assert not is_key(text)
    assert is_key(new_pair()[0])


# -- the server's --------------------------------------------------------------------------------------------


def test_server_key_is_created_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "server.key"
    key = server_key(path)
    assert is_key(key.public)
    assert is_key(key.secret)
    assert server_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["server.key"]


def test_two_processes_that_create_the_server_key_use_the_same(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    program = (
        "import sys; from pathlib import Path; from subtitled.network.auth import server_key;"
        " sys.stdin.read(); print(server_key(Path(sys.argv[1])).public)"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for maker in makers:  # all wait for the end of their input before they look
        assert maker.stdin is not None
        maker.stdin.close()
    for maker in makers:
        assert maker.wait(60) == 0
    made = set()
    for maker in makers:
        assert maker.stdout is not None
        with maker.stdout:
            made.add(maker.stdout.read().strip())
    assert made == {server_key(path).public}
    assert [found.name for found in tmp_path.iterdir()] == ["server.key"]


def test_server_key_with_open_permissions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    server_key(path)
    path.chmod(0o640)
    with pytest.raises(SubtitledError, match="readable by other users; type: chmod 600"):
        server_key(path)


@pytest.mark.parametrize(
    "text", ["public = ", 'public = "x"', 'public = "x"\nsecret = "y"', "public = 1\nsecret = 2"]
)
def test_damaged_server_key_is_not_replaced(tmp_path: Path, text: str) -> None:
    """Another key would lock out all clients, who know the old one."""
    path = tmp_path / "server.key"
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    with pytest.raises(SubtitledError, match="restore it from a backup"):
        server_key(path)
    assert path.read_text("utf-8") == text


def test_server_key_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SubtitledError, match=r"listen\.server_key"):
        server_key(tmp_path / "file" / "server.key")


def test_server_key_is_in_the_state_folder_by_default() -> None:
    state = schema.StateConfig(dir="/var/lib/x")
    assert server_key_path(schema.Config(state=state)) == Path("/var/lib/x/server.key")
    listen = schema.ListenConfig(server_key="/etc/x.key")
    assert server_key_path(schema.Config(state=state, listen=listen)) == Path("/etc/x.key")


# -- the allow-list ------------------------------------------------------------------------------------------


def test_allowed_key_has_its_name_and_role() -> None:
    public = new_pair()[0]
    refused: list[str] = []
    clients = [schema.ClientConfig(name="ann", key=public, role="admin")]
    allowed = AllowList(principals(clients), on_refused=refused.append)
    assert allowed.callback("subtitled", public.encode())
    assert allowed.find(public) == Principal(name="ann", role="admin")
    assert refused == []


def test_unknown_keys_are_refused_and_counted() -> None:
    refused: list[str] = []
    allowed = AllowList(
        principals([schema.ClientConfig(name="ann", key=new_pair()[0])]), on_refused=refused.append
    )
    unlisted = new_pair()[0]
    for key in (unlisted.encode(), b"", b"\xff" * 40):
        assert not allowed.callback("subtitled", key)
    assert refused == [unlisted, "", "\ufffd" * 40]
    for unknown in (new_pair()[0], None, 1, b"x"):
        assert allowed.find(unknown) is None


def test_replaced_allow_list_applies_at_once() -> None:
    ann, bob = new_pair()[0], new_pair()[0]
    allowed = AllowList(principals([schema.ClientConfig(name="ann", key=ann)]), on_refused=lambda _: None)
    was = allowed.find(ann)
    assert was is not None
    assert allowed.still_has(was)
    clients = [
        schema.ClientConfig(name="bob", key=bob),
        schema.ClientConfig(name="ann", key=ann, role="admin"),
    ]
    allowed.replace(principals(clients))
    assert not allowed.still_has(was)
    assert allowed.find(bob) == Principal(name="bob", role="user")
    allowed.replace({})
    assert allowed.find(bob) is None
    assert not allowed.callback("subtitled", bob.encode())


def test_user_sees_its_own_jobs_and_admin_sees_all() -> None:
    user, admin = Principal(name="ann", role="user"), Principal(name="root", role="admin")
    assert [user.may_see(owner) for owner in ("ann", "bob", "")] == [True, False, False]
    assert [admin.may_see(owner) for owner in ("ann", "bob", "")] == [True, True, True]
    assert (user.only_owner, admin.only_owner) == ("ann", None)


_REPLACER = """
import os, sys
folder, target = sys.argv[1:]
os.setuid(65534)
print("ready", flush=True)
while True:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            if not os.path.islink(path):
                os.unlink(path)
                os.symlink(target, path)
        except OSError:
            pass
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the owner of a file")
def test_links_planted_while_root_makes_the_key_change_no_file_of_root(tmp_path: Path) -> None:
    """The daemon's user owns the folder and replaces every name in it as fast as it can."""
    folder, target = tmp_path / "state", tmp_path / "shadow"
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    target.write_text("secret of root\n")
    target.chmod(0o600)
    replacer = subprocess.Popen(
        [sys.executable, "-c", _REPLACER, str(folder), str(target)], stdout=subprocess.PIPE
    )
    try:
        assert replacer.stdout is not None
        assert replacer.stdout.readline() == b"ready\n"
        for place in range(200):
            with contextlib.suppress(SubtitledError):  # the link is there before the key is read back
                server_key(folder / f"key{place}")
            assert (target.stat().st_uid, target.stat().st_mode & 0o777) == (0, 0o600)
            assert target.read_text() == "secret of root\n"
    finally:
        replacer.kill()
        replacer.communicate()


def test_key_made_by_root_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
    server_key(tmp_path / "server.key")
    found = (tmp_path / "server.key").stat()
    assert (found.st_uid, found.st_gid) == (tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    assert [path.name for path in tmp_path.iterdir()] == ["server.key"]
