"""What the model cannot be sure of is decoded again, told and counted: damaged recordings, default settings, the real path.

`tools/demo_model/recordings.py` made them: a scratched disc that repeats a word thirty times, and a sentence that is
played too slowly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import media
from daemon import Daemon, InboxFolder
from subtitled.config import schema
from subtitled.core.transcription import DecisionKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from subtitled.core.transcription import DecodingDecision

CAUSES = {"skipping": "compression_ratio", "slow": "log_prob"}
"""By what measure each is doubted at first."""
TEMPERATURES = schema.DecodingConfig().temperatures
SURE = "demo"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run a daemon as anybody would, and give it a good recording and the damaged ones."""
    with Daemon(
        tmp_path_factory.mktemp("daemon"),
        inboxes=(InboxFolder(options={"language": "en"}),),
        segments=schema.SegmentsConfig(),
    ) as running:
        running.drop(media.DEMO / "demo.flac", f"{SURE}.flac")
        for name in CAUSES:
            running.drop(media.DAMAGED / f"{name}.flac", f"{name}.flac")
        running.start()
        jobs = running.wait_for_jobs(1 + len(CAUSES))
        assert {job.state for job in jobs} == {"done"}
        yield running


def decisions(daemon: Daemon, name: str) -> list[DecodingDecision]:
    return [one for segment in daemon.transcript(f"{name}.en").segments for one in segment.decisions]


def text(daemon: Daemon, name: str) -> str:
    phrases = (phrase for segment in daemon.transcript(f"{name}.en").segments for phrase in segment.phrases)
    return "".join(phrase.text for phrase in phrases)


def test_of_a_good_recording_the_model_is_sure(daemon: Daemon) -> None:
    assert decisions(daemon, SURE) == []


@pytest.mark.parametrize("name", CAUSES)
def test_a_damaged_one_is_decoded_again_and_the_output_says_why(daemon: Daemon, name: str) -> None:
    told = decisions(daemon, name)
    assert (told[0].verdict, told[0].cause, told[0].temperature) == (
        DecisionKind.FALLBACK,
        CAUSES[name],
        TEMPERATURES[1],
    )
    tried = [one.temperature for one in told if one.verdict == DecisionKind.FALLBACK]
    assert tried == list(TEMPERATURES[1 : 1 + len(tried)]), "one temperature after the other"


def test_each_second_try_is_counted_by_its_cause(daemon: Daemon) -> None:
    counted = daemon.scrape()
    for cause in set(CAUSES.values()):
        told = sum(
            one.verdict == DecisionKind.FALLBACK and (one.cause, one.temperature) == (cause, TEMPERATURES[1])
            for name in CAUSES
            for one in decisions(daemon, name)
        )
        labels = f'cause="{cause}",temperature="{TEMPERATURES[1]}"'
        assert counted[f"subtitled_fallbacks_total{{{labels}}}"] == told >= 1


def test_a_loop_does_not_reach_the_subtitles(daemon: Daemon) -> None:
    """The word is there, not thirty times, and the decision is told."""
    said = text(daemon, "skipping")
    assert said.startswith("The train from the station to the beach leaves at nine")
    assert said.count("nine") <= schema.DecodingConfig().max_repeats
    assert DecisionKind.LOOP in {one.verdict for one in decisions(daemon, "skipping")}
