"""Tests marked `last` come after the others of their module, whatever the random order: they wait for its background."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "last: runs after the other tests of its module")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    modules: dict[str, int] = {}
    for item in items:
        modules.setdefault(item.nodeid.partition("::")[0], len(modules))
    items.sort(
        key=lambda item: (
            modules[item.nodeid.partition("::")[0]],
            item.get_closest_marker("last") is not None,
        )
    )
