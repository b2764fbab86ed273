"""Where a value of the configuration comes from: precedence, and how the origin is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from subtitled.config import schema
from subtitled.config.load import load_config, to_toml_with_origins
from subtitled.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

OLD = {"WHISPER_MODEL": "medium", "WHISPER_COMPUTE_TYPE": "int8"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "subtitled.toml"
    path.write_text('[model]\nname = "small"\n[[inbox]]\npath = "/a"\n', "utf-8")
    return path


def test_whisper_variables_set_keys_that_the_file_omits(file: Path) -> None:
    model = load_config(str(file), OLD, check_paths=False).model
    assert (model.name, model.compute_type) == ("small", "int8")
    model = load_config(None, OLD, check_paths=False).model
    assert (model.name, model.compute_type) == ("medium", "int8")


def test_subtitled_variables_override_the_file_and_whisper_variables(file: Path) -> None:
    ours = {"SUBTITLED_MODEL__NAME": "tiny", "SUBTITLED_MODEL__COMPUTE_TYPE": "float32"}
    model = load_config(str(file), {**OLD, **ours}, check_paths=False).model
    assert (model.name, model.compute_type) == ("tiny", "float32")


def test_empty_whisper_variable_is_ignored() -> None:
    assert load_config(None, dict.fromkeys(OLD, ""), check_paths=False) == schema.Config()


def test_fault_in_a_whisper_variable_names_the_variable() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"WHISPER_COMPUTE_TYPE": "fp16"}, check_paths=False)
    [fault] = caught.value.faults
    assert fault.startswith('model.compute_type: "fp16" is not allowed (auto, ')
    assert fault.endswith("[WHISPER_COMPUTE_TYPE in the environment]")


def test_config_show_gives_the_origin_of_each_value(file: Path) -> None:
    environ = {**OLD, "SUBTITLED_LOG__LEVEL": "debug"}
    shown = to_toml_with_origins(str(file), environ)
    assert [line for line in shown.splitlines() if "#" in line] == [
        f'name = "small"  # {file}',
        'compute_type = "int8"  # WHISPER_COMPUTE_TYPE in the environment',
        f"[[inbox]]  # {file}",
        'level = "debug"  # SUBTITLED_LOG__LEVEL in the environment',
    ]


def test_config_show_prints_a_valid_configuration_file(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.toml"
    again.write_text(to_toml_with_origins(str(file), OLD), "utf-8")
    assert load_config(str(again), {}, check_paths=False) == load_config(str(file), OLD, check_paths=False)
