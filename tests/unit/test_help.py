"""The help of every command fits the terminal, uses its width, and cuts no line off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from subtitle.cli import cli as client
from subtitled.cli import cli as daemon

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of a command and of all its sub-commands."""
    yield path
    if isinstance(command, click.Group):
        for name, sub in sorted(command.commands.items()):
            yield from commands(sub, (*path, name))


PAGES = [(program, path) for program in (client, daemon) for path in commands(program)]


def page(program: click.Group, path: tuple[str, ...], columns: int) -> list[str]:
    """Return the help of a command as a terminal of this width shows it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        command: click.Command = program
        context = click.Context(program, info_name=program.name, **program.context_settings)
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
            context = click.Context(command, info_name=name, parent=context, **command.context_settings)
        return command.get_help(context).splitlines()


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize(
    ("program", "path"), PAGES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.name
)
def test_no_line_of_help_is_cut_off_or_wider_than_the_terminal(
    program: click.Group, path: tuple[str, ...], columns: int
) -> None:
    lines = page(program, path, columns)
    assert [line for line in lines if line.rstrip().endswith("...") and "[ARGS]" not in line] == []
    assert [line for line in lines if len(line) > columns and "subtitle completion" not in line] == []
    assert [line for line in lines if "\\b" in line] == [], "click reads the character, not its escape"


@pytest.mark.parametrize("program", [client, daemon], ids=lambda program: program.name)
def test_help_uses_the_width_of_the_terminal(program: click.Group) -> None:
    width = {columns: max(len(line) for line in page(program, (), columns)) for columns in (60, 80, 120)}
    assert 60 >= width[60] > 50
    assert 80 >= width[80] > 65
    assert 120 >= width[120] > 80


@pytest.mark.parametrize(
    ("program", "path"), PAGES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.name
)
def test_each_option_has_a_description(program: click.Group, path: tuple[str, ...]) -> None:
    command: click.Command = program
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, (path, parameter.name)
