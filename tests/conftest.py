"""Settings of all tests. This file also puts `tests/` on the path: `import media` works."""

from __future__ import annotations

import gc
import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator

# The same examples each time; no result depends on the machine's speed.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

# A shell starts background jobs with SIGINT ignored; the processes of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Each process of a parallel run imports and collects all tests. What they allocate stays: to search it for garbage takes a
# third of that time, and is repeated in every later search.
gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without the garbage collector, which then ignores all that exists."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# The modules that take longest. They start first, and the unit tests last, so that no core is idle at the end.
LONGEST = (
    "real_speech/test_recordings",
    "acceptance/test_bad_input",
    "integration/test_ray",
    "integration/test_benchmarks",
    "integration/chaos/test_chaos",
    "simulation/test_histories",
    "integration/test_restart",
    "integration/test_transcribe",
    "integration/test_remote",
    "integration/test_faults",
    "integration/test_http",
    "integration/test_browser_overview",
    "integration/test_player_api",
    "integration/test_browser_player",
    "integration/test_worker",
    "integration/test_inbox_stress",
    "integration/test_state_folder",
    "integration/test_hangs",
    "integration/test_damaged_database",
    "integration/test_hung_mount",
    "integration/test_quarantine",
    "acceptance/test_engine",
    "media_zoo/test_files_as_they_are",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep modules together, the longest first; move tests marked `last` behind the others of their module."""
    modules: dict[str, int] = {}
    for item in items:
        modules.setdefault(_module(item), len(modules))
    items.sort(
        key=lambda item: (
            _turn(_module(item)),
            modules[_module(item)],
            item.get_closest_marker("last") is not None,
        )
    )


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _turn(module: str) -> int:
    name = module.removeprefix("tests/").removesuffix(".py")
    if name in LONGEST:
        return LONGEST.index(name)
    return len(LONGEST) + name.startswith("unit/")
