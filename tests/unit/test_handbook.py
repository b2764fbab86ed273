"""What the documents name is there: tests, files, sections."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "benchmarks" / "README.md"])


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text("utf-8")):
        assert f"def {test}(" in (ROOT / path).read_text("utf-8"), test


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text("utf-8")), target


def test_everything_that_is_defended_has_its_test() -> None:
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    table = text.partition("## What is defended")[2].partition("## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 15
    assert [row for row in rows if "`tests/" not in row] == []


def test_the_lines_of_the_doctor_that_a_symptom_names_are_its_own() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    table = text.partition("| symptom | doctor's line |")[2].partition("\n\n")[0]
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "daemon/subtitled/doctor").glob("*.py"))
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    names = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} - {"--file"}
    assert len(names) > 10
    for name in names:
        bare = name.removeprefix("gpu0 ").removesuffix(" …")
        assert re.search(f'["}} ]{re.escape(bare)}["{{ ]', sources), name
