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
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{8 * GIB}\n")
    assert memory.free_bytes("cpu") == 0
    (tmp_path / "memory.stat").write_text(f"anon {3 * GIB}\nactive_file {GIB}\ninactive_file {4 * GIB}\n")
    assert memory.free_bytes("cpu") == 4 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes("cpu") == 64 * GIB
