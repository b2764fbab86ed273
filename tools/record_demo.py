"""Record `subtitled demo` as a picture of a terminal: `make recording`, or `python tools/record_demo.py [FILE]`.

The command runs on a pseudo-terminal, so that it prints colours and its progress bars; the picture shows the final screen.
"""

from __future__ import annotations

import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

FILE = Path(__file__).parents[1] / "docs" / "images" / "demo.svg"
COLUMNS = 112
CUES = 3
"""Cues of each file that the picture shows."""
_MOVES_UP = re.compile(r"\r?(?:\x1b\[1A\x1b\[2K)+|\x1b\[2K\r?(?:\x1b\[1A\x1b\[2K)*")
"""What rich writes before it draws its progress bars again."""
_CURSOR = re.compile(r"\x1b\[\?25[hl]")


def record(command: list[str]) -> str:
    """Run a command on a terminal of COLUMNS columns; return its output. Raises SystemExit if it fails."""
    os.environ.update(COLUMNS=str(COLUMNS), LINES="60", TERM="xterm-256color")
    output = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 65536)
        output.extend(data)
        return data

    if status := os.waitstatus_to_exitcode(pty.spawn(command, read)):
        raise SystemExit(status)
    return output.decode()


def final_screen(output: str) -> list[str]:
    """Return the lines that stay on the screen: those that were drawn again replace the earlier ones."""
    lines: list[str] = [""]
    position = 0
    text = _CURSOR.sub("", output).replace("\r\n", "\n")
    for found in _MOVES_UP.finditer(text):
        _append(lines, text[position : found.start()])
        position = found.end()
        for _ in range(found[0].count("\x1b[1A")):
            lines.pop()
        lines[-1] = ""
    _append(lines, text[position:])
    return lines


def shortened(lines: list[str]) -> list[str]:
    """Return the lines with the first CUES cues of each file."""
    kept: list[str] = []
    is_left_out = False
    for line in lines:
        if line.strip() == str(CUES + 1):
            is_left_out = True
            kept.append("...")
        elif ".srt" in line or line.startswith("Complete"):
            kept += [""] * is_left_out
            is_left_out = False
        if not is_left_out:
            kept.append(line)
    return kept


def _append(lines: list[str], text: str) -> None:
    first, *others = text.split("\n")
    lines[-1] += first
    lines.extend(others)


def main(arguments: list[str]) -> int:
    """Record and write the picture; return the exit status."""
    lines = final_screen(record([sys.executable, "-m", "subtitled", "demo"]))
    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    console.print(Text("$ make demo", style="bold"))
    for line in shortened(lines):
        console.print(Text.from_ansi(line))
    picture = console.export_svg(title="subtitled", unique_id="demo")
    # The font is linked from the network otherwise.
    # Wide characters take two columns, which their given length does not allow for.
    picture = re.sub(r' textLength="[^"]*"(?=[^>]*>[^<]*[\u2e80-\uffef])', "", picture)
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    Path(arguments[0] if arguments else FILE).write_text(picture, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
