"""Where a value of the configuration comes from: what goes before what, and what is told of it."""

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


def test_whispers_variables_set_what_the_file_leaves_out(file: Path) -> None:
    model = load_config(str(file), OLD, check_paths=False).model
    assert (model.name, model.compute_type) == ("small", "int8")
    model = load_config(None, OLD, check_paths=False).model
    assert (model.name, model.compute_type) == ("medium", "int8")


def test_our_variables_go_before_file_and_whispers(file: Path) -> None:
    ours = {"SUBTITLED_MODEL__NAME": "tiny", "SUBTITLED_MODEL__COMPUTE_TYPE": "float32"}
    model = load_config(str(file), {**OLD, **ours}, check_paths=False).model
    assert (model.name, model.compute_type) == ("tiny", "float32")


def test_an_empty_variable_of_whispers_says_nothing() -> None:
    assert load_config(None, dict.fromkeys(OLD, ""), check_paths=False) == schema.Config()


def test_a_fault_in_whispers_variable_is_blamed_on_it() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"WHISPER_COMPUTE_TYPE": "fp16"}, check_paths=False)
    [fault] = caught.value.faults
    assert fault.startswith('model.compute_type: "fp16" is not allowed (auto, ')
    assert fault.endswith("[WHISPER_COMPUTE_TYPE in the environment]")


def test_what_is_shown_tells_where_each_value_was_set(file: Path) -> None:
    environ = {**OLD, "SUBTITLED_LOG__LEVEL": "debug"}
    shown = to_toml_with_origins(str(file), environ)
    assert [line for line in shown.splitlines() if "#" in line] == [
        f'name = "small"  # {file}',
        'compute_type = "int8"  # WHISPER_COMPUTE_TYPE in the environment',
        f"[[inbox]]  # {file}",
        'level = "debug"  # SUBTITLED_LOG__LEVEL in the environment',
    ]


def test_what_is_shown_is_a_configuration_file(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.toml"
    again.write_text(to_toml_with_origins(str(file), OLD), "utf-8")
    assert load_config(str(again), {}, check_paths=False) == load_config(str(file), OLD, check_paths=False)
