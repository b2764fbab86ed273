"""Settings of all tests. This file also puts `tests/` on the path: `import media` works."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

# The same examples each time; no result depends on the machine's speed.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

# A shell starts background jobs with SIGINT ignored; the processes of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move tests marked `last` behind the others of their module, whatever the random order."""
    modules: dict[str, int] = {}
    for item in items:
        modules.setdefault(_module(item), len(modules))
    items.sort(key=lambda item: (modules[_module(item)], item.get_closest_marker("last") is not None))


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
