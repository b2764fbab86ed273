"""A doubtful result is decoded again, logged and counted: damaged recordings, a real daemon and the demo model.

`tools/demo_model/recordings.py` made them: a scratched disc that repeats a word thirty times, and a sentence that is
played too slowly. Results differ in the last bits from CPU to CPU; the tests hold for all of them
(`MKL_ENABLE_INSTRUCTIONS=AVX2` or `SSE4_2`, `CT2_FORCE_CPU_ISA=GENERIC`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, InboxFolder
from subtitled.config import schema
from subtitled.core.transcription import DecisionKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from subtitled.core.transcription import DecodingDecision

REASONS = {"skipping": "compression_ratio", "slow": "log_prob"}
"""The measure by which the first result of each recording looks wrong."""
# On one CPU or another the slow recording has -1.10 to -0.95, the good one at least -0.1: the default, -1, is too close.
DECODING = schema.DecodingConfig(log_prob_threshold=-0.5)
TEMPERATURES = DECODING.temperatures
GOOD = "demo"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon with a good recording and the damaged ones in its inbox."""
    with Daemon(
        tmp_path_factory.mktemp("daemon"),
        inboxes=(InboxFolder(options={"language": "en"}),),
        segments=schema.SegmentsConfig(),
        decoding=DECODING,
    ) as running:
        running.drop(media.DEMO / "demo.flac", f"{GOOD}.flac")
        for name in REASONS:
            running.drop(media.DAMAGED / f"{name}.flac", f"{name}.flac")
        running.start()
        jobs = running.wait_for_jobs(1 + len(REASONS))
        assert {job.state for job in jobs} == {"done"}
        yield running


def decisions(daemon: Daemon, name: str) -> list[DecodingDecision]:
    return [one for segment in daemon.transcript(f"{name}.en").segments for one in segment.decisions]


def text(daemon: Daemon, name: str) -> str:
    phrases = (phrase for segment in daemon.transcript(f"{name}.en").segments for phrase in segment.phrases)
    return "".join(phrase.text for phrase in phrases)


def test_a_good_recording_is_decoded_once(daemon: Daemon) -> None:
    assert decisions(daemon, GOOD) == []


@pytest.mark.parametrize("name", REASONS)
def test_a_damaged_recording_is_decoded_again_and_the_output_says_why(daemon: Daemon, name: str) -> None:
    reported = decisions(daemon, name)
    assert (reported[0].verdict, reported[0].cause, reported[0].temperature) == (
        DecisionKind.FALLBACK,
        REASONS[name],
        TEMPERATURES[1],
    )
    tried = [one.temperature for one in reported if one.verdict == DecisionKind.FALLBACK]
    firsts = [at for at, temperature in enumerate(tried) if temperature == TEMPERATURES[1]]
    for first, end in pairwise([*firsts, len(tried)]):
        window = tried[first:end]
        assert window == list(TEMPERATURES[1 : 1 + len(window)]), "one temperature after the other"


def test_each_fallback_is_counted_by_its_cause(daemon: Daemon) -> None:
    counted = daemon.scrape()
    for cause in set(REASONS.values()):
        reported = sum(
            one.verdict == DecisionKind.FALLBACK and (one.cause, one.temperature) == (cause, TEMPERATURES[1])
            for name in REASONS
            for one in decisions(daemon, name)
        )
        labels = f'cause="{cause}",temperature="{TEMPERATURES[1]}"'
        assert counted[f"subtitled_fallbacks_total{{{labels}}}"] == reported >= 1


def test_a_loop_does_not_reach_the_subtitles(daemon: Daemon) -> None:
    """The word is there, but not thirty times, and the decision is in the output."""
    said = text(daemon, "skipping")
    assert said.startswith("The train from the station to the beach leaves at nine")
    assert said.count("nine") <= schema.DecodingConfig().max_repeats
    assert DecisionKind.LOOP in {one.verdict for one in decisions(daemon, "skipping")}
