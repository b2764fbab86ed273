"""Tests, files and sections that the documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*.md"),
        *(ROOT / folder / "README.md" for folder in ("benchmarks", "examples")),
        ROOT / "tools" / "demo_model" / "MODEL.md",
    ]
)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(page: Path) -> None:
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text("utf-8")):
        assert f"def {test}(" in (ROOT / path).read_text("utf-8"), test


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_have_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text("utf-8")), target


def test_every_defence_names_its_test() -> None:
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    table = text.partition("## What is defended")[2].partition("## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 15
    assert [row for row in rows if "`tests/" not in row] == []


def test_doctor_lines_in_the_table_of_symptoms_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    table = text.partition("| symptom | doctor's line |")[2].partition("\n\n")[0]
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "daemon/subtitled/doctor").glob("*.py"))
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")]
    names = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} - {"--file"}
    assert len(names) > 10
    for name in names:
        bare = name.removeprefix("gpu0 ").removesuffix(" …")
        assert re.search(f'["}} ]{re.escape(bare)}["{{ ]', sources), name


def test_every_decision_is_listed_with_its_date() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text("utf-8")
    for path in folder.glob("0*.md"):
        assert f"({path.name})" in listed, path.name
        assert re.search(r"^Date: \d{4}-\d\d-\d\d$", path.read_text("utf-8"), re.MULTILINE), path.name


def test_modules_that_a_page_names_exist() -> None:
    """`core/states.py`, `core.throughput`: paths and dotted names of the daemon's packages."""
    package = ROOT / "daemon" / "subtitled"
    packages = "|".join(sorted(path.name for path in package.iterdir() if (path / "__init__.py").exists()))
    for page in PAGES:
        text = page.read_text("utf-8")
        for name in re.findall(rf"`(?:daemon/subtitled/)?((?:{packages})/\w+\.py)`", text):
            assert (package / name).exists(), f"{page.name}: {name}"
        for name in re.findall(
            r"`((?:asr|core|cues|inboxes|output|runtime|storage|workers)\.[a-z_]+)`", text
        ):
            found = package / name.replace(".", "/")
            assert found.with_suffix(".py").exists(), f"{page.name}: {name}"


def test_architecture_names_only_names_of_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    source = "".join(path.read_text("utf-8") for path in (ROOT / "daemon" / "subtitled").rglob("*.py"))
    for name in re.findall(r"`((?:[A-Z][a-z]+){2,}|[A-Z]\w+\.\w+)(?:\(.*?\))?`", text):
        for part in name.split("."):
            assert re.search(rf"(?:class|def) {part}\b", source), name


def test_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
