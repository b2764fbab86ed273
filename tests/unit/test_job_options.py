"""What a command's options ask of a job."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from subtitle.commands.job_options import chosen, job_options
from subtitle.errors import OptionError


@pytest.mark.parametrize(
    ("said", "asked"),
    [((), "auto"), (("--word-timestamps",), "True"), (("--no-word-timestamps",), "False")],
)
def test_word_timestamps_are_auto_unless_an_option_is_given(said: tuple[str, ...], asked: str) -> None:
    @click.command()
    @job_options
    def show(**words: Any) -> None:
        click.echo(chosen(words).word_timestamps)

    assert CliRunner().invoke(show, said).output.strip() == asked


def options_for(*words: str) -> Result:
    @click.command()
    @job_options
    def show(**keywords: Any) -> None:
        try:
            found = chosen(keywords)
        except OptionError as error:
            raise click.UsageError(str(error)) from error
        click.echo(f"{found.task} {found.tasks} {found.flags} {found.chinese}")

    return CliRunner().invoke(show, words)


def test_tasks_flags_and_chinese_are_options_of_a_command() -> None:
    assert options_for().output.strip() == "transcribe () () auto"
    assert options_for("--translate").output.startswith("translate ")
    both = options_for("--tasks", "transcribe,translate", "--flags", "sdh, forced", "--chinese", "tw")
    assert both.output.strip() == "transcribe ('transcribe', 'translate') ('sdh', 'forced') tw"


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
