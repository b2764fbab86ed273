"""What a command's options ask of a job."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from subtitle.commands.job_options import chosen, job_options


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
