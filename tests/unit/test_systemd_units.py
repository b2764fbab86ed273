"""The systemd files as they are shipped, and as they are made for a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from subtitled.config import schema
from subtitled.errors import ExitCode, SubtitledError
from subtitled.systemd.unit_files import InstallLocation, UnitFile, shipped, unit_files

ROOT = Path(__file__).parents[2]
PLACE = InstallLocation(
    program="/opt/subtitled/bin/subtitled", python="/usr", config_file="/etc/subtitled/subtitled.toml"
)


def made(found: schema.Config, place: InstallLocation = PLACE, *existing: str) -> dict[str, str]:
    """Return the files for a configuration, by name."""
    units: list[UnitFile] = unit_files(place, found, is_there=existing.__contains__)
    return {unit.path.removeprefix("etc/"): unit.text for unit in units}


def values(unit: str, key: str) -> list[str]:
    """Return the values of a setting, in order."""
    return re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)


def unit_of(found: schema.Config, place: InstallLocation = PLACE, *existing: str) -> str:
    return made(found, place, *existing)["systemd/system/subtitled.service"]


def test_the_files_are_the_shipped_ones_for_the_default_configuration() -> None:
    """So that who copies systemd/ by hand has what the command writes, up to the folders named one by one."""
    default = schema.Config()
    service = unit_of(default)
    shipped_unit = shipped("subtitled.service")
    for key in ("ReadWritePaths", "RequiresMountsFor", "Environment"):
        assert values(service, key) != []
        service = re.sub(rf"^(?:{key}=.*\n)+", f"{key}=…\n", service, flags=re.MULTILINE)
        shipped_unit = re.sub(rf"^(?:{key}=.*\n)+", f"{key}=…\n", shipped_unit, flags=re.MULTILINE)
    assert service == shipped_unit
    assert made(default)["sysusers.d/subtitled.conf"] == shipped("subtitled.sysusers.conf")
    assert made(default)["tmpfiles.d/subtitled.conf"] == shipped("subtitled.tmpfiles.conf")


@pytest.mark.parametrize("path", sorted((ROOT / "systemd").iterdir()), ids=lambda path: path.name)
def test_the_folder_systemd_links_to_what_is_in_the_package(path: Path) -> None:
    assert path.is_symlink()
    assert path.read_text("utf-8") == shipped(path.name)


def test_every_hardening_line_stands_below_its_reason() -> None:
    block: list[str] = []
    for line in shipped("subtitled.service").splitlines():
        block = [*block, line] if line.strip() else []
        if line.startswith(("Protect", "Restrict", "Private", "Device", "System", "Memory", "Capability")):
            assert any(other.startswith("#") for other in block), line


def test_the_unit_does_not_contradict_the_daemon() -> None:
    unit, recovery = shipped("subtitled.service"), schema.RecoveryConfig()
    assert int(values(unit, "TimeoutStopSec")[0]) > recovery.stop_timeout_s
    assert values(unit, "RestartPreventExitStatus") == [str(int(ExitCode.FATAL))]


def test_the_time_to_stop_follows_the_configuration() -> None:
    unit = unit_of(schema.Config(recovery=schema.RecoveryConfig(stop_timeout_s=600)))
    assert values(unit, "TimeoutStopSec") == ["630"]


def test_inboxes_and_outputs_can_be_written_and_nothing_else() -> None:
    inboxes = (
        schema.InboxConfig(path="/mnt/a b", output="beside"),
        schema.InboxConfig(path="/mnt/100%", output='/mnt/"x"'),
        schema.InboxConfig(path="/mnt/c", output='/mnt/"x"'),
    )
    unit = unit_of(schema.Config(inbox=inboxes))
    assert values(unit, "ReadWritePaths") == ['"-/mnt/a b"', "-/mnt/100%%", r'"-/mnt/\"x\""', "-/mnt/c"]
    assert "/srv" not in values(unit, "RequiresMountsFor")[0]


def test_state_and_sockets_are_made_by_systemd_where_it_makes_such() -> None:
    listen = schema.ListenConfig(clients=("ipc:///run/media/subs/c.sock", "tcp://127.0.0.1:7000"))
    unit = unit_of(schema.Config(state=schema.StateConfig(dir="/var/lib/media/subs"), listen=listen))
    assert values(unit, "StateDirectory") == ["media/subs"]
    assert values(unit, "RuntimeDirectory") == ["media/subs subtitled/private"]
    assert "HOME=/var/lib/media/subs HF_HOME=/var/lib/media/subs/models" in unit


def test_state_and_sockets_elsewhere_are_made_by_tmpfiles() -> None:
    listen = schema.ListenConfig(
        clients=("ipc:///data/s/clients.sock",), workers="ipc:///data/s/private/w.sock"
    )
    found = made(schema.Config(inbox=(), state=schema.StateConfig(dir="/data/subs"), listen=listen))
    unit = found["systemd/system/subtitled.service"]
    for key in ("StateDirectory", "StateDirectoryMode", "RuntimeDirectory", "RuntimeDirectoryMode"):
        assert values(unit, key) == []
    assert values(unit, "ReadWritePaths") == ["-/data/subs", "-/data/s"]
    for folder in ("/data/subs", "/data/s"):
        assert f"d {folder} 0750 subtitled subtitled -\n" in found["tmpfiles.d/subtitled.conf"]


def test_folders_of_others_keep_their_owner() -> None:
    """Else tmpfiles would change the owner of an existing folder, such as a media library."""
    found = schema.Config(inbox=(schema.InboxConfig(path="/mnt/films", output="/mnt/subs"),))
    text = made(found, PLACE, "/mnt/films")["tmpfiles.d/subtitled.conf"]
    assert "/mnt/films" not in text
    assert "d /mnt/subs 2775 subtitled subtitled -" in text


def test_folders_below_home_and_tmp_are_not_hidden() -> None:
    unit = unit_of(schema.Config(inbox=(schema.InboxConfig(path="/home/ann/in", output="/tmp/out"),)))  # noqa: S108 - as an operator may write it
    assert (values(unit, "ProtectHome"), values(unit, "PrivateTmp")) == (["read-only"], ["no"])


def test_a_python_below_home_is_not_hidden() -> None:
    place = InstallLocation(
        program="/opt/x/subtitled", python="/home/ann/.pyenv/versions/3.12", config_file="/etc/x.toml"
    )
    assert values(unit_of(schema.Config(), place), "ProtectHome") == ["read-only"]


def test_another_user_is_named_everywhere() -> None:
    found = made(
        schema.Config(),
        InstallLocation(program="/a/subtitled", python="/usr", config_file="/a/$x.toml", user="media"),
    )
    unit = found["systemd/system/subtitled.service"]
    assert (values(unit, "User"), values(unit, "Group")) == (["media"], ["media"])
    assert values(unit, "ExecStart") == ["/a/subtitled run --config /a/$$x.toml"]
    assert "u media " in found["sysusers.d/subtitled.conf"]
    assert "m media video" in found["sysusers.d/subtitled.conf"]
    assert "inbox 2775 media media" in found["tmpfiles.d/subtitled.conf"]


@pytest.mark.parametrize("user", ["root", "", "Ann", "a b", "-x", "x" * 32])
def test_invalid_user_is_refused(user: str) -> None:
    with pytest.raises(SubtitledError, match="is not allowed: use 1 to 31"):
        unit_of(schema.Config(), InstallLocation(program="/a", python="/usr", config_file="/b", user=user))


def test_a_path_that_would_break_its_line_is_refused() -> None:
    with pytest.raises(SubtitledError, match="control characters"):
        unit_of(schema.Config(inbox=(schema.InboxConfig(path="/a\nUser=root", output="beside"),)))


def test_gateway_unit_is_written_only_if_the_daemon_does_not_start_it() -> None:
    place = InstallLocation(
        program="/opt/x/subtitled", python="/usr", config_file="/etc/x.toml", user="media"
    )
    found = schema.Config(http=schema.HttpConfig(listen="127.0.0.1:8600", with_daemon=False))
    files = {unit.path: unit.text for unit in unit_files(place, found, is_there=lambda _: False)}
    unit = files["etc/systemd/system/subtitled-http.service"]
    assert values(unit, "ExecStart") == ["/opt/x/subtitled http --config /etc/x.toml"]
    assert values(unit, "User") == values(unit, "Group") == ["media"]
    by_daemon = schema.Config(http=schema.HttpConfig(listen="127.0.0.1:8600"))
    without = unit_files(place, by_daemon, is_there=lambda _: False)
    assert "etc/systemd/system/subtitled-http.service" not in {unit.path for unit in without}


def test_the_unit_allows_the_calls_of_the_decoders_sandbox() -> None:
    """@system-service of systemd 252 lacks them: no file could be read under the unit."""
    allowed = re.findall(r"^SystemCallFilter=([^~].*)$", shipped("subtitled.service"), re.MULTILINE)
    names = {name for line in allowed for name in line.split()}
    assert {
        "seccomp",
        "landlock_create_ruleset",
        "landlock_add_rule",
        "landlock_restrict_self",
    } <= names
