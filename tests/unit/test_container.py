"""Dockerfile and compose files: what they copy, run and set exists. No container engine is used."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from subtitle.cli import cli as client_commands
from subtitled.cli import cli as server_commands
from subtitled.config import schema
from subtitled.config.load import load_config

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def service(name: str) -> dict[str, Any]:
    """Return the service of a compose file."""
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text("utf-8"))["services"]["subtitled"]
    return found


SERVICE = service("compose.yaml")
GPU_SERVICE = service("compose.gpu.yaml")


def instructions(name: str) -> list[str]:
    """Return the arguments of each instruction of this name in the Dockerfile, lines joined."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", text, re.MULTILINE)


def variables() -> dict[str, str]:
    """Return the environment of the daemon in its container."""
    words = [word for line in instructions("ENV") for word in shlex.split(line)]
    image = dict(word.split("=", 1) for word in words)
    given = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in SERVICE["environment"].items()}
    return {**image, **given}


def configured() -> schema.Config:
    return load_config(None, variables(), check_paths=False)


def test_what_is_copied_is_there_and_in_the_build_context() -> None:
    let_in = {
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")
    }
    copies = [shlex.split(line) for line in instructions("COPY")]
    sources = [source for words in copies if words[0] != "--from=build" for source in words[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert Path(source).parts[0] in let_in
    assert {source for source in let_in if not (ROOT / source).exists()} == set()


def test_the_wheel_finds_all_that_it_is_built_from() -> None:
    project = PROJECT["project"]
    needed = {
        project["readme"],
        *(name.partition("/")[0] for name in project["license-files"]),
        "pyproject.toml",
    }
    needed |= {
        Path(folder).parts[0] for folder in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    }
    copied = {word for line in instructions("COPY") for word in shlex.split(line)}
    assert needed <= copied


def test_commands_that_are_named_exist() -> None:
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    (check,) = instructions("HEALTHCHECK")
    health = json.loads(check.partition(" CMD ")[2])
    assert json.loads(entry) == ["entrypoint"]
    assert "COPY container/entrypoint.sh /usr/local/bin/entrypoint" in (ROOT / "Dockerfile").read_text(
        "utf-8"
    )
    assert json.loads(command)[0] in server_commands.commands
    assert health[:2] == ["subtitle", "ping"]
    options = {option for parameter in client_commands.commands["ping"].params for option in parameter.opts}
    assert "--timeout" in options
    assert {"subtitled", "subtitle"} <= set(PROJECT["project"]["scripts"])


def test_nothing_for_development_alone_is_installed() -> None:
    (line,) = (line for line in instructions("RUN") if "--require-hashes" in line)
    assert shlex.split(line)[-1] == "requirements.lock"


def test_the_extra_cuda_is_what_the_image_installs() -> None:
    (line,) = (line for line in instructions("RUN") if "nvidia" in line)
    assert all(name in line for name in PROJECT["project"]["optional-dependencies"]["cuda"])


def test_the_environment_is_a_good_configuration() -> None:
    """Folders are the container's own: that they are there is the Dockerfile's to see to."""
    found = configured()
    assert GPU_SERVICE["environment"]["SUBTITLED_MODEL__NAME"].endswith(f":-{schema.ModelConfig().name}}}")
    assert found.log.format == "json"


def test_volumes_are_the_folders_of_the_configuration() -> None:
    found, mounts = configured(), [volume.split(":")[1] for volume in SERVICE["volumes"]]
    assert mounts == [found.inbox[0].path, found.inbox[0].output, found.state.dir]
    assert str(Path(found.listen.clients[0].removeprefix("ipc://")).parent) in SERVICE["tmpfs"][1]
    made = " ".join(line for line in instructions("RUN") if "install -d" in line)
    for folder in (*mounts, "/run/subtitled"):
        assert folder in made


def test_the_user_is_the_same_everywhere() -> None:
    (uid,) = (line.removeprefix("UID=") for line in instructions("ARG") if line.startswith("UID"))
    assert f"uid={uid},gid={uid}," in SERVICE["tmpfs"][1]
    assert f"install -d -o {uid} -g {uid} inbox outbox" in (ROOT / "compose.yaml").read_text("utf-8")
    assert instructions("USER") == ["subtitled"]


def test_the_daemon_has_time_to_stop() -> None:
    assert int(SERVICE["stop_grace_period"].removesuffix("s")) > configured().recovery.stop_timeout_s


def test_every_gpu_is_reserved_on_gpu_hosts_only() -> None:
    (device,) = GPU_SERVICE["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert GPU_SERVICE["build"]["args"] == {"CUDA": "1"}
    assert "deploy" not in SERVICE
    assert SERVICE["build"]["args"] == {"CUDA": "0"}


def test_page_and_metrics_are_published_for_this_host_only() -> None:
    found = configured()
    ports = [address.rpartition(":")[2] for address in (found.http.listen, found.listen.metrics)]
    assert SERVICE["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]
    assert instructions("EXPOSE") == [" ".join(ports)]
    assert Path(found.http.token_file).is_relative_to(found.state.dir)


def test_entry_point_creates_one_token_and_prints_it_once(tmp_path: Path) -> None:
    """With a command that prints its arguments in the place of `subtitled`."""
    stub = tmp_path / "subtitled"
    stub.write_text('#!/bin/sh\necho "started: $*"\n')
    stub.chmod(0o755)
    tokens = tmp_path / "tokens"
    environ = {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "SUBTITLED_HTTP__LISTEN": "0.0.0.0:8600",
        "SUBTITLED_HTTP__TOKEN_FILE": str(tokens),
    }
    command = [str(ROOT / "container/entrypoint.sh"), "run"]
    first, second = (
        subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    token = tokens.read_text("ascii").strip()
    assert len(token) >= 32
    assert tokens.stat().st_mode & 0o777 == 0o600
    assert first == f"Web page: http://localhost:8600/  User: any  Password: {token}\nstarted: run\n"
    assert second == "started: run\n"


@pytest.mark.parametrize("right", ["read_only", "cap_drop", "security_opt"])
def test_the_container_has_no_more_rights_than_it_needs(right: str) -> None:
    assert SERVICE[right]
