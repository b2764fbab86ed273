"""Free memory of a CPU worker in a control group."""

from __future__ import annotations

from pathlib import Path

import pytest

from subtitled.asr import memory

GIB = 2**30


def test_page_cache_of_the_control_group_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading media and models fills the group's memory with files that the kernel drops when it needs the space."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {64 * GIB // 1024} kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{8 * GIB}\n")
    assert memory.free_bytes("cpu") == 0
    (tmp_path / "memory.stat").write_text(f"anon {3 * GIB}\nactive_file {GIB}\ninactive_file {4 * GIB}\n")
    assert memory.free_bytes("cpu") == 4 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes("cpu") == 64 * GIB


@pytest.mark.parametrize(
    ("entries", "limited", "left_gib"),
    [
        ("0::/system.slice/subtitled.service", "system.slice/subtitled.service", 6),  # MemoryMax= of the unit
        ("0::/system.slice/subtitled.service", "system.slice", 6),
        ("0::/", ".", 6),  # a container
        ("0::/elsewhere/on/the/host", ".", 6),
        ("4:memory:/old\n0::/", ".", 6),
        ("0::/system.slice/subtitled.service", "other.slice", 64),
        ("", ".", 6),
    ],
)
def test_the_limits_of_all_control_groups_around_the_process_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: str, limited: str, left_gib: int
) -> None:
    (tmp_path / "meminfo").write_text(f"MemAvailable: {64 * GIB // 1024} kB\n")
    (tmp_path / "own").write_text(f"{entries}\n")
    group = tmp_path / "groups" / limited
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{8 * GIB}\n")
    (group / "memory.current").write_text(f"{2 * GIB}\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    assert memory.free_bytes("cpu") == left_gib * GIB
