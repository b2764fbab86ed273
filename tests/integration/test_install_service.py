"""`subtitled install-service` into a folder, and what systemd's own tools say of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import run_command
from subtitled.config import schema
from subtitled.config.load import to_toml
from subtitled.systemd.install import inaccessible_folder

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (package systemd)"
)
MAX_EXPOSURE = 2.5


def install(prefix: Path, *options: str, status: int = 0) -> str:
    """Run the command into `prefix`; return what it prints."""
    done = run_command("subtitled", "install-service", "--prefix", prefix, *options)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "subtitled.toml"
    inbox = schema.InboxConfig(path="/srv/my media", output="beside")
    path.write_text(to_toml(schema.Config(inbox=(inbox,))), "utf-8")
    return path


def unit_in(prefix: Path) -> Path:
    return prefix / "etc/systemd/system/subtitled.service"


def test_the_units_of_this_environment_are_written_once(tmp_path: Path, config_file: Path) -> None:
    reported = install(tmp_path / "root", "--config", str(config_file))
    unit = unit_in(tmp_path / "root").read_text("utf-8")
    program = Path(sys.executable).with_name("subtitled")
    assert f"ExecStart={program} run --config {config_file}" in unit
    assert 'ReadWritePaths="-/srv/my media"' in unit
    assert f"{program} doctor --config {config_file}" in reported
    assert "systemctl enable --now subtitled" in reported
    for name in ("sysusers.d", "tmpfiles.d"):
        assert (tmp_path / "root" / "etc" / name / "subtitled.conf").is_file()
    assert install(tmp_path / "root", "--config", str(config_file)).count("Unchanged:") == 3


def test_a_changed_file_is_only_written_over_by_force(tmp_path: Path, config_file: Path) -> None:
    options = ("--config", str(config_file))
    install(tmp_path, *options)
    unit = unit_in(tmp_path)
    written = unit.read_text("utf-8")
    unit.write_text(f"{written}Nice=5\n", "utf-8")
    assert "--force" in install(tmp_path, *options, "--user", "media", status=1)
    assert "Nice=5" in unit.read_text("utf-8")
    assert "media" not in (tmp_path / "etc/sysusers.d/subtitled.conf").read_text("utf-8")
    install(tmp_path, *options, "--force")
    assert unit.read_text("utf-8") == written


def test_a_dry_run_writes_nothing(tmp_path: Path, config_file: Path) -> None:
    reported = install(tmp_path / "root", "--dry-run", "--config", str(config_file))
    assert "ExecStart=" in reported
    assert not (tmp_path / "root").exists()


def test_remove_deletes_the_files_that_were_written_and_keeps_the_data(tmp_path: Path) -> None:
    root, inbox, state = tmp_path / "root", tmp_path / "inbox", tmp_path / "state"
    for folder in (inbox, state):
        folder.mkdir()
        (folder / "kept").touch()
    config = schema.Config(
        inbox=(schema.InboxConfig(path=str(inbox), output="beside"),),
        state=schema.StateConfig(dir=str(state)),
    )
    config_file = tmp_path / "subtitled.toml"
    config_file.write_text(to_toml(config), "utf-8")
    options = ("--config", str(config_file))
    install(root, *options)
    install(root, "--worker", "tcp://head:8700", "--force")
    assert "add --yes" in install(root, *options, "--remove", status=2)
    assert unit_in(root).exists()
    reported = install(root, *options, "--remove", "--yes")
    assert [path for path in root.rglob("*") if path.is_file()] == []
    assert reported.count("Removed ") == 4
    assert {f"  {path}  " for path in (inbox, state, config_file)} <= {
        line.partition("(")[0] for line in reported.splitlines()
    }
    assert (inbox / "kept").exists()
    assert (state / "kept").exists()
    assert "Nothing to remove" in install(root, *options, "--remove", "--yes")


def test_remove_keeps_a_changed_unit_unless_forced(tmp_path: Path, config_file: Path) -> None:
    options = ("--config", str(config_file))
    install(tmp_path, *options)
    with unit_in(tmp_path).open("a") as unit:
        unit.write("Nice=5\n")
    assert f"{unit_in(tmp_path)}: was changed" in install(tmp_path, *options, "--remove", "--yes", status=1)
    assert (tmp_path / "etc/sysusers.d/subtitled.conf").exists()
    install(tmp_path, *options, "--remove", "--yes", "--force")
    assert not unit_in(tmp_path).exists()


def test_an_environment_that_the_daemon_cannot_enter_is_found(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    assert inaccessible_folder(str(tmp_path / "closed" / "bin" / "subtitled")) is not None
    assert inaccessible_folder("/usr/bin/env") is None


@needs_systemd
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path, config_file: Path) -> None:
    """It also looks whether the program is there and may be run."""
    install(tmp_path, "--config", str(config_file))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit_in(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, _about(done.stderr, "subtitled")) == (0, [])


@needs_systemd
def test_the_unit_is_hardened(tmp_path: Path, config_file: Path) -> None:
    install(tmp_path, "--config", str(config_file))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit_in(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for subtitled\.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MAX_EXPOSURE, done.stdout


@needs_systemd
def test_the_unit_of_workers_for_another_host_is_sound_and_hardened(tmp_path: Path) -> None:
    """Written without the daemon's. systemd-analyze takes a colon in a path for something else; units have them."""
    reported = install(tmp_path, "--worker", "tcp://head:8700", "--model", "/srv/models/turbo")
    assert "subtitled-worker@cuda:0" in reported
    assert not unit_in(tmp_path).exists()
    template = tmp_path / "etc/systemd/system/subtitled-worker@.service"
    unit = template.with_name("subtitled-worker@0.service")
    unit.write_text(template.read_text("utf-8"), "utf-8")
    verify = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, _about(done.stderr, "subtitled-worker@")) == (0, [])
    security = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(security, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MAX_EXPOSURE, done.stdout


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed")
def test_user_and_folders_of_the_files_are_created(tmp_path: Path) -> None:
    """In a root of its own, as in `next steps`; only root creates the folders, and owns them then."""
    root = tmp_path / "root"
    reported = install(root, "--config", str(tmp_path / "none.toml"))
    assert f"systemd-sysusers --root={root}" in reported
    (root / "etc/passwd").touch()
    (root / "etc/group").touch()
    subprocess.run(["systemd-sysusers", f"--root={root}"], check=True, capture_output=True)
    assert "subtitled:" in (root / "etc/passwd").read_text("utf-8")
    if _is_root():
        subprocess.run(
            ["systemd-tmpfiles", "--create", f"--root={root}", str(root / "etc/tmpfiles.d/subtitled.conf")],
            check=True,
            capture_output=True,
        )
        assert (root / "srv/subtitled/inbox").stat().st_mode & 0o7777 == 0o2775


def _about(text: str, name: str) -> list[str]:
    """Return the lines about one unit: those of others of this machine are its own business."""
    return [line for line in text.splitlines() if f"{name}." in line or f"/{name}" in line]


def _is_root() -> bool:
    return Path("/proc/self").stat().st_uid == 0
