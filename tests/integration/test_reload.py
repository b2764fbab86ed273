"""SIGHUP: the configuration is read again, and nothing else is disturbed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

import media
from daemon import TWO_SLOTS, Daemon, eventually
from subtitled.config import schema
from subtitled.config.load import to_toml

if TYPE_CHECKING:
    from collections.abc import Iterator

TALK = media.clip(name="demo-zh.flac")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as running:
        yield running.start()


def reload(daemon: Daemon, **sections: object) -> None:
    """Change sections of the configuration file and send SIGHUP."""
    changed = structs.replace(daemon.config, **sections)
    daemon.config_file.write_text(to_toml(changed), "utf-8")
    os.kill(daemon.pid, signal.SIGHUP)


def test_faulty_configuration_is_refused_and_the_old_one_stays(daemon: Daemon) -> None:
    daemon.config_file.write_text("[model]\nbeam_size = 0\n[pool]\nqueue = 1\n", "utf-8")
    os.kill(daemon.pid, signal.SIGHUP)
    faults = daemon.wait_for_log("config.rejected")["faults"]
    assert any("model.beam_size" in fault for fault in faults)
    assert any("pool.queue" in fault for fault in faults)
    path = daemon.drop(TALK, "talk.flac")
    assert daemon.wait_for(path).state == "done"
    daemon.stop()


@pytest.mark.long
def test_device_that_leaves_and_comes_back_disturbs_no_other(tmp_path: Path) -> None:
    with Daemon(tmp_path, pool=TWO_SLOTS) as daemon:
        daemon.start()
        before = daemon.workers()
        reload(daemon, pool=structs.replace(daemon.config.pool, devices=("cpu",)))
        eventually(lambda: "cpu1.1" not in daemon.workers(), "the second device's worker has gone")
        reload(daemon)
        eventually(lambda: "cpu1.2" in daemon.workers(), "the second device has a worker again")
        after = daemon.workers()
        assert {name: pid for name, pid in before.items() if name != "cpu1.1"}.items() <= after.items()
        daemon.wait_until_ready()
        daemon.stop()


def test_keys_that_need_a_restart_are_named(daemon: Daemon) -> None:
    reload(daemon, model=structs.replace(daemon.config.model, beam_size=1))
    assert daemon.wait_for_log("config.loaded")["needs_restart"] == ["model.beam_size"]


def test_new_inbox_is_watched(daemon: Daemon, tmp_path: Path) -> None:
    for name in ("other", "other-out"):
        (tmp_path / name).mkdir()
    other = schema.InboxConfig(path=str(tmp_path / "other"), output=str(tmp_path / "other-out"), settle_s=0.2)
    reload(daemon, inbox=(*daemon.config.inbox, other))
    daemon.wait_for_log("config.loaded")
    path = daemon.drop(TALK, "talk.flac", inbox=tmp_path / "other")
    assert daemon.wait_for(path).state == "done"
    assert (tmp_path / "other-out" / "talk.zh.srt").is_file()


@pytest.mark.long
def test_work_waits_without_space_and_goes_on_automatically(daemon: Daemon) -> None:
    """A reserve above what is free stops new files, says so once, and lets them go when there is space."""
    reload(daemon, state=structs.replace(daemon.config.state, reserve_mb=1_048_576))
    daemon.wait_for_log("disk.full")
    first, second = daemon.drop(TALK, "one.flac"), daemon.drop(TALK, "two.flac")
    daemon.wait_for_log("inbox.paused")
    assert not daemon.jobs()
    reload(daemon)
    daemon.wait_for_log("disk.ok")
    assert {daemon.wait_for(first).state, daemon.wait_for(second).state} == {"done"}
    assert len(daemon.log("disk.full")) == 1
