"""Audio files made from the demo recording, their true text, and word errors against it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

RATE = 16_000
DEMO = Path(__file__).parents[2] / "daemon" / "subtitled" / "demo"
LANGUAGE = "en"


def recording() -> NDArray[np.int16]:
    """Return the English demo recording, int16 (n,), 16 kHz mono; 58 s."""
    import soundfile

    speech, _ = soundfile.read(DEMO / "demo.flac", dtype="int16")
    return speech  # type: ignore[no-any-return]


def sentences() -> list[tuple[float, float, str]]:
    """Return the sentences of the recording: start and end in seconds, and the words."""
    rows = (row.split("\t") for row in (DEMO / "demo.txt").read_text("utf-8").splitlines())
    return [(float(start), float(end), text) for start, end, text, *_ in rows]


def make_files(
    folder: Path, minutes: float, files: int, *, name: str = "talk"
) -> tuple[list[Path], str, float]:
    """Write the recording again and again, with pauses up to 8 s, to so many FLAC files of so many minutes in all.

    Return the files, the true text of all of them, and their length in seconds.
    """
    import numpy as np
    import soundfile

    speech = recording()
    truth = " ".join(text for _, _, text in sentences())
    recordings, samples, paths = 0, 0, []
    for number in range(files):
        path = folder / f"{name}{number}.flac"
        paths.append(path)
        with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as sound:
            # Whole recordings only, so that the truth is known to the word.
            while samples == 0 or samples < minutes * 60 * RATE * (number + 1) / files:
                pause = np.zeros(recordings % 5 * 2 * RATE, np.int16)
                for block in (speech, pause):
                    sound.write(block)
                    samples += len(block)
                recordings += 1
    return paths, " ".join([truth] * recordings), samples / RATE


def make_warmup(folder: Path) -> Path:
    """Write the first ten seconds of the recording to a file."""
    import soundfile

    path = folder / "warmup.flac"
    soundfile.write(path, recording()[: 10 * RATE], RATE)
    return path


def words(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation; of Chinese, Japanese and Korean the characters."""
    spaced = re.sub(r"([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])", r" \1 ", text.casefold())
    return re.findall(r"(?:[^\W\d_]|')+", spaced)


def word_errors(truth: Sequence[str], said: Sequence[str]) -> int:
    """Return how many words must be put in, left out or replaced to make one of the other (Levenshtein)."""
    import numpy as np

    ids = {word: number for number, word in enumerate({*truth, *said})}
    heard = np.array([ids[word] for word in said])
    steps = np.arange(len(said) + 1)
    row = steps.copy()
    for number, word in enumerate(truth, 1):
        reached = np.minimum(row[1:] + 1, row[:-1] + (heard != ids[word]))
        # Words put in: each costs one more than the best place to its left.
        row = np.minimum.accumulate(np.concatenate(([number], reached)) - steps) + steps
    return int(row[-1])


def srt_text(path: Path) -> str:
    """Return the text of a SubRip file as one line, without numbers and times."""
    lines = path.read_text("utf-8").splitlines()
    return " ".join(line for line in lines if "-->" not in line and not line.isdigit())
