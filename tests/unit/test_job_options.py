"""What a command's options ask of a job."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from subtitle.commands.job_options import job_options, job_options_of
from subtitle.errors import OptionError
from subtitle.requests import options_of


@pytest.mark.parametrize(
    ("said", "asked"),
    [((), "auto"), (("--word-timestamps",), "True"), (("--no-word-timestamps",), "False")],
)
def test_word_timestamps_are_auto_unless_an_option_is_given(said: tuple[str, ...], asked: str) -> None:
    @click.command()
    @job_options
    def show(**words: Any) -> None:
        click.echo(job_options_of(words).word_timestamps)

    assert CliRunner().invoke(show, said).output.strip() == asked


def options_for(*words: str) -> Result:
    @click.command()
    @job_options
    def show(**keywords: Any) -> None:
        try:
            found = job_options_of(keywords)
        except OptionError as error:
            raise click.UsageError(str(error)) from error
        click.echo(f"{found.task} {found.tasks} {found.flags} {found.chinese} {found.audio_track}")

    return CliRunner().invoke(show, words)


def test_tasks_flags_and_chinese_are_options_of_a_command() -> None:
    assert options_for().output.strip() == "transcribe () () auto auto"
    assert options_for("--translate").output.startswith("translate ")
    both = options_for("--tasks", "transcribe,translate", "--flags", "sdh, forced", "--chinese", "tw")
    assert both.output.strip() == "transcribe ('transcribe', 'translate') ('sdh', 'forced') tw auto"
    assert options_for("--audio-track", "2").output.endswith(" 2\n")
    assert options_for("--audio-track", "ja").output.endswith(" ja\n")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--translate", "--task", "transcribe"), "--translate contradicts --task"),
        (("--task", "translate", "--tasks", "transcribe"), "--task contradicts --tasks"),
        (("--tasks", "summarize"), "tasks"),
        (("--flags", "loud"), "flags"),
        (("--chinese", "simplified"), "cn+words"),
    ],
)
def test_contradictory_and_unknown_values_are_rejected(words: tuple[str, ...], reason: str) -> None:
    result = options_for(*words)
    assert result.exit_code == 2
    assert reason in result.output


@pytest.mark.parametrize(
    ("keywords", "fault"),
    [
        ({"priority": 1000}, "priority: 1000 is not allowed (at most 100)"),
        ({"vad": {"threshold": 1}}, "vad.threshold: 1 is not allowed (less than 1.0)"),
        ({"initial_prompt": "x" * 1001}, "initial_prompt: 1001 characters are not allowed (at most 1000)"),
        ({"formats": ["srt"] * 17}, "formats: 17 entries are not allowed (at most 16)"),
        ({"flags": ["loud"]}, "flags[0]: unknown value 'loud'"),
        ({"priority": "high"}, "priority: Expected int, got str"),
    ],
)
def test_fault_of_an_option_has_its_value_and_limit_in_words(keywords: dict[str, Any], fault: str) -> None:
    with pytest.raises(OptionError) as refused:
        options_of(None, keywords)  # type: ignore[arg-type]
    assert str(refused.value) == fault
