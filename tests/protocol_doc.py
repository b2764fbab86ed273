"""docs/protocol.md, parsed: its sections, tables, error codes and exchanges."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text("utf-8")
ERRORS = frozenset(re.findall(r"^\| `([A-Z_]+)` \| (?=.)", TEXT, re.MULTILINE))


def section(name: str) -> str:
    """Return the text below a message's heading."""
    found = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section about {name}"
    return found[1]


def table(name: str) -> dict[str, tuple[str, str, str]]:
    """Return type, default and description of each field in a message's section."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?)\|(.*)\|$", section(name), re.MULTILINE)
    return {field: (kind, default.strip(), text) for field, kind, default, text in rows}


def _exchanges() -> Iterator[tuple[str, list[bytes], dict[str, Any]]]:
    """Yield each example: its sender, its frames and its decoded header."""
    for block in re.findall(r"^```frames\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        frames: list[bytes] = []
        said: dict[str, Any] = {}
        side = ""
        for line in block.splitlines():
            if line.startswith("  {"):
                said = json.loads(line)
                continue
            data = bytes.fromhex(line[2:])
            if line[0] == " ":
                frames[-1] += data
            elif data == b"\x01":
                if frames:
                    yield side, frames, said
                frames, side = [data], line[0]
            else:
                frames.append(data)
        yield side, frames, said


EXAMPLES = list(_exchanges())
