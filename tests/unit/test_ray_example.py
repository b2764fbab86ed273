"""config/ray/cluster.yaml: by Ray's own schema, and of one mind with what it installs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = yaml.safe_load((ROOT / "config/ray/cluster.yaml").read_text("utf-8"))


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray has no release for this Python")
def test_the_example_is_what_the_launcher_of_ray_takes() -> None:
    from jsonschema import validate

    spec = find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (package,) = spec.submodule_search_locations
    validate(EXAMPLE, json.loads(Path(package, "autoscaler/ray-schema.json").read_text("utf-8")))


def test_the_example_installs_the_release_of_ray_that_is_tested() -> None:
    lock = (ROOT / "requirements-test.lock").read_text("utf-8")
    (line,) = (line for line in EXAMPLE["setup_commands"] if " ray==" in line)
    assert f"{line.rpartition(' ')[2]} ;" in lock
