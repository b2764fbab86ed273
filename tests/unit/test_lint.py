"""The checks of `tools/lint` find planted faults, and name the place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from lint import prose, structure

_PAGE = Path("docs/page.md")
_MODULE = Path("daemon/subtitled/module.py")


@pytest.mark.parametrize(
    ("line", "phrase", "remedy"),
    [
        ("The log tells what becomes of it.", "what becomes", "status, outcome, result"),
        ("The worker goes on where it was.", "goes on where", "resume"),
        ("class Desk:", "desk", "handlers"),
        ("    def _tell_watchers(self) -> None:", "def _tell_watchers(", "usual verb"),
        ("    def look(self) -> None:", "def look(", "usual verb"),
        ("# A daemon says so.", "daemon says", "send, report, need"),
        ("deadline = self.patience_s", "patience_s", "poll_timeout_s"),
        ('"if nothing else is said"', "nothing else is said", "by default"),
    ],
)
def test_banned_phrase_is_found_with_its_remedy(line: str, phrase: str, remedy: str) -> None:
    found = list(prose.phrases(_MODULE, f"first = 1\n{line}\n"))
    assert {finding.line for finding in found} == {2}
    assert any(f'"{phrase}"' in finding.message.lower() and remedy in finding.message for finding in found), (
        found
    )


@pytest.mark.parametrize(
    "text",
    [
        "A file is decoded by\nitself.",
        "# A file is decoded by\n# itself.",
        'raise E("a file is decoded by "\n        "itself")',
        'raise E("a file is decoded by "\n        f"itself {x}")',
    ],
)
def test_banned_phrase_is_found_across_a_line_break(text: str) -> None:
    (finding,) = prose.phrases(_MODULE, text)
    assert (finding.line, '"by' in finding.message) == (1, True)


@pytest.mark.parametrize(
    "line",
    [
        "position = file.tell()",
        "class Handler(ast.NodeVisitor):",
        "the indoor recording appears in the notebook",
        'WORDS = "nobody"  # prose: allow',
    ],
)
def test_usual_words_are_allowed(line: str) -> None:
    assert list(prose.phrases(_MODULE, line)) == []


def test_a_wide_line_of_a_page_is_found() -> None:
    text = "short\n" + "word " * 21 + "\n"
    assert [str(finding) for finding in prose.wide_lines(_PAGE, text)] == [
        "docs/page.md:2: line wider than 100 columns; wrap it"
    ]


@pytest.mark.parametrize("start", ["| ", "    ", "![", "<", "https://example.com/"])
def test_tables_code_pictures_and_lone_links_may_be_wide(start: str) -> None:
    text = start + ("word " * 30 if start != "https://example.com/" else "w" * 120)
    assert list(prose.wide_lines(_PAGE, text)) == []
    fenced = f"```\n{'word ' * 30}\n```\n"
    assert list(prose.wide_lines(_PAGE, fenced)) == []


def test_a_class_name_that_two_modules_have_is_found() -> None:
    sources = {
        Path("a.py"): "class Job:\n    pass\nclass _Own: ...\n",
        Path("b.py"): "class _Own: ...\nclass Job: ...\n",
    }
    assert [str(finding) for finding in structure.public_classes(sources)] == [
        "b.py:2: class Job is defined in a.py too; rename one of them"
    ]


def test_packages_and_class_names_of_the_tree_keep_the_rules() -> None:
    assert structure.check() == []


@pytest.mark.long
def test_words_of_the_tree_are_the_usual_ones() -> None:
    assert prose.check() == []
