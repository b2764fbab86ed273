"""The benchmarks run and print their tables; the figures themselves are not tested."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(_BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_overhead_compares_three_ways_that_all_understand_the_recording() -> None:
    table = _run("overhead.py", "--minutes", "1", "--repeat", "1")
    wrong = dict(re.findall(r"^(daemon|pipeline|pipeline, plain) .*\((\d+\.\d) %\)$", table, re.MULTILINE))
    assert set(wrong) == {"daemon", "pipeline", "pipeline, plain"}, table
    assert all(float(percent) <= 5 for percent in wrong.values()), table
    assert re.search(r"^daemon / pipeline: wall \d+\.\d\d, cpu \d+\.\d\d$", table, re.MULTILINE), table


def test_cpu_batch_measures_each_size() -> None:
    table = _run("cpu_batch.py", "--windows", "2", "--repeat", "1", "--threads", "1")
    assert re.findall(r"^ +1 +(\d+) +\d", table, re.MULTILINE) == ["1", "2", "4", "8", "16", "32"], table


def test_settings_measures_each_of_them() -> None:
    table = _run("settings.py", "--windows", "2", "--repeat", "1", "--beams", "1", "5", "--types", "int8")
    names = ["int8, beam 1", "int8, beam 5", "int8, beam 5, word times"]
    assert re.findall(r"^(int8, .*?)  +\d", table, re.MULTILINE) == names, table


def test_ingest_measures_each_kind_of_file() -> None:
    names = ["a.wav", "a.m4a", "video.mkv", "long.flac"]
    short = ("--minutes", "0.2", "--hours", "0.01", "--repeat", "1")
    table = _run("ingest.py", *short, "--only", ",".join(names))
    assert re.findall(r"^(\S+\.\w+) ", table, re.MULTILINE) == names, table


def test_million_measures_each_kind_of_request() -> None:
    table = _run("million.py", "--jobs", "3000")
    assert (
        len(re.findall(r"^(list|search|status|stats|page|events).* longest turn ", table, re.MULTILINE)) == 15
    )


def test_readability_holds_its_rules() -> None:
    table = _run("readability.py", "--voices", "2")
    shares = re.search(r"^subtitled +(\d+)((?: +[\d.]+ %)+) +(\d+)$", table, re.MULTILINE)
    assert shares, table
    lines, length, overlap, gap, short, long, _, _, avoidable = map(float, shares[2].replace("%", "").split())
    assert (lines, length, overlap, gap, avoidable, int(shares[3])) == (0, 0, 0, 0, 0, 0), table
    assert short + long <= 1, table


def test_word_times_are_compared_with_none() -> None:
    table = _run("word_times.py", "--repeat", "1")
    row = r"^demo(?:-zh)? +(?:false|auto|auto, 1 line|true) +(\d+) of (\d+) +[\d.]+ s +[\d.]+ +[\d.]+ s +\d+ to +(\d+) ms"
    timed = re.findall(row, table, re.MULTILINE)
    assert len(timed) == 8, table
    assert timed[0][0] == "0", table
    assert timed[3][0] == timed[3][1], table
    assert all(int(start_ms) <= 250 for _, _, start_ms in timed), table


def test_upload_measures_each_way() -> None:
    table = _run("upload.py", "--short")
    ways = ["cp + sha256sum", "raw PUSH/PULL", "ipc", "tcp", "tcp, key"]
    assert re.findall(r"^(\S.*?)  +\d+  +\d+-\d+", table, re.MULTILINE) == ways, table
    assert len(re.findall(r"MB( +\d+\.\d ms){3}$", table, re.MULTILINE)) == 4, table


def test_http_load_loses_nothing() -> None:
    table = _run("http_load.py", "--short")
    assert re.findall(r"^(\S.*?)  +\d+\.\d s +\d+ MB( +\d+\.\d){2} +\d+\.\d ms", table, re.MULTILINE), table
    assert len(re.findall(r"MB(?:(?: +\d+\.\d){3} ms){2} +\d+\.\d ms$", table, re.MULTILINE)) == 3, table


def test_pool_keeps_waiting_workers_at_work() -> None:
    few = ("--workers", "8", "--seconds", "0", "--clips", "8", "--segments", "200", "--lengths", "5")
    table = _run("pool.py", *few)
    assert re.findall(r"^(1 job|8 clips|mix) +8 +(\d+) ", table, re.MULTILINE) == [
        ("1 job", "16"),
        ("8 clips", "8"),
        ("mix", "24"),
    ], table
    assert re.search(r"^5 s each +8 +200 ", table, re.MULTILINE), table


def test_models_compares_one_daemon_with_one_for_each_model() -> None:
    model = _BENCHMARKS.parent / "daemon" / "subtitled" / "demo" / "model"
    table = _run("models.py", "--jobs", "10", "--repeat", "1", "--model", str(model))
    ways = ["one daemon", "on demand", "a slot each", "two slots each"]
    assert re.findall(r"^([a-z ]+?)  +\d+\.\d s", table, re.MULTILINE) == ways, table
    assert len(re.findall(r"^one daemon / (?:a slot|two slots) each: wall \d", table, re.MULTILINE)) == 2, (
        table
    )


def test_cluster_feeds_hosts_that_only_wait() -> None:
    few = ("--nodes", "2", "--workers", "4", "--seconds", "0", "--factors", "4")
    table = _run("cluster.py", *few, "--only", "busy")
    assert re.search(r"^ +4 +2 +16 +\d+ +[\d.]+ s +[\d.]+% +[\d.]+% ", table, re.MULTILINE), table
    table = _run("cluster.py", *few, "--only", "bend")
    assert re.findall(r"^(pcm|flac) +16 +\d+/s +\d+/s ", table, re.MULTILINE) == ["pcm", "flac"], table


def test_cluster_measures_links_where_it_may_make_networks() -> None:
    table = _run("cluster.py", "--only", "link", "--mbits", "100", "--seconds", "0")
    assert re.search(r"^ +100( +[\d.]+){4}$|^no table of links: ", table, re.MULTILINE), table


def test_rivals_understand_the_same_words() -> None:
    """The daemon and two rivals; the others would have to be installed."""
    table = _run("rivals.py", "--short", "--no-command", "--only", "clips")
    rows = re.findall(
        r"^(daemon|WhisperModel|pipeline)(?: \+ malloc)? .* s +(\d+\.\d) % +\d+\.\d %", table, re.MULTILINE
    )
    assert [name for name, _ in rows] == ["daemon", *2 * ("WhisperModel",), *2 * ("pipeline",)], table
    assert all(float(percent) <= 5 for _, percent in rows), table
    assert "without the command whisper-ctranslate2: --no-command" in table
    assert "without the server wyoming-faster-whisper: --no-command" in table


def test_gpu_measures_a_cpu_too(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    few = ("--batch", "1", "--batches", "1", "--streams", "1", "--seconds", "1")
    table = _run("gpu.py", "--cpu", "--model", "random-tiny", *few, "--json", str(file))
    assert re.search(r"^daemon / engine alone: \d+\.\d\d", table, re.MULTILINE), table
    rows = json.loads(file.read_text())["rows"]
    assert [row["what"] for row in rows] == ["engine", "engine", "pipeline", "daemon"]
    assert all(row["took_s"] > 0 for row in rows)


def test_latency_shows_where_the_time_goes() -> None:
    table = _run("latency.py", "--drops", "1", "--settle", "0.1")
    assert re.search(r"^median( +-?\d+){6}$", table, re.MULTILINE), table


def test_latency_behind_waiting_files_is_printed() -> None:
    table = _run("latency.py", "--behind", "3")
    assert re.search(r"^first segments of two long files after [\d.]+ s, [\d.]+ s$", table, re.MULTILINE)
    assert re.search(r"^a clip of 10 s behind \{.*\}: [\d.]+ s$", table, re.MULTILINE), table
