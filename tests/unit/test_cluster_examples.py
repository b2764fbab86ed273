"""The files to start workers elsewhere parse, and name existing options."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from subtitled.cli import cli
from subtitled.errors import ExitCode
from subtitled.systemd.unit_files import InstallLocation, shipped, worker_files

CONFIG = Path(__file__).parents[2] / "config"
SLURM = CONFIG / "slurm" / "subtitled-worker.sbatch"
KUBERNETES = CONFIG / "kubernetes" / "subtitled-worker.yaml"
UNIT = "subtitled-worker@.service"
OPTIONS = {name for parameter in cli.commands["worker"].params for name in parameter.opts}


def options_in(text: str) -> set[str]:
    """Return the options that follow the command `worker`."""
    command = re.search(r"\bworker (--connect(?:.|\\\n)*?)(?:\n\s*\n|'|\n[A-Z]|$)", text)
    assert command is not None
    return set(re.findall(r"(?<=\s)--[a-z-]+", f" {command[1]}"))


def test_the_script_for_slurm_is_one() -> None:
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    text = SLURM.read_text("utf-8")
    assert options_in(text) <= OPTIONS
    assert "--place" in options_in(text)
    notice = re.search(r"--signal=TERM@(\d+)", text)
    timeout = re.search(r"--stop-timeout (\d+)", text)
    assert notice is not None
    assert timeout is not None
    assert int(timeout[1]) < int(notice[1])


def test_the_manifest_for_kubernetes_is_one() -> None:
    (deployment,) = list(yaml.safe_load_all(KUBERNETES.read_text("utf-8")))
    template = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    pod: dict[str, Any] = template["spec"]
    (container,) = pod["containers"]
    (command,) = container["args"]
    assert options_in(command) <= OPTIONS
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    timeout = re.search(r"--stop-timeout (\d+)", command)
    assert timeout is not None
    assert int(timeout[1]) < pod["terminationGracePeriodSeconds"]
    subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_unit_does_not_contradict_the_worker() -> None:
    unit = shipped(UNIT)
    assert options_in(unit) <= OPTIONS
    assert f"RestartPreventExitStatus={int(ExitCode.FATAL)}\n" in unit
    timeout = next(p for p in cli.commands["worker"].params if p.name == "stop_timeout_s").default
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop is not None
    assert isinstance(timeout, float)
    assert int(stop[1]) > timeout


def test_the_unit_is_written_for_this_environment() -> None:
    place = InstallLocation(
        program="/home/media/v e/bin/subtitled", python="/usr", config_file="", user="media"
    )
    unit, users = worker_files(place, "tcp://head:8700", key_file="/etc/k.toml", model="/models/100%")
    assert unit.path == f"etc/systemd/system/{UNIT}"
    command = '"/home/media/v e/bin/subtitled" worker --connect tcp://head:8700 --key /etc/k.toml --model /models/100%%'
    assert f"\nExecStart={command} --device %i\n" in unit.text
    assert "\nUser=media\nGroup=media\n" in unit.text
    assert "\nProtectHome=read-only\n" in unit.text
    assert "u media" in users.text


@pytest.mark.parametrize("user", ["root", "a b"])
def test_a_user_that_is_none_of_its_own_is_refused(user: str) -> None:
    place = InstallLocation(program="/p", python="/usr", config_file="", user=user)
    with pytest.raises(Exception, match="is not allowed: use 1 to 31"):
        worker_files(place, "tcp://head:8700", key_file="/k")
