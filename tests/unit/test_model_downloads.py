"""Downloads of the models of [[models]]: when one is started, and what a failure changes."""

from __future__ import annotations

import pytest

from subtitled.core.model_placement import ModelSpec
from subtitled.core.protocol import EngineSettings
from subtitled.workers.model_download import ModelDownloads
from subtitled.workers.supervisor import ProcessExit

BIG = ModelSpec(name="big", engine=EngineSettings(model="user/big"))


class Downloads:
    """The downloads of "big" beside a default model that is present; notes what they start and report."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.changes: list[tuple[ModelSpec, ...]] = []
        self.downloads = ModelDownloads(
            "demo",
            (ModelSpec(), BIG),
            spawn=lambda worker, _model: self.started.append(worker),
            on_change=self.changes.append,
        )

    def end(self, now: float, *, is_ok: bool = False, is_fatal: bool = False) -> None:
        """End the process that was started last."""
        end = ProcessExit(worker=self.started[-1], cause="no network", is_ok=is_ok, is_fatal=is_fatal)
        assert self.downloads.exited(end, now)


@pytest.fixture
def downloads() -> Downloads:
    """Return downloads of which none has started."""
    return Downloads()


def test_reload_tries_a_model_again_that_could_not_be_downloaded(downloads: Downloads) -> None:
    downloads.downloads.tick(0)
    downloads.end(1, is_fatal=True)
    assert downloads.changes[-1][1].fault == "no network"
    downloads.downloads.tick(10_000)
    assert len(downloads.started) == 1, "another attempt cannot help"
    downloads.downloads.configure((ModelSpec(), BIG))
    downloads.downloads.tick(10_001)
    assert len(set(downloads.started)) == 2
    assert not downloads.downloads.specs[1].fault
    downloads.end(10_002, is_ok=True)
    assert downloads.changes[-1][1].is_present


def test_removed_model_is_not_downloaded_again(downloads: Downloads) -> None:
    downloads.downloads.tick(0)
    downloads.downloads.configure((ModelSpec(),))
    downloads.end(1)
    downloads.downloads.tick(10_000)
    assert len(downloads.started) == 1


def test_only_the_end_of_the_attempts_is_reported(downloads: Downloads) -> None:
    """A report makes the broker try all loads again that failed."""
    downloads.downloads.tick(0)
    downloads.end(1)
    assert not downloads.changes
    downloads.downloads.tick(10_000)
    downloads.end(10_001, is_ok=True)
    assert len(downloads.changes) == 1
