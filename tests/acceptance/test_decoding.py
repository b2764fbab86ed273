"""Decoding options take effect, and decisions are in the JSON output and counted."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, InboxFolder, eventually
from subtitled.config import schema
from subtitled.core.transcription import DecisionKind

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIPS = 20
BATCH = 16


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon with one worker that takes no text for certain, and tries once more each time."""
    with Daemon(
        tmp_path_factory.mktemp("daemon"),
        model=schema.ModelConfig(name="demo", cpu_threads=1, batch_size=BATCH, beam_size=1),
        decoding=schema.DecodingConfig(
            log_prob_threshold=0.0, no_speech_threshold=1.0, temperatures=(0.0, 0.2), best_of=1
        ),
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=2),
        recovery=schema.RecoveryConfig(silence_s=3600, lease_min_s=3600),
        inboxes=(
            InboxFolder(options={"language": "en"}),
            InboxFolder(name="translated", options={"task": "translate"}),
        ),
    ) as running:
        yield running.start()


def count(daemon: Daemon, metric: str) -> float:
    """Return the sum of a metric over its labels."""
    return sum(value for name, value in daemon.scrape().items() if name.partition("{")[0] == metric)


def test_clips_dropped_together_share_leases(daemon: Daemon) -> None:
    """Twenty clips become ready while the worker is stopped, which makes it look slow: its leases are bounded by time."""
    before = count(daemon, "subtitled_batch_fill_ratio_count")
    worker = daemon.workers()["cpu0.1"]
    os.kill(worker, signal.SIGSTOP)
    clip = media.write_sound(daemon.folder / "clip.wav", media.speech(3.2))
    for number in range(CLIPS):
        daemon.drop(clip, f"clip{number}.wav")
    eventually(
        lambda: (stats := daemon.stats()).ready_segments + stats.leased_segments == CLIPS,
        "all clips are ready",
    )
    os.kill(worker, signal.SIGCONT)
    jobs = daemon.wait_for_jobs(CLIPS)
    assert {job.state for job in jobs} == {"done"}
    assert count(daemon, "subtitled_batch_fill_ratio_count") - before < CLIPS
    assert count(daemon, "subtitled_window_fill_ratio_count") >= CLIPS


def test_decisions_are_in_the_output_and_in_the_metrics(daemon: Daemon) -> None:
    daemon.wait_for(daemon.drop(media.DEMO / "demo-zh.flac", "reported.flac"))
    decisions = [one for segment in daemon.transcript("reported.en").segments for one in segment.decisions]
    assert decisions
    assert {(one.verdict, one.cause, one.temperature) for one in decisions} >= {
        (DecisionKind.FALLBACK, "log_prob", 0.2)
    }
    counted = daemon.scrape()
    assert counted['subtitled_fallbacks_total{cause="log_prob",temperature="0.2"}'] >= len(decisions)
    assert counted['subtitled_segment_languages_total{language="en"}'] >= 1


def test_a_translation_is_english_by_its_text_and_its_name(daemon: Daemon) -> None:
    source = media.DEMO / "demo-zh.flac"
    daemon.wait_for(daemon.drop(source, "talk.flac", inbox=daemon.folder / "translated"))
    text = (daemon.folder / "translated-out" / "talk.en.srt").read_text("utf-8")
    assert "window" in text
    assert text.isascii()
