"""`subtitled demo` shows the whole way, and says what went wrong when it did."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from daemon import worker_processes


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with `folder` as the place for temporary files, and with an empty HOME."""
    home = folder / "home"
    home.mkdir(parents=True)
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(folder), "LANG": "C.UTF-8"}
    command = [str(Path(sys.executable).with_name("subtitled")), "demo", *words]
    return subprocess.run(
        command, env=environ, cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )


def test_demo_prints_correct_subtitles_and_leaves_nothing_behind() -> None:
    # Not pytest's own folder: the path of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="subtitled-test-") as folder:
        done = demo(Path(folder))
        left = [path.name for path in Path(folder).glob("*subtitled*")]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Good morning and welcome." in " ".join(done.stdout.split())
    assert "请打开蓝色的窗户。" in done.stdout
    # Translated into the other language.
    for text in ("demo.zh.srt", "旧的桥星期二关闭。", "demo-zh.en.srt", "Please open the blue window."):
        assert text in " ".join(done.stdout.split())
    assert re.fullmatch(
        r"Complete: 2 files \| 4 segments \| 2 devices: cpu0, cpu1 \| 92\.0 s of audio in \d+\.\d s"
        r" \| Speed: \d+\.\dx real time",
        done.stdout.splitlines()[-1],
    )
    assert left == []
    assert not [settings for settings in worker_processes().values() if folder in settings["endpoint"]]


def test_demo_that_cannot_run_says_why(tmp_path: Path) -> None:
    """Here: a folder so deep that no socket can be made in it."""
    done = demo(tmp_path / ("deep" * 30))
    assert done.returncode == 1
    assert "The demo failed: " in done.stdout
    assert "a socket's path may have 107 bytes; set TMPDIR" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
